"""A quiet Ray session: this machine's own, or a cluster's."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

from sse.common.errors import UserError

OBJECT_STORE = 100_000_000  # bytes; only descriptors and counts pass through it


@contextlib.contextmanager
def ray_session(address: str | None, workers: int) -> Iterator[None]:
    """Ray, quiet: this machine's own, ended with the run, or a cluster that goes on."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    if ray.is_initialized():  # the caller's own
        yield
        return
    with _muted():
        yield from _started(address, workers)


def _started(address: str | None, workers: int) -> Iterator[None]:
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
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"Ray does not start at {address or 'this machine'}: {reason}") from None
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _muted() -> Iterator[None]:
    """Drop what Ray's C++ side writes to the process's standard error; failures are raised."""
    sys.stderr.flush()
    try:
        mine = sys.stderr.fileno() == 2
    except (OSError, ValueError):
        mine = False
    before, kept = sys.stderr, os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        if mine:
            sys.stderr = os.fdopen(os.dup(kept), "w", buffering=1, errors="backslashreplace")
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        sys.stderr = before
