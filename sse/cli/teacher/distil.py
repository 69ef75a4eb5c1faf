"""The command `python experiments/distil.py`: a table that imitates a teacher on plain texts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from sse.common.arguments import Parser
from sse.common.errors import UserError, one_line
from sse.common.ranges import real, whole
from sse.data.prepare import cache_folder
from sse.model.export import export
from sse.model.folder import check_target
from sse.model.static_model import StaticModel
from sse.teacher.folder import teacher_folder
from sse.teacher.regress import regress, rotated
from sse.teacher.start import make_start
from sse.teacher.vectors import teacher_vectors
from sse.text.frequencies import count_tokens
from sse.text.records import read_records
from sse.text.tokenizer import load_tokenizer

DESCRIPTION = """Teach a table a teacher's vectors of plain texts; no pairs are needed.

  python experiments/distil.py texts.jsonl --teacher DIR --out runs/distilled
  python experiments/train.py --model.start runs/distilled --data.tokenizer runs/distilled ...

The teacher's vectors are kept in the cache, and a run that was stopped goes on with them."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = Parser(prog="distil.py", description=DESCRIPTION)
    add = made.add_argument
    add("texts", nargs="+", metavar="TEXTS", help="files: lines, jsonl, csv, tsv or parquet")
    add("--teacher", required=True, metavar="DIR", help="a sentence-transformers folder")
    add("--out", required=True, help="folder of the model")
    add("--column", help="column of the texts (default: text, or the only one)")
    add("--tokenizer", help="tokenizer.json or hub name (default: the teacher's)")
    add("--dim", type=whole(1, 65_536), default=512, help="default: 512")
    add("--epochs", type=whole(1), default=6, help="default: 6")
    add("--batch-size", type=whole(1), default=128, help="default: 128")
    add("--lr", type=real(above=0), default=0.01, help="default: 0.01")
    add("--seed", type=whole(0), default=0, help="default: 0")
    add("--cache", help="folder of the teacher's vectors (default: $SSE_CACHE or ~/.cache/sse)")
    return made


@one_line
def run(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = parser().parse_args(arguments)
    check_target(Path(args.out))
    folder = teacher_folder(args.teacher)
    tokenizer = load_tokenizer(args.tokenizer or str(folder))
    texts = [each.text for path in args.texts for each in read_records(path, column=args.column)]
    if not texts:
        raise UserError(f"{', '.join(args.texts)}: no texts: give files that hold some")
    cache = cache_folder(args.cache)
    target = rotated(teacher_vectors(folder, texts, cache), args.dim)
    tokens = tokenizer.encode(texts)
    counts = count_tokens([tokens], tokenizer.vocab_size)
    start = make_start(
        args.teacher, tokenizer, args.dim, seed=args.seed, frequencies=counts, cache=cache
    )
    _say(start.account)
    model = StaticModel(tokenizer, args.dim, "none", table=torch.from_numpy(start.table))
    model.frequencies = counts
    losses = regress(
        model,
        tokens,
        target,
        epochs=args.epochs,
        batch_size=args.batch_size,
        lr=args.lr,
        seed=args.seed,
    )
    data = [f"{len(texts):,} texts of {', '.join(args.texts)}, vectors of {args.teacher}"]
    export(model, args.out, {"data": data, "hyperparameters": vars(args)})
    _say(f"{args.out}: 1 - cosine fell from {losses[0]:.4f} to {losses[-1]:.4f} (means of epochs)")


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
