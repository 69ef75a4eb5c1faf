"""The model card (README.md): what the model is, its quality, its data, a snippet that runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sse.common.version import __version__
from sse.model.norm_forms import NORM_FORMS

if TYPE_CHECKING:
    from sse.model.model import SSE

# {collection: {dim: {metric: value}}}, as `sse.evaluation` returns it.
Metrics = dict[str, dict[str, dict[str, float]]]

SNIPPET = """\
from sentence_transformers import SentenceTransformer

model = SentenceTransformer(".")  # this folder; elsewhere its path or hub name
query = model.encode_query("What is a static embedding?")
documents = model.encode_document([
    "A static embedding is a table lookup per token and a mean.",
    "The pasta was cooked in salted water.",
])
print(model.similarity(query, documents))
"""


def write_card(path: Path, module: SSE, facts: dict[str, Any]) -> None:
    """Write README.md with a model-index, the hub's machine-readable list of results.

    Args:
        path: the file.
        module: the model.
        facts: any of `name`, `data` (lines), `hyperparameters` (dict), `metrics` (see `Metrics`),
            `baselines` ({name: Metrics}), `notes` (lines). An absent key has no section.
    """
    name = facts.get("name", "Stable Static Embedding")
    rows, dim = module.embedding.weight.shape
    metrics: Metrics = facts.get("metrics", {})
    norm, limit = NORM_FORMS[module.norm_name], module.text_tokenizer.max_tokens
    exception = "" if limit is None else f" but the {limit} tokens it was trained with"
    header: dict[str, Any] = {
        "tags": ["sentence-transformers", "sentence-similarity", "feature-extraction",
                 "static-embedding", "stable-static-embedding"],
        "pipeline_tag": "sentence-similarity",
        "library_name": "sentence-transformers",
    }  # fmt: skip
    if metrics:
        header["model-index"] = [{"name": name, "results": _model_index(metrics)}]
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n",
        f"# {name}\n",
        "A static text embedding: one table row per WordPiece token, their mean, then "
        f"{norm.text}. No attention, no length limit{exception}. {rows:,} tokens x {dim} "
        f"dimensions, {rows * dim / 1e6:.1f} M parameters; vectors may be cut to a Matryoshka "
        "dimension (`truncate_dim`). Similarity: cosine.\n",
        f"## Use\n\n```python\n{SNIPPET}```\n",
    ]
    if metrics:
        parts.append(f"## Evaluation\n\n{_table(metrics, facts.get('baselines', {}))}\n")
    if data := facts.get("data"):
        parts.append("## Training data\n\n" + "\n".join(f"- {line}" for line in data) + "\n")
    if values := facts.get("hyperparameters"):
        lines = "\n".join(f"| {key} | {value} |" for key, value in values.items())
        parts.append(f"## Hyper-parameters\n\n| option | value |\n|---|---|\n{lines}\n")
    if notes := facts.get("notes"):
        parts.append("## Notes\n\n" + "\n".join(f"- {line}" for line in notes) + "\n")
    parts.append(f"Made with stable-static-embedding {__version__}.\n")
    path.write_text("\n".join(parts), "utf-8")


def _model_index(metrics: Metrics) -> list[dict[str, Any]]:
    """One result per collection, at its largest dimension."""
    results = []
    for collection, by_dim in metrics.items():
        values = _at_largest(by_dim)
        results.append(
            {
                "task": {"type": "information-retrieval", "name": "Information Retrieval"},
                "dataset": {"name": collection, "type": collection.replace(" ", "_")},
                "metrics": [
                    {"type": f"cosine_{metric}", "value": round(value, 6), "name": metric}
                    for metric, value in values.items()
                ],
            }
        )
    return results


def _table(metrics: Metrics, baselines: dict[str, Metrics]) -> str:
    """nDCG@10 per collection and dimension, and of the baselines at their largest dimension."""
    dims = sorted({int(dim) for by_dim in metrics.values() for dim in by_dim}, reverse=True)
    head = ["nDCG@10", *(f"{dim} dims" for dim in dims), *baselines]
    lines = [head, ["---"] * len(head)]
    for collection, by_dim in metrics.items():
        row = [collection]
        row += [_number(by_dim.get(str(dim), {}).get("ndcg@10")) for dim in dims]
        for baseline in baselines.values():
            values = baseline.get(collection, {})
            row.append(_number(_at_largest(values).get("ndcg@10") if values else None))
        lines.append(row)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _at_largest(by_dim: dict[str, dict[str, float]]) -> dict[str, float]:
    """The values at the largest dimension; a baseline without dimensions has one entry."""
    return by_dim[max(by_dim, key=lambda dim: int(dim) if dim.isdigit() else 0)]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
