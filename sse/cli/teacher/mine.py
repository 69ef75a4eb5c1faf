"""The command `python experiments/mine.py`: hard negatives for files of pairs."""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from sse.cli.options import option_names
from sse.common.arguments import Parser
from sse.common.errors import UserError, one_line
from sse.common.files import atomic_file, write_json
from sse.common.ranges import real, whole
from sse.data.pair_set import PairSet, load_sets
from sse.serving.encoder import Encoder
from sse.teacher.mine import Filters, Mined, Scorer, Texts, bm25_scorer, cosine_scorer, mine

DESCRIPTION = """Mine hard negatives: texts that look like an anchor's answer and are none.

  python experiments/mine.py pairs.jsonl --bm25 --model runs/1/model --out mined

Each set gives a file OUT/NAME.jsonl.gz to train on: anchor, positive, negative, negative_2, ...
With --teacher also score, score_negative, ...: cosines that --model.distil learns. Start the
command again after a stop: sets that are done stay."""

SETTINGS = ".mine.json"  # what OUT was made with; hidden, so that OUT can be trained on as a folder


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = Parser(prog="mine.py", description=DESCRIPTION)
    add = made.add_argument
    add("sets", nargs="+", metavar="PAIRS", help="what --data.paths takes: files, folders, ...")
    add("--out", required=True, help="folder of the mined files")
    add("--bm25", action="store_true", help="mine by BM25")
    add("--model", metavar="DIR", help="mine by this model's cosine; with --bm25 in turn")
    add("--teacher", metavar="DIR", help="a sentence-transformers folder: filters, and scores")
    add("--count", type=whole(1, 100), default=1, help="negatives per pair (default: 1)")
    add("--skip", type=whole(0), default=0, help="leave out so many of the best (default: 0)")
    add("--depth", type=whole(1), default=50, help="look at so many (default: 50)")
    add("--margin", type=real(above=0), default=0.95,
        help="greatest share of its positive's score (default: 0.95)")  # fmt: skip
    add("--cap", type=whole(2), help="at most so many pairs of each set")
    add("--seed", type=whole(0), default=0, help="of random negatives, where too few are found")
    return made


@one_line
def run(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    made = parser()
    args = made.parse_args(arguments)
    if not (args.bm25 or args.model):
        raise UserError("nothing to mine by: give --bm25, --model DIR, or both")
    with option_names(made):
        model = Encoder(args.model) if args.model else None
        teacher = _teacher(args.teacher) if args.teacher else None
        sets = load_sets(args.sets, cap=args.cap, say=_say)
        out = Path(args.out)
        _check_settings(out, args)
        for pairs in sets:
            path = out / f"{pairs.name.replace('/', '-')}.jsonl.gz"
            if path.exists():
                _say(f"{path} is there already")
            else:
                _mine_set(pairs, path, args, model, teacher)


def _mine_set(
    pairs: PairSet, path: Path, args: argparse.Namespace, model: Encoder | None, teacher: Any
) -> None:
    """Mine one set, and write its file."""
    columns = pairs.texts("anchor"), pairs.texts("positive")
    texts = Texts(*columns)
    scorers: list[Scorer] = [bm25_scorer(texts)] if args.bm25 else []
    if model is not None:
        scorers.append(cosine_scorer(model.encode(texts.anchors), model.encode(texts.documents)))
    vectors = None
    if teacher is not None:
        vectors = (_encode(teacher, texts.anchors), _encode(teacher, texts.documents))
    with tqdm(total=len(pairs), desc=f"mining {pairs.name}", unit=" pairs", disable=None) as bar:
        mined = mine(
            texts,
            scorers,
            args.count,
            Filters(args.skip, args.depth, args.margin),
            teacher=vectors,
            seed=args.seed,
            step=bar.update,
        )
    with atomic_file(path) as temporary, gzip.open(temporary, "wt", encoding="utf-8") as file:
        for row, pair in enumerate(zip(*columns, strict=True)):
            file.write(json.dumps(_record(texts, mined, row, *pair), ensure_ascii=False) + "\n")
    share = mined.random / mined.documents.size
    _say(f"{path}: {len(pairs):,} pairs, {share:.1%} of the negatives drawn at random")


def _record(texts: Texts, mined: Mined, row: int, anchor: str, positive: str) -> dict[str, Any]:
    """A line of the file."""
    names = ["negative", *(f"negative_{k}" for k in range(2, mined.documents.shape[1] + 1))]
    negatives = [texts.documents[document] for document in mined.documents[row]]
    record: dict[str, Any] = {"anchor": anchor, "positive": positive}
    record |= dict(zip(names, negatives, strict=True))
    if mined.scores is not None:
        scores = [round(score, 6) for score in mined.scores[row].tolist()]
        record |= dict(zip(["score", *(f"score_{name}" for name in names)], scores, strict=True))
    return record


def _teacher(folder: str) -> Any:
    from sentence_transformers import SentenceTransformer

    if not Path(folder).is_dir():
        raise UserError(
            f"--teacher {folder} is no folder: give one that sentence-transformers loads"
        )
    try:
        return SentenceTransformer(folder)
    except Exception as error:
        raise UserError(f"--teacher {folder} does not load ({error}): give another one") from error


def _encode(teacher: Any, texts: list[str]) -> np.ndarray:
    vectors: np.ndarray = teacher.encode(
        texts, normalize_embeddings=True, show_progress_bar=sys.stderr.isatty()
    )
    if not np.isfinite(vectors).all():
        raise UserError("--teacher gives NaN or infinite vectors: give another one")
    return vectors


def _check_settings(out: Path, args: argparse.Namespace) -> None:
    """Refuse a folder that was mined in another way; the order of the sets does not matter."""
    settings = {key: value for key, value in vars(args).items() if key not in ("sets", "out")}
    path = out / SETTINGS
    if path.exists() and json.loads(path.read_text("utf-8")) != settings:
        raise UserError(f"--out {out} was mined with other options ({path}): give another folder")
    if not path.exists():
        write_json(path, settings)


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
