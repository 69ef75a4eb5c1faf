"""Fit a model to a corpus without training: each row times a power of the corpus' own idf."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sse.common.errors import UserError
from sse.documents.corpus import corpus_texts
from sse.documents.left_out import LeftOut
from sse.model.convert.rewrite import rewrite
from sse.model.folder import check_target, read_folder
from sse.model.table import EmbeddingTable
from sse.text.frequencies import Frequencies, count_tokens
from sse.text.token_batch import TokenBatch
from sse.text.tokenizer import TextTokenizer, load_tokenizer

STRENGTH = 0.5  # p; docs/fit.md has what was measured
SMOOTHING = 0.2  # added to every idf, so that no row vanishes
FEW = 100  # texts from which a corpus counts half
BATCH = 1_024  # texts to tokenise at once


def fit(
    model: str | os.PathLike[str],
    corpus: str | os.PathLike[str] | Iterable[str],
    out: str | os.PathLike[str],
    *,
    strength: float = STRENGTH,
    form: str | None = None,
    column: str | None = None,
    left_out: LeftOut | None = None,
    moved: Callable[[int], object] = lambda texts: None,
) -> dict[str, Any]:
    """Write the model that suits a corpus better; see `row_weights` for the formula.

    No query and no judgement is needed. The corpus is read once and may be larger than memory.

    Args:
        model: a folder of any layout that `sse.model.folder` knows.
        corpus: a path as for `sse.documents.corpus.corpus_texts`, or the texts themselves.
        out: a new or empty folder, or one that holds a model, which is replaced. It has the
            layout, the norm and the kind of rows of `model`.
        strength: p, 0 (no change) to 1.
        form: the corpus' format, by default by its name.
        column: the corpus' column of texts.
        left_out: counts the files of a folder that are not read.
        moved: called with the number of texts after each batch.

    Returns:
        What was done: `corpus`, `texts`, `strength`, and `training_frequencies`, whether the model
        knows how frequent its tokens were in training.

    Raises:
        UserError: no model, one that was fitted before, a corpus without texts or without a known
            token, a strength outside 0 to 1, an `out` that holds anything but a model.
    """
    if not 0 <= strength <= 1:
        raise UserError(f"strength {strength}: give 0 (no change) to 1")
    check_target(Path(out))
    source = read_folder(model)
    if "fitted" in source.config:
        raise UserError(f"{model} was fitted already: fit the model that it was made of")
    tokenizer = load_tokenizer(str(source.tokenizer), max_tokens=source.max_tokens)
    source.check_tokenizer(tokenizer.vocab_size)
    if isinstance(corpus, str | os.PathLike):
        name, texts = Path(corpus).resolve().name, corpus_texts(corpus, form, column, left_out)
    else:
        name, texts = "texts", iter(corpus)
    counts = count_tokens(_batches(texts, tokenizer, moved), source.rows.shape[0])
    _check(counts, tokenizer, name)
    weights = row_weights(counts, source.frequencies, strength).astype(np.float32)
    rows = EmbeddingTable(source.table * weights[:, None])
    facts = {
        "corpus": name,
        "texts": counts.texts,
        "strength": strength,
        "training_frequencies": source.frequencies is not None,
    }
    fitted = replace(source, rows=rows)
    rewrite(model, out, fitted, {"fitted": facts}, _note(facts), source.rows.kind)
    return facts


def row_weights(
    corpus: Frequencies, training: Frequencies | None, strength: float = STRENGTH
) -> NDArray[np.float64]:
    """The factor of each table row, (V,).

        w = ((c + 0.2) / sqrt(g + 0.2)) ^ (p N / (N + 100)) / mean

    c is the token's idf in the corpus, log((N + 1) / (df + 0.5)), and g its idf in training. N is
    the number of the corpus' texts, so a corpus of few texts changes little. The mean is that of
    w over the corpus' tokens, so a norm behind the table sees numbers of the usual size.

    Args:
        corpus: document frequencies in the corpus.
        training: those in training; None where they are unknown, which drops g.
        strength: p.
    """
    ratio = corpus.idf() + SMOOTHING
    if training is not None:
        ratio /= np.sqrt(training.idf() + SMOOTHING)
    weights = ratio ** (strength * corpus.texts / (corpus.texts + FEW))
    return weights / np.average(weights, weights=corpus.found)


def _batches(
    texts: Iterator[str], tokenizer: TextTokenizer, moved: Callable[[int], object]
) -> Iterator[TokenBatch]:
    """The texts' tokens, batch by batch."""
    while batch := list(islice(texts, BATCH)):
        yield tokenizer.encode(batch)
        moved(len(batch))


def _check(counts: Frequencies, tokenizer: TextTokenizer, corpus: str) -> None:
    """UserError unless the corpus holds a token that the model knows."""
    unknown = getattr(tokenizer.tokenizer.model, "unk_token", None)
    known = counts.found.copy()
    if unknown and (number := tokenizer.tokenizer.token_to_id(unknown)) is not None:
        known[number] = 0
    if not counts.texts:
        raise UserError(f"{corpus}: no text in it: give a corpus with texts")
    if not known.any():
        raise UserError(
            f"{corpus}: none of its {counts.texts:,} texts has a word that the model knows: "
            "give texts in the model's language"
        )


def _note(facts: dict[str, Any]) -> str:
    """The section of the model card."""
    g = "" if facts["training_frequencies"] else " The training frequencies were unknown."
    return (
        f"## Fitted to a corpus\n\nThe rows are reweighted by the idf of {facts['texts']:,} texts "
        f"of `{facts['corpus']}`, with strength {facts['strength']:g} (`sse fit`).{g} Scores above "
        "are those of the model before.\n"
    )
