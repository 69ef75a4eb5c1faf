"""`sse serve`: an index and a model behind HTTP."""

from __future__ import annotations

import argparse
import os

from sse.cli.options import Run, add_no_fast
from sse.common.errors import UserError, import_extra
from sse.common.ranges import real, whole


def serve(parser: argparse.ArgumentParser) -> Run:
    """Declare the options of `sse serve`."""
    parser.description = (
        "Serve an index and its model: a search page, /search, /v1/embeddings as OpenAI's API has\n"
        "it, /health, and /metrics for Prometheus. It listens at loopback unless told otherwise,\n"
        "and follows updates of the index. SIGTERM or Ctrl-C ends it once requests are answered."
    )
    parser.epilog = (
        "examples:\n"
        "  sse serve notes.sse --port 8000\n"
        "  SSE_TOKEN=secret sse serve notes.sse --host 0.0.0.0\n"
        "  sse serve -m model   # embeddings alone\n"
    )
    add = parser.add_argument
    add("index", metavar="NAME", nargs="?", help="an index of 'sse index'")
    add("-m", "--model", metavar="DIR", help="folder of a model (default: the index's own)")
    add("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1)")
    add("--port", type=whole(0, 65535), default=8000, help="0 takes a free one (default: 8000)")
    add("--token", help="what clients must send as 'Authorization: Bearer TOKEN'; better in the "
        "environment's SSE_TOKEN, which other users do not see")  # fmt: skip
    add("--max-body", type=whole(1), default=8 << 20, help="bytes of a request (default: 8 MiB)")
    add("--max-batch", type=whole(1), default=2048, help="texts of a request (default: 2,048)")
    add("--timeout", type=real(above=0), default=30.0, help="seconds of a request (default: 30)")
    add_no_fast(parser)
    return _serve


def _serve(args: argparse.Namespace) -> None:
    if args.index is None and args.model is None:
        raise UserError("nothing to serve: name an index, or a model with `model`")
    run = import_extra("sse.search.server.run")
    limits = run.Limits(args.max_body, args.max_batch, args.timeout)
    index = model = None
    if args.index is not None:
        index = run.Index(args.index, args.model, fast=not args.no_fast)
        index.warm()
    else:
        model = run.Encoder(args.model, fast=not args.no_fast)
    token = args.token or os.environ.get("SSE_TOKEN")
    run.serve(index, model, args.host, args.port, limits, token)
