"""Workers on Ray that write a corpus's shards, and the model sent to them."""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sse.common.errors import UserError
from sse.common.files import atomic_folder
from sse.serving.corpus_files import Shard
from sse.serving.encoder import Encoder
from sse.serving.shards import Job, Store, write_shard

SENT = 64_000_000  # bytes of a model that is sent to nodes; a larger one they must have


def write_shards(
    job: Job, shards: Sequence[Shard], workers: int | None, cluster: str | None
) -> Iterator[dict[str, Any]]:
    """Write the shards with one worker per core; the outcome of each as it appears.

    Raises:
        UserError: a worker was lost more often than Ray replaces it.
    """
    import ray

    folder, files = Path(job.model), None
    if cluster and sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) <= SENT:
        files = ray.put(packed(folder))
    size = min(workers or int(ray.cluster_resources().get("CPU", 1)), len(shards))
    items = [asdict(shard) for shard in shards]
    outcomes = ray.data.from_items(items, override_num_blocks=len(items)).map(
        Worker,  # type: ignore[arg-type]
        fn_constructor_args=(job, files),
        num_cpus=1,
        # One shard at a time: a queue at an actor would leave others idle at the end.
        compute=ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=1),
    )
    try:
        yield from outcomes.iter_rows()
    except ray.exceptions.RayError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UserError(
            f"a worker failed ({lines[-1][:300]}): whole shards are kept, the same command goes on"
        ) from error


class Worker:
    """One core's encoder, kept from shard to shard; what Ray runs as an actor.

    Args:
        job: the model and the options.
        files: the model's files by name, where no node but the caller's has them.
    """

    def __init__(self, job: Job, files: Any = None) -> None:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        model = job.model if files is None else _unpacked(files)
        self.job, self.store = job, Store(job.out)
        self.encoder = Encoder(model, job.dim, fast=job.fast, threads=1)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Write one shard; its counts, or the fault that a user can mend."""
        begin = time.perf_counter()
        numbers = {name: int(row[name]) for name in ("number", "start", "stop", "first")}
        shard = Shard(url=str(row["url"]), kind=str(row["kind"]), **numbers)
        outcome = {"number": shard.number, "rows": 0, "rejected": 0, "fault": "", "errno": 0}
        try:
            counts = write_shard(self.job, self.encoder, shard, self.store)
            outcome |= {"rows": counts.rows, "rejected": counts.rejected}
        except (UserError, OSError) as error:
            outcome |= {"fault": str(error) or type(error).__name__}
            outcome["errno"] = getattr(error, "errno", None) or 0
        return outcome | {"seconds": time.perf_counter() - begin}


def packed(folder: Path) -> dict[str, bytes]:
    """A model folder's files, to be sent to nodes that do not have it."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def home_of(files: dict[str, bytes]) -> Path:
    """Where a node keeps the files it was sent."""
    content = hashlib.sha256()
    for name, data in sorted(files.items()):
        content.update(name.encode() + b"\0" + data)
    user = getpass.getuser()
    return Path(tempfile.gettempdir()) / f"sse-model-{user}-{content.hexdigest()[:24]}"


def _unpacked(files: Any) -> str:
    """A folder of these files, shared by a node's workers, who map the same table."""
    import ray

    received: dict[str, bytes] = ray.get(files)
    folder = home_of(received)
    if not folder.exists():
        with contextlib.suppress(OSError), atomic_folder(folder) as temporary:
            for name, data in received.items():
                (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                (temporary / name).write_bytes(data)
    return str(folder)
