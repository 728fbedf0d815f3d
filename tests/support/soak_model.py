"""A model whose every output is a small whole number, so that its bits are known beforehand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.support.runtime_bundle import make, vouch

VOCABULARY = 50
HIDDEN = 5
MOST_TOKENS = 96
TABLE = np.random.default_rng(7).integers(0, 2, (VOCABULARY, HIDDEN)).astype(np.float32)


def bundle(folder: Path) -> Path:
    """Tokens [B, S, 5] = table[ids] * mask; sums [B, 5] = their sum over S, at most 96.

    Whole numbers up to 256 are exact in bfloat16 too, and so are their sums in any order.
    """
    axes = ["batch", "sequence"]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, axes)
        for name in ("input_ids", "attention_mask")
    ]
    outputs = [
        helper.make_tensor_value_info("tokens", TensorProto.FLOAT, [*axes, HIDDEN]),
        helper.make_tensor_value_info("sums", TensorProto.FLOAT, ["batch", HIDDEN]),
    ]
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["weights"]),
        helper.make_node("Mul", ["rows", "weights"], ["tokens"]),
        helper.make_node("ReduceSum", ["tokens", "one"], ["sums"], keepdims=0),
    ]
    constants = [
        numpy_helper.from_array(TABLE, "table"),
        numpy_helper.from_array(np.array([-1]), "last"),
        numpy_helper.from_array(np.array([1]), "one"),
    ]
    graph = helper.make_graph(nodes, "soak", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    make(folder)
    onnx.save(model, str(folder / "model.int8.onnx"))
    vouch(folder)
    return folder


def wanted(ids: np.ndarray) -> dict[str, Any]:
    """What the model gives for ids [..., S] without padding."""
    tokens = TABLE[ids]
    return {"tokens": tokens, "sums": tokens.sum(axis=-2)}
