"""What smaller rows and shorter vectors cost: bytes, speed, and nDCG@10 on collections."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sse.evaluation.collection import load_beir
from sse.model.quantise import ROW_KINDS
from sse.serving.encoder import Encoder

DIMS = (512, 256, 128)
OUTPUTS = ("int8", "binary")


def small_rows(
    home: Path, texts: list[str], beir: list[str], rounds: int
) -> dict[str, dict[str, Any]]:
    """By kind of rows: bytes, texts/s, nDCG@10 by dimension; then of quantised vectors."""
    models = {f"{kind} rows": Encoder(home, rows=kind) for kind in ROW_KINDS}
    speeds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds):
        for name, model in models.items():
            start = time.perf_counter()
            model.encode(texts)
            speeds[name].append(len(texts) / (time.perf_counter() - start))
    out: dict[str, dict[str, Any]] = {
        name: {"bytes": model.table.nbytes, "passages_per_second": float(np.median(speeds[name]))}
        for name, model in models.items()
    }
    collections = [load_beir(folder) for folder in beir]
    if collections:
        for name, model in models.items():
            out[name]["ndcg@10"] = _quality(model, collections)
        for precision in OUTPUTS:
            row = {"ndcg@10": _quality(models["float32 rows"], collections, precision)}
            out[f"{precision} vectors"] = row
    return out


def _quality(
    model: Encoder, collections: list[Any], precision: str = "float32"
) -> dict[str, float]:
    """Mean nDCG@10 over the collections, by dimension."""
    from sse.evaluation.evaluate import evaluate

    dims = [d for d in DIMS if d <= model.dim]

    def encode(dim: int, texts: list[str]) -> np.ndarray:
        vectors = model.encode(texts, dim=dim, precision=precision)
        if precision == "binary":  # +-1, whose cosine orders as the Hamming distance does
            return np.unpackbits(vectors, axis=1)[:, :dim].astype(np.float32) * 2 - 1
        return vectors.astype(np.float32)

    results = {dim: evaluate(partial(encode, dim), collections, [dim]) for dim in dims}
    return {str(dim): result.mean[dim].values["ndcg@10"] for dim, result in results.items()}
