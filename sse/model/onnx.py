"""The model as an ONNX graph, for runtimes without Python: padded ids and mask to vectors.

    input_ids (batch, tokens) int64, attention_mask (batch, tokens) int64
    -> sentence_embedding (batch, D) float32, not normalised

Both sizes are free. The mean is one matrix product of mask and rows, so that padding costs a
multiplication and no copy. The tokenizer stays outside: its `tokenizer.json` is read by
`tokenizers` and by transformers.js; encode without special tokens.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sse.common.errors import UserError, import_extra
from sse.common.files import atomic_file
from sse.model.folder import ModelFolder, read_folder
from sse.model.norm_forms import LAYERNORM_EPS, NORM_FORMS, TINY, Diagonal, Standard
from sse.model.quantise import truncate
from sse.text.token_batch import TokenBatch

OPSET, IR_VERSION = 18, 9  # old enough for onnxruntime 1.15 and onnxruntime-web
LARGEST = 2**31 - 2**20  # bytes that a protobuf file holds
# The operator of each of `sse.model.norm_forms.ACTIVATIONS`, and its further inputs.
ACTIVATIONS: dict[str, tuple[str | None, dict[str, Any]]] = {
    "Identity": (None, {}),
    "Tanh": ("Tanh", {}),
    "Hardtanh": ("Clip", {"low": np.float32(-1), "high": np.float32(1)}),
    "Erf": ("Erf", {}),
}


def export_onnx(
    source: str | os.PathLike[str], target: str | os.PathLike[str], dim: int | None = None
) -> Path:
    """Write the model in folder `source` as the ONNX file `target`, whole or not at all.

    Raises:
        UserError: onnx is missing, no model there, a dim that is no prefix, more than 2 GB.
    """
    onnx = import_extra("onnx")
    model = read_folder(source)
    if dim is not None:
        model = truncate(model, dim)
    rows, columns = model.rows.shape
    if rows * columns * 4 > LARGEST:
        raise UserError(f"{source}: {rows * columns * 4:,} bytes; ONNX holds 2 GB: give a dim")
    with atomic_file(target) as temporary:
        temporary.write_bytes(_graph(onnx, model).SerializeToString())
    return Path(target)


def padded(batch: TokenBatch) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids and mask, both (n, longest), of a ragged batch: what the graph takes."""
    lengths = batch.lengths
    mask = np.arange(lengths.max(initial=0)) < lengths[:, None]
    ids = np.zeros(mask.shape, np.int64)
    ids[mask] = batch.ids
    return ids, mask.astype(np.int64)


def _graph(onnx: Any, model: ModelFolder) -> Any:
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    dim = model.rows.shape[1]
    values: dict[str, Any] = {"table": model.table, **model.vectors}
    values |= {"tokens": np.array([1], np.int64), "one": np.float32(1)}
    node = helper.make_node
    norm, constants = _norm(node, model.norm)
    values |= constants
    nodes = [
        node("Gather", ["table", "input_ids"], ["rows"]),  # (B, T, D)
        node("Cast", ["attention_mask"], ["mask"], to=onnx.TensorProto.FLOAT),
        node("Unsqueeze", ["mask", "tokens"], ["weights"]),  # (B, 1, T)
        node("MatMul", ["weights", "rows"], ["sums"]),  # (B, 1, D)
        node("Squeeze", ["sums", "tokens"], ["sum"]),
        node("ReduceSum", ["mask", "tokens"], ["count"], keepdims=1),
        node("Max", ["count", "one"], ["length"]),  # an empty text has the mean 0
        node("Div", ["sum", "length"], ["mean"]),
        *norm,
    ]
    info = helper.make_tensor_value_info
    ids = [
        info(name, onnx.TensorProto.INT64, ["batch", "tokens"])
        for name in ("input_ids", "attention_mask")
    ]
    graph = helper.make_graph(
        nodes,
        "stable-static-embedding",
        ids,
        [info("sentence_embedding", onnx.TensorProto.FLOAT, ["batch", dim])],
        [
            numpy_helper.from_array(np.array(value, order="C"), name)
            for name, value in values.items()
        ],
    )
    made = helper.make_model(
        graph,
        producer_name="stable-static-embedding",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(made)
    return made


def _norm(node: Any, norm: str) -> tuple[list[Any], dict[str, Any]]:
    """The steps of `norm_forms` as nodes from `mean` to `sentence_embedding`, and constants.

    Every step takes the value `at` and leaves another.
    """
    nodes: list[Any] = []
    constants: dict[str, Any] = {}
    at = "mean"

    def add(kind: str, *others: str, **attributes: Any) -> str:
        name = f"{kind}_{len(nodes)}"
        nodes.append(node(kind, [at, *others], [name], **attributes))
        return name

    for step in NORM_FORMS[norm].steps:
        if isinstance(step, Diagonal):
            at = add("Mul", step.scale)
            if step.shift is not None:
                at = add("Add", step.shift)
            kind, bounds = ACTIVATIONS[step.activation]
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
