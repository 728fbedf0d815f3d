"""Random small Q/DQ graphs, as a hypothesis strategy.

All steps are powers of two and each linear reads quantized values, so every sum is exact in
float32 and no kernel may give other bits than another.
"""

from __future__ import annotations

import numpy as np
import onnx
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support.onnx_tiny import Array, Tiny, f32, noise

WEIGHT_FORMS = (
    "float",
    "quantized",
    "quantized, transposed",
    "codes",
    "codes, transposed",
    "per tensor",
    "gemm",
    "gemm transB",
)


def dyadic(values: Array) -> NDArray[np.float32]:
    """Round to multiples of 1/64."""
    return f32(np.rint(values * 64) / 64)


def steps_of(values: Array) -> NDArray[np.float32]:
    """One power of two per column, so that the column fits int8."""
    amax = np.maximum(np.abs(values).max(axis=0), 1 / 64)
    return f32(np.exp2(np.ceil(np.log2(amax / 127))))


def weight(tiny: Tiny, form: str, shape: tuple[int, int], seed: int) -> tuple[str, bool]:
    """Add a weight [K, N] in one of `WEIGHT_FORMS`; tells whether it is stored for transB."""
    k, n = shape
    turned = form.endswith(("transposed", "transB"))
    values = dyadic(noise(k, n, seed=seed))
    axis = 0 if turned else 1
    scale = steps_of(values)
    stored = np.ascontiguousarray(values.T if turned else values)
    name = f"weight{seed}"
    if form == "float":
        return tiny.const(name, stored), False
    if form == "per tensor":
        return tiny.pair(tiny.const(name, stored), 1 / 32), False
    if form.startswith("codes"):
        codes = np.rint(stored / (scale[:, None] if turned else scale)).astype(np.int8)
        params = [
            tiny.const(f"{name}_step", scale),
            tiny.const(f"{name}_zero", np.zeros(n, np.int8)),
        ]
        found = tiny.op("DequantizeLinear", tiny.const(name, codes), *params, axis=axis)
    else:
        found = tiny.pair(tiny.const(name, stored), scale, axis=axis)
    if form.endswith("transposed"):
        return tiny.op("Transpose", found, perm=[1, 0]), False
    return found, turned


def linear(tiny: Tiny, source: str, form: str, shape: tuple[int, int], seed: int) -> str:
    """Add `source` times a weight in one of `WEIGHT_FORMS`."""
    operand, turned = weight(tiny, form, shape, seed)
    if not form.startswith("gemm"):
        return tiny.op("MatMul", source, operand)
    bias = tiny.const(f"bias{seed}", dyadic(noise(shape[1], seed=seed + 50)))
    return tiny.op("Gemm", source, operand, bias, transB=int(turned))


@st.composite
def random_graphs(draw: st.DrawFn) -> onnx.ModelProto:
    """Graph `x` float32 [3, width] -> `y` float32 [3, ...] with Q/DQ in all kinds of places."""
    tiny = Tiny()
    width = first = draw(st.integers(1, 9))
    value = "x"
    for seed in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(["linear", "pair", "layout", "relu", "branch"]))
        if kind == "linear":
            n = draw(st.integers(1, 9))
            value = tiny.pair(value, 1 / 32)
            value = linear(tiny, value, draw(st.sampled_from(WEIGHT_FORMS)), (width, n), seed)
            width = n
        elif kind == "pair":
            value = tiny.pair(value, draw(st.sampled_from([1 / 64, 1 / 32])))
        elif kind == "layout":
            shape = tiny.const(f"shape{seed}", np.array([3, 1, width]))
            back = tiny.const(f"back{seed}", np.array([3, width]))
            value = tiny.op("Reshape", tiny.op("Reshape", value, shape), back)
        elif kind == "relu":
            value = tiny.op("Relu", value)
        else:
            value = tiny.op("Add", tiny.pair(value, 1 / 64), tiny.pair(value, 1 / 64))
    tiny.op("Neg", value, out="y")
    return tiny.build({"x": [3, first]}, {"y": [3, width]})
