"""A pool of workers on Ray."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sse.common.errors import UserError
from sse.serving.corpus_files import Piece
from sse.serving.shards import Job, Worker, packed

SHIPPED = 64_000_000  # bytes of a model that is sent to nodes; a larger one they must have


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
