"""What every request passes: host, token, size, time, and the counters for Prometheus."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

OPEN = ("/", "/page.js", "/page.css", "/health")  # without a token
PATHS = (*OPEN, "/search", "/metrics", "/v1/embeddings", "/v1/models", "/openapi.json")
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


@dataclass(frozen=True)
class Limits:
    """Bounds of one request.

    Attributes:
        body: bytes.
        batch: texts of an embedding, queries of a search.
        seconds: time until an answer; what runs then is not waited for.
        hits: hits per query.
    """

    body: int = 8 << 20
    batch: int = 2048
    seconds: float = 30.0
    hits: int = 1000


class Metrics:
    """Counters of one server, in the format of Prometheus."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ["path", "status"]
        self.seconds = Histogram(
            "sse_request_seconds", "Time until the answer.", labels, registry=self.registry,
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30),
        )  # fmt: skip
        self.texts = Counter("sse_texts", "Texts that were encoded.", registry=self.registry)
        self.queries = Counter("sse_queries", "Queries searched for.", registry=self.registry)

    def text(self) -> bytes:
        """All counters as Prometheus reads them."""
        return generate_latest(self.registry)


class Refused(Exception):
    """A request that ends before it is answered: HTTP status and reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Guard:
    """ASGI middleware around `app`.

    Args:
        app: what answers.
        limits: bounds of a request.
        metrics: where each request is counted.
        token: what `Authorization: Bearer ...` must hold; None lets everyone in.
        hosts: names that the header Host may have, so that no web page reaches a server on
            loopback through a name of its own (DNS rebinding); None allows all.
    """

    def __init__(
        self,
        app: App,
        limits: Limits,
        metrics: Metrics,
        token: str | None = None,
        hosts: tuple[str, ...] | None = LOOPBACK,
    ) -> None:
        self.app, self.limits, self.metrics = app, limits, metrics
        self._token = None if token is None else f"Bearer {token}".encode()
        self._hosts = hosts

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 0

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *SAFE]
            await send(message)

        try:
            self._check(scope)
            work = self.app(scope, self._counted(receive), told)
            await asyncio.wait_for(work, self.limits.seconds)
        except Refused as refused:
            await _answer(told, refused.status, str(refused))
        except asyncio.TimeoutError:
            if not status:
                await _answer(told, 503, f"no answer within {self.limits.seconds:g} seconds")
        finally:
            path = scope["path"] if scope["path"] in PATHS else "other"
            seconds = time.perf_counter() - start
            self.metrics.seconds.labels(path, str(status)).observe(seconds)

    def _check(self, scope: Message) -> None:
        """Raise Refused by what the headers say."""
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        if (
            self._hosts is not None
            and host.rsplit(":", 1)[0] not in self._hosts
            and (host not in self._hosts)
        ):
            raise Refused(421, "this server answers to its own address only")
        given = headers.get(b"authorization", b"")
        if (
            self._token is not None
            and scope["path"] not in OPEN
            and not secrets.compare_digest(given, self._token)
        ):
            raise Refused(401, "give the token as 'Authorization: Bearer TOKEN'")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self.limits.body:
            raise Refused(413, f"a body of more than {self.limits.body:,} bytes")

    def _counted(self, receive: Receive) -> Receive:
        """`receive`, which raises Refused once the body exceeds the limit."""
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.limits.body:
                raise Refused(413, f"a body of more than {self.limits.body:,} bytes")
            return message

        return counted


SAFE = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'self'; frame-ancestors 'none'"),
)


def error_body(message: str, kind: str = "invalid_request_error") -> bytes:
    """An error as OpenAI's clients read it."""
    error = {"message": message, "type": kind, "param": None, "code": None}
    return json.dumps({"error": error}).encode()


async def _answer(send: Send, status: int, message: str) -> None:
    body = error_body(message)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
