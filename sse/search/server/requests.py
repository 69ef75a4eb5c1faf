"""What the requests of the server hold, checked, and what their answers hold."""

from __future__ import annotations

import base64
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from sse.search.hits import Hit
from sse.search.index import Index
from sse.search.snippets import matches, snippets

MODES = Literal["hybrid", "dense", "keyword"]


class EmbeddingRequest(BaseModel):
    """The body of POST /v1/embeddings, as OpenAI has it, and a model's prompt."""

    model_config = ConfigDict(extra="ignore")  # clients send `model`, `user` and others

    input: str | list[str] = Field(description="one text or several")
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1, description="the first dimensions only (Matryoshka)")
    prompt_name: str | None = Field(None, description="a prompt of the model, such as `query`")


class SearchRequest(BaseModel):
    """The body of POST /search; see `sse.Index.search`."""

    model_config = ConfigDict(extra="forbid")

    query: str | list[str]
    k: int = Field(10, ge=1)
    mode: MODES = "hybrid"
    where: str | None = None
    least: float | None = None
    grouped: bool = True


def embedding_answer(
    vectors: NDArray[np.float32], request: EmbeddingRequest, model: str, tokens: int
) -> dict[str, Any]:
    """The answer with vectors (n, dim); base64 is of little-endian float32."""
    if request.encoding_format == "base64":
        packed = vectors.astype("<f4", copy=False)
        values = [base64.b64encode(row.tobytes()).decode() for row in packed]
    else:
        values = vectors.tolist()
    data = [
        {"object": "embedding", "index": n, "embedding": value} for n, value in enumerate(values)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": model, "usage": usage}


def search_answer(query: str, hits: list[Hit], index: Index, seconds: float) -> dict[str, Any]:
    """The hits of one query, each with a snippet and the places of the query's words in it."""
    shown = snippets([hit.text for hit in hits], query, index.model)
    found = [
        {**asdict(hit), "snippet": text, "marks": matches(text, query)}
        for hit, text in zip(hits, shown, strict=True)
    ]
    return {"query": query, "seconds": round(seconds, 6), "hits": found}
