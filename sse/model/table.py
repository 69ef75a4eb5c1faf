"""The table of token rows and the mean over a text's rows, on one thread and without torch.

- Rows stay as stored (float32, float16, int8 or int4), usually memory-mapped.
- The C module `sse.model._table` decodes and adds the rows in one pass, without the GIL. It is
  built with the package where there is a C compiler.
- Without it numpy does the same on float32 rows, text by text.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sse.common.errors import UserError

try:
    _table: Any = import_module("sse.model._table")
except ImportError:  # not compiled: no C compiler at installation
    _table = None
if getattr(_table, "VERSION", 1) != 2:  # compiled from other sources: install again
    _table = None

NOT_FINITE = -3  # as in _table.c
CHECKED_ROWS = 4096  # at a time, so that the check takes little memory
ROW_KINDS = {"float32": 0, "float16": 1, "int8": 2, "int4": 3}  # numbered as in _table.c


class EmbeddingTable:
    """The rows E (V, D) of a model, as stored.

    Args:
        rows: (V, D) float32, float16 or int8; (V, D / 2) uint8 for int4.
        scales: (V,) float32 for int8 (w = q * scale) and int4 (w = (q / 7.5 - 1) * scale).
        name: what errors call it.

    Attributes:
        kind: `float32`, `float16`, `int8` or `int4`.
        shape: (V, D).
        nbytes: the bytes of rows and scales as stored.
        compiled: whether the C module takes the means.

    Raises:
        UserError: scales that are missing, unneeded or of another number than the rows.
    """

    def __init__(
        self,
        rows: NDArray[Any],
        scales: NDArray[np.float32] | None = None,
        name: str = "the table",
    ) -> None:
        self.name = name
        self.kind = "int4" if rows.dtype == np.uint8 else str(rows.dtype)
        if self.kind not in ROW_KINDS:
            rows, self.kind = rows.astype(np.float32), "float32"
        self.shape: tuple[int, int] = (len(rows), rows.shape[1] * (2 if self.kind == "int4" else 1))
        self.rows = np.require(rows, None, ["C", "ALIGNED"])
        self._finite = np.zeros(len(rows), np.uint8)  # 1 where a row of floats was looked at
        self.scales = None if scales is None else np.ascontiguousarray(scales, np.float32).ravel()
        self.nbytes = rows.nbytes + (0 if self.scales is None else self.scales.nbytes)
        if (self.kind in ("int8", "int4")) != (self.scales is not None):
            raise UserError(f"{self.kind} rows {'lack' if scales is None else 'need no'} scales")
        if self.scales is not None and len(self.scales) != len(rows):
            raise UserError(f"{len(self.scales)} scales for {len(rows)} rows: a damaged table")
        self.compiled = _table is not None
        if not self.compiled and self.kind != "float32":
            # numpy decodes the whole table at once faster than rows text by text.
            self.rows = self.dense()

    def dense(self, ids: NDArray[np.integer] | slice = slice(None)) -> NDArray[np.float32]:
        """The rows `ids`, decoded to float32 (n, D)."""
        rows = np.asarray(self.rows[ids])
        if rows.dtype == np.float32 or self.scales is None:
            return rows.astype(np.float32, copy=False)
        scales = self.scales[ids, None]
        if self.kind == "int8":
            return rows * scales
        out = np.empty((len(rows), self.shape[1]), np.float32)
        out[:, 0::2] = rows >> 4
        out[:, 1::2] = rows & 15
        out /= 7.5
        out -= 1
        out *= scales
        return out

    def mean(
        self, ids: NDArray[np.integer], offsets: NDArray[np.int64], out: NDArray[np.float32]
    ) -> None:
        """Write the mean of each text's rows, cut to the columns of `out`; 0 for no ids.

        Args:
            ids: token ids of all texts, (N,).
            offsets: text t has the ids from offsets[t] to offsets[t + 1]; (n + 1,). They may start
                above 0, so a slice of a batch's offsets will do.
            out: (n, d) float32, contiguous, d <= D.

        Raises:
            UserError: an id beyond the table, or a row that holds NaN or infinite values.
        """
        if self.compiled:
            if ids.dtype.itemsize != 4 or not ids.flags.c_contiguous:
                ids = np.ascontiguousarray(ids, np.uint32)
            beyond = _table.pool(
                ROW_KINDS[self.kind], len(self.rows), self.rows, self.scales,
                ids, offsets, out, out.shape[1], self._finite,
            )  # fmt: skip
        else:
            beyond = self._mean(ids, offsets, out)
        if beyond <= NOT_FINITE:
            raise not_finite(self.name, NOT_FINITE - beyond)
        if beyond >= 0:
            raise UserError(
                f"token id {beyond} is beyond the table's {len(self.rows)} rows: "
                "the tokenizer belongs to another model"
            )

    def _mean(
        self, ids: NDArray[np.integer], offsets: NDArray[np.int64], out: NDArray[np.float32]
    ) -> int:
        """`mean` without the C module: what `_table.pool` returns."""
        ids = ids[offsets[0] : offsets[-1]]
        offsets = offsets - offsets[0]
        dim = out.shape[1]
        rows = self.rows[:, :dim]
        if len(ids) and (highest := int(ids.max())) >= len(rows):
            return highest
        lengths = np.maximum(np.diff(offsets), 1).astype(np.float32)
        ends = offsets.tolist()
        for text in range(len(out)):
            np.add.reduce(rows.take(ids[ends[text] : ends[text + 1]], 0), 0, out=out[text])
        out /= lengths[:, None]
        if not np.isfinite(out).all():
            faulty = ~np.isfinite(self.rows[ids]).all(1)
            if faulty.any():
                return NOT_FINITE - int(ids[faulty.argmax()])
        return -1


def not_finite(name: str, row: int) -> UserError:
    """The error for a table's row that holds NaN or infinite values."""
    return UserError(
        f"{name} holds NaN or infinite values in row {row}: train or export the model again"
    )


def check_finite(table: NDArray[np.floating], name: str = "the table") -> None:
    """UserError for the first row of a table (V, D) that holds NaN or infinite values."""
    for start in range(0, len(table), CHECKED_ROWS):
        finite = np.isfinite(table[start : start + CHECKED_ROWS]).all(1)
        if not finite.all():
            raise not_finite(name, start + int(finite.argmin()))
