"""Encode a corpus to shards of vectors, on every core of a machine or of a Ray cluster.

An input file makes one shard; a large parquet file makes several, cut at row groups. Each core
encodes one shard at a time: split a large file of JSON lines first. The same command goes on after
a stop with the missing shards, and ends with the same bytes. It refuses another model, input or
options.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sse.cli.options import add_no_fast, option_names
from sse.common.arguments import Parser
from sse.common.errors import MissingExtra, Stopped, UserError, one_line
from sse.common.hub import model_folder
from sse.common.machine import cores
from sse.common.ranges import whole
from sse.common.signals import interrupt_on_sigterm
from sse.serving.corpus_batches import find_columns
from sse.serving.corpus_files import Shard, find_files
from sse.serving.encoder import Encoder
from sse.serving.ray_session import ray_session
from sse.serving.ray_workers import write_shards
from sse.serving.shards import REJECTED, SHARD_PRECISIONS, Job, Store, shard_name, shards_to_write

REJECTED_EXIT = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    0: all rows are encoded. 3: done, but some rows were rejected. Otherwise the codes of
    `sse.common.errors.one_line`: 2 bad input, 1 a full disk, 128 + the signal that stopped the run.
    """
    totals: dict[str, Any] = {}
    code = one_line(_main)(arguments, totals)
    return REJECTED_EXIT if code == 0 and totals.get("rejected") else code


def _main(arguments: Sequence[str] | None, totals: dict[str, Any]) -> None:
    parser = _parser()
    args = parser.parse_args(arguments)
    with option_names(parser):
        totals |= encode_corpus(args)
    if args.json:
        sys.stdout.write(json.dumps(totals) + "\n")
    elif not args.quiet:
        sys.stdout.write(_summary(args.target, totals) + "\n")


def _parser() -> Parser:
    parser = Parser(prog="encode_corpus.py", description=__doc__)
    add = parser.add_argument
    add("source", metavar="IN", help="parquet or jsonl(.gz): a file, a folder or a glob; or a URL")
    add("target", metavar="OUT", help="folder of the shards (part-00000.parquet ...), or a URL")
    add("-m", "--model", required=True, metavar="FOLDER", help="of a model")
    add("--cluster", metavar="ADDRESS", help="of a Ray cluster, or auto (default: this machine)")
    add("--workers", type=whole(1), help="processes with one core each (default: one per core)")
    add("--text", metavar="COLUMN", help="of the texts (default: text, or the only one)")
    add("--id", metavar="COLUMN", help="of the ids (default: id or _id, otherwise file and row)")
    add("--keep", action="extend", nargs="+", default=[], metavar="COLUMN",
        help="further columns for the shards")  # fmt: skip
    add("--dim", type=whole(1), help="first dimensions only (Matryoshka)")
    add("--precision", choices=SHARD_PRECISIONS, default="float32", help="(default: float32)")
    add("--prompt", metavar="NAME", help="the model's prompt before each text, such as query")
    add("--no-normalize", action="store_true", help="do not scale vectors to length 1")
    add_no_fast(parser)
    add(
        "--shard_rows",
        "--shard-rows",
        type=whole(1),
        default=100_000,
        metavar="N",
        help="parquet: a shard ends with the row group that brings it to N rows (default: 100000); "
        "a file of JSON lines is always one shard",
    )
    add("--quiet", action="store_true", help="no progress, no summary")
    add("--json", action="store_true", help="the summary as JSON")
    return parser


def encode_corpus(args: argparse.Namespace) -> dict[str, Any]:
    """Write the missing shards and return the totals of all.

    Raises:
        UserError: the input, the model, the output or an option is wrong.
        Stopped: by Ctrl-C or SIGTERM; finished shards stay.
    """
    if importlib.util.find_spec("ray") is None:
        raise MissingExtra("ray")
    store = Store(args.target)
    if store.system.isfile(store.root):
        raise UserError(f"{args.target} is a file: name a folder for the shards")
    model = Encoder(args.model, args.dim, fast=not args.no_fast)
    model.encode("", prompt_name=args.prompt)  # raises if the model lacks the prompt
    files = find_files(args.source)
    columns = find_columns(files, args.text, args.id, args.keep)
    job = Job(
        model=str(model_folder(args.model).resolve()),
        out=str(store.system.unstrip_protocol(store.root)),
        columns=columns,
        dim=model.dim,
        precision=args.precision,
        prompt=args.prompt,
        normalize=not args.no_normalize,
        fast=not args.no_fast,
    )
    _ = job.schema  # raises if the precision does not fit the dimensions
    with _only_run(store):
        return _run(args, job, store, shards_to_write(store, job, files, args.shard_rows))


