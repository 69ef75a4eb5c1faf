"""A Ray session without Ray's messages, on this machine or on a cluster."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

from sse.common.errors import UserError, first_line

OBJECT_STORE = 100_000_000  # bytes; it holds only file names and counts


@contextlib.contextmanager
def ray_session(address: str | None, workers: int) -> Iterator[None]:
    """Run the block within a Ray session; one that the caller has opened is used and stays open.

    Args:
        address: the cluster's; None starts Ray on this machine and ends it after the block.
        workers: the number of cores of a session on this machine.

    Raises:
        UserError: Ray does not start.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    if ray.is_initialized():
        yield
        return
    with _muted_stderr():
        yield from _session(address, workers)


def _session(address: str | None, workers: int) -> Iterator[None]:
    """Start Ray, yield once, and disconnect from it."""
    import ray

    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        if address:
            ray.init(address=address, **quiet)
        else:
            ray.init(
                "local",  # whatever RAY_ADDRESS says
                num_cpus=workers,
                object_store_memory=OBJECT_STORE,
                include_dashboard=False,
                **quiet,
            )
    except (ConnectionError, ValueError, RuntimeError) as error:
        place = address or "this machine"
        raise UserError(f"Ray does not start at {place}: {first_line(error)}") from None
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _muted_stderr() -> Iterator[None]:
    """Drop what Ray's C++ side writes to file descriptor 2; Python's sys.stderr still prints."""
    sys.stderr.flush()
    try:
        shared = sys.stderr.fileno() == 2
    except (OSError, ValueError):  # a notebook's stream
        shared = False
    stream, terminal = sys.stderr, os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        if shared:
            sys.stderr = os.fdopen(os.dup(terminal), "w", buffering=1, errors="backslashreplace")
        yield
    finally:
        sys.stderr.flush()
        os.dup2(terminal, 2)
        os.close(terminal)
        sys.stderr = stream
