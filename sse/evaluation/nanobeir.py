"""NanoBEIR: thirteen small collections of 50 queries (Touché: 49), from the hub or a local folder.

The reading is that of sentence-transformers' NanoBEIREvaluator. The subsets `corpus`, `queries` and
`qrels` have one split `Nano<Name>` per collection. Empty texts are left out, but a judgement of an
empty document still counts as a relevant document. Every judgement means relevant.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sse.common.errors import UserError, first_line
from sse.common.hub import DEADLINE, ask_hub, offline
from sse.evaluation.collection import Collection, Qrels
from sse.text.values import document_text

NAMES = (
    "ClimateFEVER", "DBPedia", "FEVER", "FiQA2018", "HotpotQA", "MSMARCO", "NFCorpus", "NQ",
    "QuoraRetrieval", "SCIDOCS", "ArguAna", "SciFact", "Touche2020",
)  # fmt: skip
COLUMNS = {  # subset -> columns
    "corpus": ("_id", "text"),
    "queries": ("_id", "text"),
    "qrels": ("query-id", "corpus-id"),
}
WAY_OUT = "give a local folder in NanoBEIR's layout, or set HF_HUB_OFFLINE=1 for a cached copy"

Subset = dict[str, list[Any]]  # column -> values


def load_nanobeir(
    source: str = "sentence-transformers/NanoBEIR-en", names: list[str] | None = None
) -> list[Collection]:
    """The collections of NanoBEIR.

    Args:
        source: a data set on the hub, or a folder of `corpus|queries|qrels/Nano<Name>*.parquet`.
        names: which collections, as `msmarco` or `NanoMSMARCO`; by default all of the source.

    Raises:
        UserError: an unknown name, an unreachable hub, a missing or malformed file.
    """
    root = Path(source)
    if root.is_dir():
        files = root.glob("corpus/*.parquet")
        splits = sorted({path.name.split("-")[0].split(".")[0] for path in files})
        if not splits:
            raise UserError(f"{root}: no corpus/Nano<Name>.parquet there: see NanoBEIR's layout")
        return [_collection(str(root), s, _local) for s in _splits(names, splits, str(root))]
    if source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise UserError(f"{source}: neither a folder nor a hub data set (OWNER/NAME)")
    splits = _splits(names, [f"Nano{name}" for name in NAMES], source)
    if not offline():  # without the network `datasets` reads its cached copy
        ask_hub(source, lambda api: api.dataset_info(source, timeout=DEADLINE), WAY_OUT)
    return [_collection(source, split, _hub) for split in splits]


def _splits(names: list[str] | None, splits: list[str], source: str) -> list[str]:
    """The splits that `names` means among those of the source."""
    if names is None:
        return splits
    known = {split.lower(): split for split in splits}
    chosen = []
    for name in names:
        split = known.get(name.lower()) or known.get(f"nano{name.lower()}")
        if split is None:
            raise UserError(f"{name!r} is not in {source}: choose from {', '.join(splits)}")
        chosen.append(split)
    return chosen


def _hub(source: str, subset: str, split: str) -> Subset:
    from datasets import load_dataset

    try:
        data = load_dataset(source, subset, split=split)
    except Exception as error:  # datasets raises whatever its readers raise
        raise UserError(
            f"{source}: {subset} {split} cannot be loaded ({first_line(error)}): give a local "
            "folder in NanoBEIR's layout, or unset HF_HUB_OFFLINE where it is set"
        ) from error
    return {name: data[name][:] for name in data.column_names}


def _local(source: str, subset: str, split: str) -> Subset:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = Path(source) / subset
    files = [p for p in sorted(folder.glob(f"{split}*.parquet")) if p.name[len(split)] in "-."]
    if not files:
        raise UserError(f"{folder / split}.parquet: no such file")
    try:
        table = pa.concat_tables([pq.read_table(file) for file in files])
        columns: Subset = table.to_pydict()
        return columns
    except pa.ArrowException as error:
        raise UserError(f"{files[0]}: not a readable parquet file ({error})") from None


def _collection(source: str, split: str, read: Any) -> Collection:
    """The collection of a split; `read` is `_local` or `_hub`."""
    subsets = {}
    for subset, columns in COLUMNS.items():
        subsets[subset] = read(source, subset, split)
        for name in columns:
            if name not in subsets[subset]:
                raise UserError(f"{source}: {subset} {split} has no column {name!r}")
    corpus, queries = (_texts(subsets[s], f"{source}: {s} {split}") for s in ("corpus", "queries"))
    qrels = _qrels(subsets, f"{source}: qrels {split}")
    collection = Collection(
        split, [*corpus], [*corpus.values()], [*queries], [*queries.values()], qrels
    ).judged()
    if not collection.queries or not corpus:
        raise UserError(f"{source}: {split} has no query with a judgement: there is nothing to do")
    return collection


def _texts(columns: Subset, where: str) -> dict[str, str]:
    texts = {}
    for identity, text in zip(columns["_id"], columns["text"], strict=True):
        if not isinstance(text, str):
            raise UserError(f"{where}: the text of {identity!r} is {text!r}, not text")
        if text:
            texts[str(identity)] = document_text("", text)
    return texts


def _qrels(subsets: dict[str, Subset], where: str) -> Qrels:
    corpus_ids = set(map(str, subsets["corpus"]["_id"]))
    query_ids = set(map(str, subsets["queries"]["_id"]))
    qrels: Qrels = {}
    judgements = subsets["qrels"]
    for query_id, documents in zip(judgements["query-id"], judgements["corpus-id"], strict=True):
        if str(query_id) not in query_ids:
            raise UserError(f"{where}: unknown query id {query_id!r}")
        for corpus_id in documents if isinstance(documents, list) else [documents]:
            if str(corpus_id) not in corpus_ids:
                raise UserError(f"{where}: unknown corpus id {corpus_id!r}")
            qrels.setdefault(str(query_id), {})[str(corpus_id)] = 1
    return qrels
