"""Workers on Ray that write a corpus's shards, and the model that is sent to them."""

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

MAX_SENT = 64_000_000  # bytes of a model sent to nodes; a larger one must be on each node


def write_shards(
    job: Job, shards: Sequence[Shard], workers: int | None, cluster: str | None
) -> Iterator[dict[str, Any]]:
    """Write the shards with one worker per core, and yield the outcome of each.

    An outcome has `number`, `rows`, `rejected`, `seconds`, and `fault` with `errno` of a failure.

    Args:
        job: the model and the options.
        shards: what to write.
        workers: how many; by default one per core of the session.
        cluster: the address of a cluster, which is sent the model; None for this machine.

    Raises:
        UserError: a worker was lost more often than Ray replaces it.
    """
    import ray

    folder, files = Path(job.model), None
    if cluster and sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) <= MAX_SENT:
        files = ray.put(model_files(folder))
    size = min(workers or int(ray.cluster_resources().get("CPU", 1)), len(shards))
    items = [asdict(shard) for shard in shards]
    outcomes = ray.data.from_items(items, override_num_blocks=len(items)).map(
        Worker,
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
    """A Ray actor with one core and one encoder, which writes shard after shard.

    `files` is Ray's reference to the model's files by name; None where the node has the model.
    """

    def __init__(self, job: Job, files: Any = None) -> None:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        model = job.model if files is None else _unpack(files)
        self.job, self.store = job, Store(job.out)
        self.encoder = Encoder(model, job.dim, fast=job.fast, threads=1)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Write one shard and return its outcome; a failure that a user can mend is its `fault`."""
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


def model_files(folder: Path) -> dict[str, bytes]:
    """The content of a model folder's files, by name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def folder_for(files: dict[str, bytes]) -> Path:
    """The folder of a node for a model with these files."""
    content = hashlib.sha256()
    for name, data in sorted(files.items()):
        content.update(name.encode() + b"\0" + data)
    user = getpass.getuser()
    return Path(tempfile.gettempdir()) / f"sse-model-{user}-{content.hexdigest()[:24]}"


def _unpack(files: Any) -> str:
    """The folder of these files, which the workers of a node share, as they map one table."""
    import ray

    received: dict[str, bytes] = ray.get(files)
    folder = folder_for(received)
    if not folder.exists():
        with contextlib.suppress(OSError), atomic_folder(folder) as temporary:
            for name, data in received.items():
                (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                (temporary / name).write_bytes(data)
    return str(folder)