@contextlib.contextmanager
def _only_run(store: Store) -> Iterator[None]:
    """Refuse a second run of this machine in a local folder, and remove unfinished files."""
    with contextlib.ExitStack() as stack:
        if store.local:
            Path(store.root).mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(FileLock(Path(store.root) / ".lock", timeout=0))
            except Timeout:
                raise UserError(f"{store.root}: another run is writing there") from None
        store.tidy()
        try:
            yield
        finally:
            store.tidy()


def _run(
    args: argparse.Namespace, job: Job, store: Store, shards: Sequence[Shard]
) -> dict[str, Any]:
    """Write the missing shards and return the totals of all."""
    present = store.names()
    missing = [shard for shard in shards if shard_name(shard.number) not in present]
    progress = Progress(len(shards), len(shards) - len(missing), args.quiet)
    start, done, worked, faults = time.perf_counter(), 0, 0.0, []
    if missing:
        try:
            with ray_session(args.cluster, min(args.workers or cores(), len(missing))):
                interrupt_on_sigterm()  # Ray has replaced the handler
                for outcome in write_shards(job, missing, args.workers, args.cluster):
                    if outcome["errno"]:
                        raise OSError(outcome["errno"], outcome["fault"])
                    faults += [outcome["fault"]] * bool(outcome["fault"])
                    done, worked = done + outcome["rows"], worked + outcome["seconds"]
                    progress.shard(outcome["rows"])
        except KeyboardInterrupt:
            way_on = f"{progress.done} of {len(shards)} shards are whole; the same command goes on"
            raise Stopped(signal.SIGINT, way_on) from None
        finally:
            progress.close()
    if faults:
        more = f" ({len(faults)} shards in all)" if len(faults) > 1 else ""
        raise UserError(f"{faults[0]}{more}; mend it and run again: other shards are kept")
    counts = [store.counts(shard_name(shard.number)) for shard in shards]
    return {
        "shards": len(shards),
        "encoded_shards": len(missing),
        "texts": sum(count.rows for count in counts),
        "rejected": sum(count.rejected for count in counts),
        "encoded_texts": done,
        "seconds": round(time.perf_counter() - start, 3),
        "worker_seconds": round(worked, 3),
        "dim": job.dim,
        "out": job.out,
    }


class Progress:
    """Shards, texts per second and the remaining time, on standard error."""

    def __init__(self, total: int, done: int, quiet: bool) -> None:
        self.total, self.done, self.quiet = total, done, quiet
        self.new, self.texts, self.start, self.shown = 0, 0, time.perf_counter(), 0.0
        self.terminal = sys.stderr.isatty()
        if done and not quiet:
            sys.stderr.write(f"{done} of {total} shards are there; {total - done} to encode\n")

    def shard(self, texts: int) -> None:
        """Count one more shard with so many texts."""
        self.done, self.new, self.texts = self.done + 1, self.new + 1, self.texts + texts
        now = time.perf_counter()
        if self.quiet or now - self.shown < (0.2 if self.terminal else 30):
            return
        self.shown, seconds = now, now - self.start
        remaining = seconds / self.new * (self.total - self.done)
        line = (
            f"shards {self.done}/{self.total}, {self.texts / seconds:,.0f} texts/s, "
            f"{remaining / 60:,.1f} min left"
        )
        sys.stderr.write(f"\r{line:<70}" if self.terminal else f"{line}\n")
        sys.stderr.flush()

    def close(self) -> None:
        """End the line."""
        if self.terminal and self.shown:
            sys.stderr.write("\n")


def _summary(target: str, totals: dict[str, Any]) -> str:
    rate = totals["encoded_texts"] / max(totals["seconds"], 1e-9)
    line = (
        f"{totals['texts']:,} texts in {totals['shards']:,} shards -> {target} "
        f"({totals['encoded_texts']:,} of them now, in {totals['seconds']:.1f} s, {rate:,.0f}/s)"
    )
    if totals["rejected"]:
        line += f"; {totals['rejected']:,} rows set aside in {target}/{REJECTED}"
    return line
