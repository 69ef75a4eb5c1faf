"""Ray, quiet, and a pool of workers on it."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sse.common.errors import UserError
from sse.serving.corpus_files import Piece
from sse.serving.shards import Job, Worker, packed

SHIPPED = 64_000_000  # bytes of a model that is sent to nodes; a larger one they must have
OBJECT_STORE = 100_000_000  # bytes; only descriptors and counts pass through it


def encoded(
    job: Job, pieces: Sequence[Piece], workers: int | None, cluster: str | None
) -> Iterator[dict[str, Any]]:
    """What the workers tell of each shard, as it appears."""
    import ray

    folder, files = Path(job.model), None
    if cluster and sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) <= SHIPPED:
        files = ray.put(packed(folder))
    size = min(workers or int(ray.cluster_resources().get("CPU", 1)), len(pieces))
    items = [asdict(piece) | {"stop": -1 if piece.stop is None else piece.stop} for piece in pieces]
    told = ray.data.from_items(items, override_num_blocks=len(items)).map(
        Worker,  # type: ignore[arg-type]
        fn_constructor_args=(job, files),
        num_cpus=1,
        # One piece at a time: a queue at an actor would leave others idle at the end.
        compute=ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=1),
    )
    try:
        yield from told.iter_rows()
    except ray.exceptions.RayError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UserError(
            f"a worker failed ({lines[-1][:300]}): whole shards are kept, the same command goes on"
        ) from error


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
