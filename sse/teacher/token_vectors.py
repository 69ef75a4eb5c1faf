"""A transformer's vector of each token: the token alone, the mean of the last layer.

- Where the teacher has the same token, it reads its own id: `[CLS] id [SEP]`.
- Otherwise it reads the token's text through its own tokenizer: `[CLS] pieces [SEP]`. So "##x"
  that it lacks is read as "x", and a whole word that it lacks as the word's pieces.
- The mean is over all positions, the special tokens' among them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tqdm.auto import tqdm

from sse.common.errors import UserError, first_line
from sse.teacher.tokens import Tokens, check_known, spelling

# Without one of these transformers makes a tokenizer that knows nothing.
TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model",
              "sentencepiece.bpe.model")  # fmt: skip
POSITIONS = 8_192  # of one forward pass


def token_vectors(folder: Path, teacher: str, tokens: Tokens) -> NDArray[np.float32]:
    """The vectors (V, W) of `tokens`; a row of NaN for a token that the teacher does not know.

    Args:
        folder: a folder that sentence-transformers loads, its first module a transformer.
        teacher: its name in errors.
        tokens: what it reads.

    Raises:
        UserError: a teacher that does not load, has no tokenizer, or gives NaN.
    """
    from sentence_transformers import SentenceTransformer

    if not any(path.name in TOKENIZERS for path in folder.rglob("*")):
        raise UserError(f"`start` {teacher} has no tokenizer.json: give a folder that has one")
    try:
        model = SentenceTransformer(str(folder))
        reader = Tokenizer.from_str(model.tokenizer.backend_tokenizer.to_str())
    except Exception as error:
        raise UserError(
            f"`start` {teacher} does not load ({first_line(error)}): give a folder of "
            "sentence-transformers with its tokenizer.json"
        ) from error
    inputs = token_inputs(tokens, reader)
    check_known(np.array([bool(ids) for ids in inputs]), teacher)
    vectors = np.full((len(inputs), 0), np.nan, np.float32)
    for rows in _batches(inputs):
        part = _mean_of_last_layer(model, [inputs[row] for row in rows], teacher)
        if not vectors.shape[1]:
            vectors = np.full((len(inputs), part.shape[1]), np.nan, np.float32)
        vectors[rows] = part
    return vectors


def token_inputs(tokens: Tokens, reader: Tokenizer) -> list[list[int]]:
    """The teacher's ids of each token, with its special tokens; [] for a token unknown to it."""
    reader.no_truncation()
    reader.no_padding()
    before, after = _special_ids(reader)
    same = reader.get_vocab() if spelling(reader) == tokens.spelling else {}
    own = [same.get(string or "") for string in tokens.strings]
    read = reader.encode_batch_fast(
        [text if number is None else "" for text, number in zip(tokens.texts, own, strict=True)],
        add_special_tokens=False,
    )
    unknown = _unknown_id(reader)
    inputs = []
    for number, encoding in zip(own, read, strict=True):
        ids = encoding.ids if number is None else [number]
        known = number is not None or any(each != unknown for each in ids)
        inputs.append([*before, *ids, *after] if known else [])
    return inputs


def _special_ids(reader: Tokenizer) -> tuple[list[int], list[int]]:
    """The ids that the teacher puts before and after a text."""
    whole, bare = reader.encode("a").ids, reader.encode("a", add_special_tokens=False).ids
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return whole[:start], whole[start + len(bare) :]
    return [], []


def _unknown_id(reader: Tokenizer) -> int | None:
    """The id of what the teacher cannot read."""
    name = getattr(reader.model, "unk_token", None)
    return reader.token_to_id(name) if name else getattr(reader.model, "unk_id", None)


def _batches(inputs: list[list[int]]) -> Iterator[list[int]]:
    """Rows of inputs of one length, with a bar."""
    by_length: dict[int, list[int]] = {}
    for row, ids in enumerate(inputs):
        if ids:
            by_length.setdefault(len(ids), []).append(row)
    total = sum(map(len, by_length.values()))
    with tqdm(total=total, desc="tokens through the teacher", unit=" tokens", disable=None) as bar:
        for length, rows in sorted(by_length.items()):
            size = max(1, POSITIONS // length)
            for start in range(0, len(rows), size):
                yield rows[start : start + size]
                bar.update(len(rows[start : start + size]))
    sys.stderr.flush()


@torch.inference_mode()
def _mean_of_last_layer(model: object, inputs: list[list[int]], teacher: str) -> np.ndarray:
    """The mean over all positions of the last layer, (n, W); `inputs` have one length."""
    ids = torch.tensor(inputs, device=model.device)  # type: ignore[attr-defined]
    features = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    layer = model[0](features)["token_embeddings"]  # type: ignore[index]
    vectors: np.ndarray = layer.float().mean(1).cpu().numpy()
    if not np.isfinite(vectors).all():
        raise UserError(f"`start` {teacher} gives NaN or infinite vectors: give another teacher")
    return vectors
