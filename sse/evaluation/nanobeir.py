"""NanoBEIR: thirteen small collections of 50 queries (Touché: 49), from the hub or a local folder.

As sentence-transformers' NanoBEIREvaluator reads them: three subsets `corpus`, `queries`, `qrels`,
each with one split `Nano<Name>` per collection; texts that are empty are left out (a judgement of
such a document still counts among the relevant ones); every judgement is relevant.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sse.common.errors import UserError
from sse.common.hub import DEADLINE, ask_hub, offline
from sse.evaluation.collection import Collection, Qrels, document_text

NAMES = (
    "ClimateFEVER", "DBPedia", "FEVER", "FiQA2018", "HotpotQA", "MSMARCO", "NFCorpus", "NQ",
    "QuoraRetrieval", "SCIDOCS", "ArguAna", "SciFact", "Touche2020",
)  # fmt: skip
WAY_OUT = "give a local folder in NanoBEIR's layout, or set HF_HUB_OFFLINE=1 for a cached copy"

Columns = dict[str, list[Any]]


def load_nanobeir(
    source: str = "sentence-transformers/NanoBEIR-en", names: list[str] | None = None
) -> list[Collection]:
    """Load NanoBEIR from a hub data set or a folder of `corpus|queries|qrels/Nano<Name>*.parquet`.

    `names` picks collections (`msmarco` or `NanoMSMARCO`); by default all thirteen from the hub,
    or all that a local folder holds.

    Raises:
        UserError: an unknown name, an unreachable hub, a missing or malformed file.
    """
    root = Path(source)
    if root.is_dir():
        there = sorted({p.name.split("-")[0].split(".")[0] for p in root.glob("corpus/*.parquet")})
        if not there:
            raise UserError(f"{root}: no corpus/Nano<Name>.parquet there: see NanoBEIR's layout")
        return [_collection(str(root), s, _local) for s in _splits(names, there, str(root))]
    if source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise UserError(f"{source}: neither a folder nor a hub data set (OWNER/NAME)")
    splits = _splits(names, [f"Nano{name}" for name in NAMES], source)
    if not offline():  # where the user forbids the network, datasets takes its cached copy
        ask_hub(source, lambda api: api.dataset_info(source, timeout=DEADLINE), WAY_OUT)
    return [_collection(source, split, _hub) for split in splits]


def _splits(names: list[str] | None, there: list[str], source: str) -> list[str]:
    if names is None:
        return there
    known = {split.lower(): split for split in there}
    chosen = []
    for name in names:
        split = known.get(name.lower()) or known.get(f"nano{name.lower()}")
        if split is None:
            raise UserError(f"{name!r} is not in {source}: choose from {', '.join(there)}")
        chosen.append(split)
    return chosen


def _hub(source: str, subset: str, split: str) -> Columns:
    from datasets import load_dataset

    try:
        data = load_dataset(source, subset, split=split)
    except Exception as error:  # datasets raises whatever its readers raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{source}: {subset} {split} cannot be loaded ({reason}): give a local folder in "
            "NanoBEIR's layout, or unset HF_HUB_OFFLINE where it is set"
        ) from error
    return {name: data[name][:] for name in data.column_names}


def _local(source: str, subset: str, split: str) -> Columns:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = Path(source) / subset
    files = [p for p in sorted(folder.glob(f"{split}*.parquet")) if p.name[len(split)] in "-."]
    if not files:
        raise UserError(f"{folder / split}.parquet: no such file")
    try:
        return pa.concat_tables([pq.read_table(file) for file in files]).to_pydict()
    except pa.ArrowException as error:
        raise UserError(f"{files[0]}: not a readable parquet file ({error})") from None


def _collection(source: str, split: str, read: Any) -> Collection:
    columns = {}
    for subset, needed in (
        ("corpus", ("_id", "text")),
        ("queries", ("_id", "text")),
        ("qrels", ("query-id", "corpus-id")),
    ):
        columns[subset] = read(source, subset, split)
        for name in needed:
            if name not in columns[subset]:
                raise UserError(f"{source}: {subset} {split} has no column {name!r}")
    corpus, queries = (_texts(columns[s], f"{source}: {s} {split}") for s in ("corpus", "queries"))
    qrels = _qrels(columns, f"{source}: qrels {split}")
    collection = Collection(
        split, list(corpus), list(corpus.values()), list(queries), list(queries.values()), qrels
    ).judged()
    if not collection.queries or not corpus:
        raise UserError(f"{source}: {split} has no query with a judgement: there is nothing to do")
    return collection


def _texts(columns: Columns, where: str) -> dict[str, str]:
    texts = {}
    for identity, text in zip(columns["_id"], columns["text"], strict=True):
        if not isinstance(text, str):
            raise UserError(f"{where}: the text of {identity!r} is {text!r}, not text")
        if text:
            texts[str(identity)] = document_text("", text)
    return texts


def _qrels(columns: dict[str, Columns], where: str) -> Qrels:
    corpus_ids = set(map(str, columns["corpus"]["_id"]))
    query_ids = set(map(str, columns["queries"]["_id"]))
    qrels: Qrels = {}
    judged = columns["qrels"]
    for query_id, found in zip(judged["query-id"], judged["corpus-id"], strict=True):
        if str(query_id) not in query_ids:
            raise UserError(f"{where}: unknown query id {query_id!r}")
        for corpus_id in found if isinstance(found, list) else [found]:
            if str(corpus_id) not in corpus_ids:
                raise UserError(f"{where}: unknown corpus id {corpus_id!r}")
            qrels.setdefault(str(query_id), {})[str(corpus_id)] = 1
    return qrels
