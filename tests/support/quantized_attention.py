"""One attention with Q/DQ on all six matmuls, of any head size, and profiles for it."""

from __future__ import annotations

import numpy as np
import onnx

from tests.support.onnx_tiny import Tiny, noise
from trt_int8.graph.half import to_half
from trt_int8.graph.normalize import normalize
from trt_int8.spec.shapes import DimRange, InputShape, Profile, input_shape

HIDDEN = 128
MATMULS = 6


def quantized_attention(head_dim: int) -> onnx.ModelProto:
    """An FP16 twin from x to y, both [B, S, 128]; 128 / `head_dim` heads, seeded weights."""
    tiny = Tiny()

    def linear(name: str, x: str) -> str:
        scale = np.full(HIDDEN, 0.01, np.float32)
        codes = np.clip(np.rint(noise(HIDDEN, HIDDEN) * 30), -127, 127).astype(np.int8)
        names = [
            tiny.const(f"{name}_w", codes),
            tiny.const(f"{name}_s", scale),
            tiny.const(f"{name}_z", np.zeros(HIDDEN, np.int8)),
        ]
        return tiny.op("MatMul", x, tiny.op("DequantizeLinear", *names, axis=1), name=name)

    def head(name: str, x: str) -> str:
        shape = tiny.const(f"{name}_shape", np.array([0, 0, HIDDEN // head_dim, head_dim]))
        split = tiny.op("Reshape", linear(name, x), shape)
        return tiny.pair(tiny.op("Transpose", split, perm=[0, 2, 1, 3]), 0.03)

    x = tiny.pair("x", 0.03)
    q, k, v = (head(name, x) for name in "qkv")
    scores = tiny.op("MatMul", q, tiny.op("Transpose", k, perm=[0, 1, 3, 2]), name="scores")
    weights = tiny.pair(tiny.op("Softmax", scores, axis=-1), 1 / 127)
    context = tiny.op("MatMul", weights, v, name="context")
    flat = tiny.const("flat", np.array([0, 0, HIDDEN]))
    merged = tiny.op("Reshape", tiny.op("Transpose", context, perm=[0, 2, 1, 3]), flat)
    out = linear("out", tiny.pair(merged, 0.03))
    tiny.op("Identity", out, out="y")
    axes: list[int | str] = ["batch", "sequence", HIDDEN]
    return to_half(normalize(tiny.build({"x": axes}, {"y": axes})))


def block_profile(batch: DimRange, sequence: DimRange) -> Profile:
    """A profile of its input x."""
    hidden = DimRange(min=HIDDEN, opt=HIDDEN, max=HIDDEN)
    shape: InputShape = input_shape("x", (batch, sequence, hidden))
    return (shape,)
