"""The model as an ONNX graph, for runtimes without Python.

    input_ids (batch, tokens) int64, attention_mask (batch, tokens) int64
    -> sentence_embedding (batch, D) float32, y = norm(mask @ E[ids] / max(sum(mask), 1))

Batch and tokens are of any size; y is not L2-normalised. The graph holds no tokenizer: read the
folder's `tokenizer.json` with `tokenizers` or transformers.js, and encode without special tokens.
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
from sse.model.quantise import truncate
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
    source: str | os.PathLike[str], target: str | os.PathLike[str], dim: int | None = None
) -> Path:
    """Write a model folder as an ONNX file, whole or not at all.

    Args:
        source: a folder of any layout that `sse.model.folder` knows.
        target: the file.
        dim: write the first `dim` dimensions only.

    Returns:
        The file.

    Raises:
        UserError: the package onnx is missing, `source` holds no model, `dim` is no prefix of D or
            the norm needs all of D, or the table has more than 2 GB.
    """
    onnx = import_extra("onnx")
    model = read_folder(source)
    if dim is not None:
        model = truncate(model, dim)
    rows, columns = model.rows.shape
    if rows * columns * 4 > MAX_BYTES:
        raise UserError(f"{source}: {rows * columns * 4:,} bytes; ONNX holds 2 GB: give a dim")
    with atomic_file(target) as temporary:
        temporary.write_bytes(_graph(onnx, model).SerializeToString())
    return Path(target)


def _graph(onnx: Any, model: ModelFolder) -> Any:
    """The ONNX model, for B texts of T tokens; padding adds zeros to a matrix product."""
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    check_finite(model.table, model.rows.name)
    values: dict[str, Any] = {"table": model.table, **model.vectors}
    node = helper.make_node
    norm, constants = _norm(node, model.norm)
    values |= {"tokens": np.array([1], np.int64), "one": np.float32(1), **constants}
    nodes = [
        node("Gather", ["table", "input_ids"], ["rows"]),  # (B, T, D)
        node("Cast", ["attention_mask"], ["mask"], to=onnx.TensorProto.FLOAT),
        node("Unsqueeze", ["mask", "tokens"], ["weights"]),  # (B, 1, T)
        node("MatMul", ["weights", "rows"], ["sums"]),  # (B, 1, D)
        node("Squeeze", ["sums", "tokens"], ["sum"]),  # (B, D)
        node("ReduceSum", ["mask", "tokens"], ["count"], keepdims=1),
        node("Max", ["count", "one"], ["length"]),  # an empty text has the mean 0
        node("Div", ["sum", "length"], ["mean"]),
        *norm,
    ]
    info = helper.make_tensor_value_info
    int64, shape = onnx.TensorProto.INT64, ["batch", "tokens"]
    inputs = [info(name, int64, shape) for name in ("input_ids", "attention_mask")]
    output = info("sentence_embedding", onnx.TensorProto.FLOAT, ["batch", model.rows.shape[1]])
    tensors = [
        numpy_helper.from_array(np.array(value, order="C"), name) for name, value in values.items()
    ]
    proto = helper.make_model(
        helper.make_graph(nodes, "stable-static-embedding", inputs, [output], tensors),
        producer_name="stable-static-embedding",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(proto)
    return proto


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
            constants |= {"tiny": TINY, "last": np.array([-1], np.int64)}
            length = add("ReduceL2", "last", keepdims=1)
            nodes.append(node("Max", [length, "tiny"], ["floor"]))
            at = add("Div", "floor")
    add("Identity")
    nodes[-1].output[0] = "sentence_embedding"
    return nodes, constants
