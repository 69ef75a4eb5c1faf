"""The server's routes: search, embeddings as OpenAI's API has them, health, metrics, a page."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, Response
from pydantic import ValidationError
from pydantic_core import to_json

from sse.common.errors import UserError
from sse.common.machine import cores
from sse.common.version import __version__
from sse.search.index import Index
from sse.search.server.guard import LOOPBACK, Guard, Limits, Metrics, Refused, error_body
from sse.search.server.requests import (
    EmbeddingRequest,
    SearchRequest,
    embedding_answer,
    search_answer,
)
from sse.serving.encoder import Encoder

PAGE = Path(__file__).parent / "page"
POLL = 2.0  # seconds between looks for a newer version of the index
SMALL = 4_000  # characters that are encoded at once, without a thread, which costs more

T = TypeVar("T")


class Server:
    """What the routes share.

    Args:
        index: the index to search; None serves embeddings alone.
        model: the model of embeddings; by default the index's.
        limits: bounds of a request.
    """

    def __init__(self, index: Index | None, model: Encoder | None, limits: Limits) -> None:
        if index is None and model is None:
            raise UserError("nothing to serve: name an index, or a model with `model`")
        self.index, self.limits, self.metrics = index, limits, Metrics()
        self.model = model or index.model  # type: ignore[union-attr]
        self.name = self.model.folder.name
        _ = self.model.tokenizer.engine  # proven now, not amid the 256th request
        self._threads: CapacityLimiter | None = None

    async def in_thread(self, work: Callable[[], T]) -> T:
        """`work()` on one of as many threads as there are cores."""
        if self._threads is None:
            self._threads = CapacityLimiter(cores())
        return await to_thread.run_sync(work, limiter=self._threads, abandon_on_cancel=True)

    async def follow(self) -> None:
        """Go on with newer versions of the index, for ever."""
        while self.index is not None:
            await asyncio.sleep(POLL)
            with contextlib.suppress(UserError):  # being written, or gone: the old one stays
                self.index = await self.in_thread(self.index.latest)

    async def embed(self, request: EmbeddingRequest) -> dict[str, Any]:
        """The answer to an embedding request."""
        texts = [request.input] if isinstance(request.input, str) else request.input
        self._check_batch(len(texts))

        def work() -> dict[str, Any]:
            vectors = self.model.encode(
                texts, dim=request.dimensions, prompt_name=request.prompt_name
            )
            tokens = len(self.model.tokenizer.encode(texts, False).ids)
            return embedding_answer(vectors, request, self.name, tokens)

        small = sum(map(len, texts)) <= SMALL
        answer = work() if small else await self.in_thread(work)
        self.metrics.texts.inc(len(texts))
        return answer

    async def search(self, request: SearchRequest) -> list[dict[str, Any]]:
        """An answer per query."""
        index = self.index
        if index is None:
            raise UserError("no index is served: start 'sse serve' with one")
        if request.k > self.limits.hits:
            raise UserError(f"k {request.k}: give at most {self.limits.hits:,}")
        queries = [request.query] if isinstance(request.query, str) else request.query
        self._check_batch(len(queries))

        def work(query: str) -> dict[str, Any]:
            start = time.perf_counter()
            hits = index.search(
                query, request.k, request.mode, request.where, request.least, request.grouped
            )[0]
            return search_answer(query, hits, index, time.perf_counter() - start)

        self.metrics.queries.inc(len(queries))
        return [await self.in_thread(partial(work, query)) for query in queries]

    def _check_batch(self, count: int) -> None:
        if not 1 <= count <= self.limits.batch:
            raise UserError(f"{count:,} texts: give 1 to {self.limits.batch:,} in a request")


def make_app(
    index: Index | None,
    model: Encoder | None = None,
    limits: Limits = Limits(),  # noqa: B008  frozen
    token: str | None = None,
    hosts: tuple[str, ...] | None = LOOPBACK,
) -> Guard:
    """The ASGI application; the arguments are those of `Server` and `Guard`."""
    server = Server(index, model, limits)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        following = asyncio.create_task(server.follow())
        yield
        following.cancel()

    app = FastAPI(
        title="Stable Static Embedding", version=__version__, lifespan=lifespan,
        docs_url=None, redoc_url=None,  # their pages come from other servers
    )  # fmt: skip
    for kind in (UserError, ValidationError, Refused):
        app.add_exception_handler(kind, _bad_request)
    _add_api(app, server)
    _add_page(app, server)
    return Guard(app, limits, server.metrics, token, hosts)


def _add_api(app: FastAPI, server: Server) -> None:
    # Bodies are parsed and answers written by pydantic alone: FastAPI's own way takes longer than
    # the encoding of a text.
    @app.post("/v1/embeddings", openapi_extra=_body(EmbeddingRequest))
    async def embeddings(request: Request) -> Response:
        """Vectors of texts, in the form of OpenAI's API."""
        asked = EmbeddingRequest.model_validate_json(await request.body())
        return _json(await server.embed(asked))

    @app.get("/v1/models")
    async def models() -> Response:
        """The one model that is served."""
        model = {"id": server.name, "object": "model", "created": 0, "owned_by": "sse"}
        return _json({"object": "list", "data": [model]})

    @app.post("/search", openapi_extra=_body(SearchRequest))
    async def search(request: Request) -> Response:
        """The hits of one query, or a list of answers for a list of queries."""
        asked = SearchRequest.model_validate_json(await request.body())
        answers = await server.search(asked)
        return _json(answers[0] if isinstance(asked.query, str) else answers)

    @app.get("/search")
    async def search_by_address(request: Request) -> Response:
        """The same with the fields in the address: /search?query=...&k=5."""
        asked = SearchRequest.model_validate_strings(dict(request.query_params))
        return _json((await server.search(asked))[0])


def _add_page(app: FastAPI, server: Server) -> None:
    @app.get("/health")
    async def health() -> Response:
        """What is served."""
        index = server.index
        return _json({
            "status": "ok", "model": server.name, "dim": server.model.dim,
            "passages": None if index is None else len(index),
            "columns": [] if index is None else index.columns,
        })  # fmt: skip

    @app.get("/metrics")
    async def metrics() -> Response:
        """Counters for Prometheus."""
        return Response(server.metrics.text(), media_type="text/plain; version=0.0.4")

    for path, name in (("/", "index.html"), ("/page.js", "page.js"), ("/page.css", "page.css")):
        app.add_route(path, _file(PAGE / name))


def _file(path: Path) -> Callable[[Request], Awaitable[Response]]:
    """A handler that answers with a file."""

    async def answer(request: Request) -> Response:
        return FileResponse(path)

    return answer


def _json(value: Any) -> Response:
    return Response(to_json(value, fallback=str), media_type="application/json")


def _body(model: Any) -> dict[str, Any]:
    """The schema of a request's body, for /openapi.json."""
    content = {"application/json": {"schema": model.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}


async def _bad_request(request: Request, error: Exception) -> Response:
    """One line, with status 400 unless the error has its own."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "body"
        line = f"{place}: {first['msg']}"
    else:
        line = " ".join(str(error).split())
    return Response(error_body(line), getattr(error, "status", 400), media_type="application/json")
