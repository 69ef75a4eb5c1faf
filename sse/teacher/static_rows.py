"""A static table's row of each of our tokens.

- With the same tokenizer, row i is the table's row i.
- Otherwise a token's text is read by the table's tokenizer, and its row is the mean of theirs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sse.common.errors import UserError, first_line
from sse.model.folder import read_folder
from sse.model.table import EmbeddingTable
from sse.teacher.folder import static_path
from sse.teacher.tokens import Tokens, spelling
from sse.text.token_batch import TokenBatch, offsets_of
from sse.text.tokenizer import TextTokenizer, load_tokenizer


@dataclass(frozen=True)
class Rows:
    """Rows of a static table.

    Attributes:
        table: (V, W) a row for each of our tokens.
        known: (V,) whether the teacher knows the token.
        keep_scale: whether the rows keep their scale, as the norm's vectors belong to it.
        norm: name of the norm behind the table.
        norm_vectors: the norm's vectors.
    """

    table: NDArray[np.float32]
    known: NDArray[np.bool_]
    keep_scale: bool = False
    norm: str = "none"
    norm_vectors: dict[str, NDArray[np.float32]] = field(default_factory=dict)


def own_rows(folder: Path, tokenizer: TextTokenizer) -> Rows:
    """Rows and norm of a model of this project, in any layout of `sse.model.folder`."""
    model = read_folder(folder)
    teacher = load_tokenizer(str(model.tokenizer))
    model.check_tokenizer(teacher.vocab_size)
    table, known = _rows(model.table, teacher, tokenizer)
    return Rows(table, known, True, model.norm, model.vectors)


def static_rows(folder: Path, tokenizer: TextTokenizer) -> Rows:
    """Rows of a StaticEmbedding or a model2vec table."""
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    try:
        module = StaticEmbedding.load(str(static_path(folder)))
    except Exception as error:
        raise UserError(
            f"`start` {folder} does not load ({first_line(error)}): give a folder with the table "
            "and its tokenizer.json"
        ) from error
    table = module.embedding.weight.detach().float().numpy()
    if not np.isfinite(table).all():
        raise UserError(f"`start` {folder} holds NaN or infinite rows: give another teacher")
    rows, known = _rows(table, TextTokenizer(module.tokenizer), tokenizer)
    return Rows(rows, known)


def _rows(
    table: NDArray[np.float32], teacher: TextTokenizer, tokenizer: TextTokenizer
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """A row (V, W) for each of our tokens, and whether the teacher knows it."""
    tokens = Tokens(tokenizer.tokenizer, tokenizer.vocab_size)
    same = teacher.tokenizer.get_vocab() if spelling(teacher.tokenizer) == tokens.spelling else {}
    own = [same.get(string or "") for string in tokens.strings]
    texts = [text if n is None else "" for text, n in zip(tokens.texts, own, strict=True)]
    read = teacher.encode(texts)
    name = getattr(teacher.tokenizer.model, "unk_token", None)
    unknown = teacher.tokenizer.token_to_id(name) if name else None
    ids = [
        [n] if n is not None else [i for i in read[row].tolist() if i != unknown]
        for row, n in enumerate(own)
    ]
    known = np.array([bool(each) for each in ids])
    flat = np.array([i for each in ids for i in each], np.int32)
    batch = TokenBatch(flat, offsets_of([len(each) for each in ids]))
    rows = np.zeros((len(known), table.shape[1]), np.float32)
    EmbeddingTable(table).mean(batch.ids, batch.offsets, rows)
    return rows, known
