"""Start the server and stop it well: a socket, uvicorn, and one line that says where it listens."""

from __future__ import annotations

import contextlib
import socket
import sys

import uvicorn

from sse.common.errors import UserError
from sse.search.index import Index
from sse.search.server.app import make_app
from sse.search.server.guard import LOOPBACK, Limits
from sse.serving.encoder import Encoder

BACKLOG = 2048  # connections that wait
GRACE = 10  # seconds that requests have to end after a signal


def serve(
    index: Index | None,
    model: Encoder | None,
    host: str,
    port: int,
    limits: Limits,
    token: str | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM; requests that are running are answered first.

    Args:
        index: what to search, or None.
        model: what to encode with; by default the index's model.
        host: the address to listen at.
        port: 0 for any free one.
        limits: bounds of a request.
        token: what clients must send, or None.

    Raises:
        UserError: an address that cannot be used.
    """
    at_home = host in LOOPBACK or host == "::1"
    app = make_app(index, model, limits, token, LOOPBACK if at_home else None)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio switches Nagle's algorithm off only where the protocol is named: 40 ms an answer.
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    with contextlib.closing(made) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(BACKLOG)  # so who reads the line below can connect at once
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UserError(f"{host}:{port}: {reason}: give another `host` or `port`") from None
        if not at_home and token is None:
            sys.stderr.write("warning: anybody who reaches this address may search: set --token\n")
        shown = f"[{host}]" if ":" in host else host
        sys.stderr.write(f"serving at http://{shown}:{listener.getsockname()[1]}/\n")
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE,
            server_header=False,
        )  # fmt: skip
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises the signal again at its end
            uvicorn.Server(config).run(sockets=[listener])
