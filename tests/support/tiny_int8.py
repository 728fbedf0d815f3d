"""A bundle with one INT8 matmul in half precision, and the answer of exact arithmetic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.support.runtime_bundle import make, vouch
from trt_int8.spec.shapes import InputShape

VOCABULARY, HIDDEN, WIDTH, MOST_TOKENS = 40, 32, 16, 64
SCALE = 2.0**-5
_RANDOM = np.random.default_rng(11)
# Steps of the activation's scale: quantizing loses nothing, so that the answer is known.
STEPS = _RANDOM.integers(-127, 128, (VOCABULARY, HIDDEN))
WEIGHT = _RANDOM.integers(-127, 128, (HIDDEN, WIDTH)).astype(np.int8)
WEIGHT_SCALE = (2.0 ** -_RANDOM.integers(4, 8, WIDTH)).astype(np.float32)


def graph() -> onnx.ModelProto:
    """Tokens [B, S, 16] = relu(table[ids] @ W) * mask, means [B, 16] over the real ones."""
    half, whole = TensorProto.FLOAT16, TensorProto.FLOAT
    axes = ["batch", "sequence"]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, axes)
        for name in ("input_ids", "attention_mask")
    ]
    outputs = [
        helper.make_tensor_value_info("tokens", whole, [*axes, WIDTH]),
        helper.make_tensor_value_info("means", whole, ["batch", WIDTH]),
    ]
    node = helper.make_node
    nodes = [
        node("Gather", ["table", "input_ids"], ["rows"]),
        node("Cast", ["rows"], ["rows_float"], to=whole),
        node("QuantizeLinear", ["rows_float", "scale", "zero"], ["rows_int8"]),
        node("DequantizeLinear", ["rows_int8", "scale", "zero"], ["rows_back"]),
        node("Cast", ["rows_back"], ["rows_half"], to=half),
        node("DequantizeLinear", ["weight", "weight_scale", "weight_zero"], ["w"], axis=1),
        node("Cast", ["w"], ["w_half"], to=half),
        node("MatMul", ["rows_half", "w_half"], ["product"], name="matmul"),
        node("Relu", ["product"], ["kept"]),
        node("Cast", ["attention_mask"], ["mask"], to=half),
        node("Unsqueeze", ["mask", "last"], ["mask_column"]),
        node("Mul", ["kept", "mask_column"], ["masked"]),
        node("Cast", ["masked"], ["tokens"], to=whole),
        node("ReduceSum", ["tokens", "one"], ["sums"], keepdims=0),
        node("Cast", ["mask"], ["mask_float"], to=whole),
        node("ReduceSum", ["mask_float", "one"], ["counts"], keepdims=1),
        node("Max", ["counts", "least"], ["count"]),
        node("Div", ["sums", "count"], ["means"]),
    ]
    constants = {
        "table": (STEPS * SCALE).astype(np.float16),
        "scale": np.float32(SCALE),
        "zero": np.int8(0),
        "weight": WEIGHT,
        "weight_scale": WEIGHT_SCALE,
        "weight_zero": np.zeros(WIDTH, np.int8),
        "last": np.array([-1]),
        "one": np.array([1]),
        "least": np.array([[1]], np.float32),
    }
    made = helper.make_graph(
        nodes,
        "tiny",
        inputs,
        outputs,
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def bundle(folder: Path) -> Path:
    """The graph as both twins, built for batches of 1 to 8 and 2 to 64 tokens."""
    make(folder)
    for name in ("model.int8.onnx", "model.fp16.onnx"):
        onnx.save(graph(), str(folder / name))
    profile = tuple(
        InputShape(name=name, min=(1, 2), opt=(4, 16), max=(8, MOST_TOKENS))
        for name in ("input_ids", "attention_mask")
    )
    vouch(folder, profiles=(profile,))
    return folder


def feeds(batch: int, tokens: int, seed: int = 0) -> dict[str, NDArray[np.int64]]:
    """Random ids with masks of random length, the first row full."""
    random = np.random.default_rng((batch, tokens, seed))
    lengths = random.integers(1, tokens + 1, batch)
    lengths[0] = tokens
    return {
        "input_ids": random.integers(0, VOCABULARY, (batch, tokens)),
        "attention_mask": (np.arange(tokens) < lengths[:, None]).astype(np.int64),
    }


def wanted(given: dict[str, NDArray[np.int64]]) -> dict[str, NDArray[np.float64]]:
    """What exact arithmetic gives."""
    mask = given["attention_mask"][..., None]
    product = STEPS[given["input_ids"]] @ WEIGHT.astype(np.int64)
    tokens = np.maximum(product, 0) * SCALE * WEIGHT_SCALE.astype(np.float64) * mask
    return {"tokens": tokens, "means": tokens.sum(1) / np.maximum(mask.sum(1), 1)}
