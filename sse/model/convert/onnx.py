"""The model as an ONNX graph (opset 18), for runtimes without Python.

    input_ids (batch, tokens) int64, attention_mask (batch, tokens) int64
    -> sentence_embedding (batch, D) float32, y = norm(mask @ E[ids] / max(sum(mask), 1))
    -> last_hidden_state (batch, tokens, D), y once for each token: transformers.js averages that

- Batch and tokens are of any size; y is not L2-normalised.
- Smaller rows stay small in the file and are decoded after the Gather. A row's scale goes into the
  mask: with w = q * s, mask @ w = (mask * s) @ q. Of int4 two columns share a byte, j and j + D/2.
  ONNX has 4-bit tensors from opset 21 on only, so arithmetic takes the byte apart.
- The graph holds no tokenizer: read the folder's `tokenizer.json` with `tokenizers` or
  transformers.js, and encode without special tokens.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from sse.common.errors import UserError, import_extra
from sse.common.files import atomic_file
from sse.model.folder import ModelFolder, read_folder
from sse.model.norm_forms import LAYERNORM_EPS, NORM_FORMS, TINY, Diagonal, Standard
from sse.model.quantise import quantise_rows, truncate
from sse.model.table import check_finite

OPSET, IR_VERSION = 18, 9  # onnxruntime 1.15 and onnxruntime-web read these
MAX_BYTES = 2**31 - 2**20  # of a table: a protobuf file holds 2 GB
# {name in `sse.model.norm_forms.ACTIVATIONS`: (operator, its further inputs)}
OPERATORS: dict[str, tuple[str | None, dict[str, Any]]] = {
    "Identity": (None, {}),
    "Tanh": ("Tanh", {}),
    "Hardtanh": ("Clip", {"low": np.float32(-1), "high": np.float32(1)}),
}


def export_onnx(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    dim: int | None = None,
    rows: str = "float32",
) -> Path:
    """Write a model folder as an ONNX file, whole or not at all.

    Args:
        source: a folder of any layout that `sse.model.folder` knows.
        target: the file.
        dim: write the first `dim` dimensions only.
        rows: how the table is stored: a kind of `sse.model.quantise.quantise_rows`.

    Returns:
        The file.

    Raises:
        UserError: the package onnx is missing, `source` holds no model, `dim` is no prefix of D or
            the norm needs all of D, rows that the table cannot have, or one of more than 2 GB.
    """
    onnx = import_extra("onnx")
    model = read_folder(source)
    if dim is not None:
        model = truncate(model, dim)
    check_finite(model.table, model.rows.name)
    table, scales = quantise_rows(model.table, rows)
    if table.nbytes > MAX_BYTES:
        raise UserError(
            f"{source}: {table.nbytes:,} bytes, and ONNX holds 2 GB: give a dim or smaller rows"
        )
    with atomic_file(target) as temporary:
        temporary.write_bytes(_graph(onnx, model, table, scales).SerializeToString())
    return Path(target)


def _graph(onnx: Any, model: ModelFolder, table: Any, scales: Any) -> Any:
    """The ONNX model, for B texts of T tokens; padding adds zeros to a matrix product."""
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    node, info = helper.make_node, helper.make_tensor_value_info
    pooled, values = _pool(node, onnx.TensorProto.FLOAT, table, scales)
    norm, constants = _norm(node, model.norm)
    values |= {**model.vectors, **constants}
    nodes = [
        node("Cast", ["attention_mask"], ["mask"], to=onnx.TensorProto.FLOAT),
        *pooled,
        node("ReduceSum", ["mask", "tokens"], ["count"], keepdims=1),
        node("Max", ["count", "one"], ["length"]),  # an empty text has the mean 0
        node("Div", ["sum", "length"], ["mean"]),
        *norm,
        node("Unsqueeze", ["sentence_embedding", "tokens"], ["vector"]),  # (B, 1, D)
        node("Unsqueeze", ["mask", "last"], ["places"]),  # (B, T, 1)
        node("Mul", ["places", "zero"], ["zeros"]),
        node("Add", ["zeros", "vector"], ["last_hidden_state"]),
    ]
    int64, float32 = onnx.TensorProto.INT64, onnx.TensorProto.FLOAT
    shape, dim = ["batch", "tokens"], model.rows.shape[1]
    inputs = [info(name, int64, shape) for name in ("input_ids", "attention_mask")]
    outputs = [
        info("sentence_embedding", float32, ["batch", dim]),
        info("last_hidden_state", float32, [*shape, dim]),
    ]
    tensors = [
        numpy_helper.from_array(np.array(value, order="C"), name) for name, value in values.items()
    ]
    proto = helper.make_model(
        helper.make_graph(nodes, "stable-static-embedding", inputs, outputs, tensors),
        producer_name="stable-static-embedding",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(proto)
    return proto


def _pool(node: Any, float32: int, table: Any, scales: Any) -> tuple[list[Any], dict[str, Any]]:
    """The nodes from `mask` (B, T) to `sum` (B, D), and their constants, of rows of any kind."""
    values: dict[str, Any] = {
        "table": table,
        "tokens": np.array([1], np.int64),
        "last": np.array([-1], np.int64),
        "one": np.float32(1),
        "zero": np.float32(0),
    }
    nodes = [
        node("Gather", ["table", "input_ids"], ["stored"]),  # (B, T, D), of int4 D / 2
        node("Cast", ["stored"], ["rows"], to=float32),
    ]
    shares = "mask"
    if scales is not None:
        values["scales"], shares = scales, "shares"
        nodes += [
            node("Gather", ["scales", "input_ids"], ["scale"]),
            node("Mul", ["mask", "scale"], ["shares"]),
        ]
    nodes.append(node("Unsqueeze", [shares, "tokens"], ["weights"]))  # (B, 1, T)
    if table.dtype == np.uint8:
        values |= {"table": _halves(table), "sixteen": np.float32(16), "steps": np.float32(7.5)}
        return nodes + _nibbles(node), values
    nodes += [
        node("MatMul", ["weights", "rows"], ["sums"]),  # (B, 1, D)
        node("Squeeze", ["sums", "tokens"], ["sum"]),
    ]
    return nodes, values


def _nibbles(node: Any) -> list[Any]:
    """The nodes from int4 rows to `sum`: w = (q / 7.5 - 1) * s, a byte is 16 * first + second."""
    return [
        node("Div", ["rows", "sixteen"], ["shifted"]),
        node("Floor", ["shifted"], ["first"]),
        node("Mul", ["first", "sixteen"], ["high"]),
        node("Sub", ["rows", "high"], ["second"]),
        node("MatMul", ["weights", "first"], ["sums_first"]),
        node("MatMul", ["weights", "second"], ["sums_second"]),
        node("Concat", ["sums_first", "sums_second"], ["sums"], axis=-1),
        node("Squeeze", ["sums", "tokens"], ["levels"]),
        node("Div", ["levels", "steps"], ["spans"]),
        node("ReduceSum", ["shares", "tokens"], ["shift"], keepdims=1),
        node("Sub", ["spans", "shift"], ["sum"]),
    ]


def _halves(table: Any) -> Any:
    """Bytes of the columns 2 j and 2 j + 1 become bytes of the columns j and j + D/2."""
    q = np.stack([table >> 4, table & 15], axis=2).reshape(len(table), -1)
    first, second = np.split(q, 2, axis=1)
    return first << 4 | second


def _norm(node: Any, norm: str) -> tuple[list[Any], dict[str, Any]]:
    """The norm's steps as nodes from `mean` to `sentence_embedding`, and their constants."""
    nodes: list[Any] = []
    constants: dict[str, Any] = {}
    at = "mean"  # the name of the last node's output, which the next node takes

    def add(kind: str, *others: str, **attributes: Any) -> str:
        name = f"{kind}_{len(nodes)}"
        nodes.append(node(kind, [at, *others], [name], **attributes))
        return name

    for step in NORM_FORMS[norm].steps:
        if isinstance(step, Diagonal):
            at = add("Mul", step.scale)
            if step.shift is not None:
                at = add("Add", step.shift)
            kind, bounds = OPERATORS[step.activation]
            if kind is not None:
                at = add(kind, *bounds)
                constants |= bounds
        elif isinstance(step, Standard):
            at = add("LayerNormalization", "weight", "bias", epsilon=float(LAYERNORM_EPS))
        else:
            constants["tiny"] = TINY
            length = add("ReduceL2", "last", keepdims=1)
            nodes.append(node("Max", [length, "tiny"], ["floor"]))
            at = add("Div", "floor")
    add("Identity")
    nodes[-1].output[0] = "sentence_embedding"
    return nodes, constants
