"""A server of `/v1/embeddings` to compare with: `python -m experiments.benchmarks.serving_peers`.

It is what a user would write with FastAPI around sentence-transformers. With `bare` in place of a
model's folder nothing is encoded: every request gets the same answer, so that the rest is known.
"""

from __future__ import annotations

import socket
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

BARE = "bare"


class Body(BaseModel):
    """A request of OpenAI's API."""

    input: str | list[str]
    model: str = ""


def answer(vectors: list[list[float]]) -> dict[str, Any]:
    """An answer of OpenAI's API."""
    data = [{"object": "embedding", "index": n, "embedding": v} for n, v in enumerate(vectors)]
    usage = {"prompt_tokens": 0, "total_tokens": 0}
    return {"object": "list", "data": data, "model": "peer", "usage": usage}


def make_app(folder: str) -> FastAPI:
    """The application around the model in `folder`, or around none."""
    app = FastAPI()
    if folder == BARE:

        @app.post("/v1/embeddings")
        async def bare(body: Body) -> dict[str, Any]:
            return answer([])

        return app
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder, device="cpu")

    @app.post("/v1/embeddings")
    async def embeddings(body: Body) -> dict[str, Any]:  # no thread, which is faster at one text
        texts = [body.input] if isinstance(body.input, str) else body.input
        made = model.encode(texts, normalize_embeddings=True, show_progress_bar=False)
        return answer(made.tolist())

    return app


if __name__ == "__main__":
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)  # so who reads the line below can connect at once
        application = make_app(sys.argv[1])
        sys.stderr.write(f"serving at http://127.0.0.1:{listener.getsockname()[1]}/\n")
        sys.stderr.flush()
        config = uvicorn.Config(application, log_level="error", access_log=False)
        uvicorn.Server(config).run(sockets=[listener])
