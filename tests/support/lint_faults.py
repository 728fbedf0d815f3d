"""Graphs for the linter with a fault in what Q and DQ are told or where they stand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.support.lint_graphs import (
    H,
    Half,
    between,
    with_activation,
    with_weight,
)
from tests.support.onnx_tiny import Array, noise

Make = Callable[[], onnx.ModelProto]


def scale(value: float, dtype: type = np.float32, zero: object = np.int8(0)) -> Make:
    """A pair with this scale and zero point in front of the Linear."""

    def pair(t: Half, tensor: str) -> str:
        step = t.const("s", np.asarray(value, dtype))
        if dtype is np.float16:
            tensor = t.half(tensor)
        point = None if zero is None else t.const("z", np.asarray(zero))
        return t.full(t.pair_of(tensor, step, point))

    def make() -> onnx.ModelProto:
        model = with_activation(pair)
        model.opset_import[0].version = 19 if dtype is np.float16 else 17
        return model

    return make


def weight(kind: str) -> Make:
    """A Linear whose weight is stored in this way."""

    def add(t: Half) -> str:
        if kind == "float":
            return t.const("w", noise(H, H).astype(np.float16))
        if kind == "along K":
            return t.weight("w", axis=0)
        if kind == "int8, turned":
            return t.op("Transpose", t.weight("w", axis=0, turned=True), perm=[1, 0])
        axis = 0 if kind == "turned" else 1
        w = t.const("w", noise(H, H, scale=0.1))
        found = t.half(t.pair(w, np.full(H, 0.02, np.float32), axis=axis))
        return t.op("Transpose", found, perm=[1, 0]) if kind == "turned" else found

    return lambda: with_weight(add)


def codes(kind: int, values: Array, opset: int = 21) -> Make:
    """A Linear whose weight has codes of an ONNX type."""

    def make() -> onnx.ModelProto:
        t = Half()
        t.const("w_step", np.full(H, 0.003, np.float32))
        real = t.half(t.op("DequantizeLinear", "w", "w_step", axis=1, name="w_dq"))
        model = t.close(t.linear(t.quant(t.x()), real), opset=opset)
        model.ir_version = 10
        model.graph.initializer.append(helper.make_tensor("w", kind, [H, H], values.ravel()))
        return model

    return make


def run_time_scale(t: Half, tensor: str) -> str:
    return t.pair_of(
        tensor, t.op("ReduceMax", "x", keepdims=0, name="late"), t.const("z", np.int8(0))
    )


def cast_scale(t: Half, tensor: str) -> str:
    step = t.op("Cast", t.const("s", np.float16(0.02)), to=TensorProto.FLOAT)
    return t.pair_of(tensor, t.op("Identity", step), t.const("z", np.int8(0)))


def per_channel(t: Half, tensor: str) -> str:
    return t.pair(tensor, np.full(H, 0.02, np.float32), axis=2)


def unequal(first: float, second: float) -> Make:
    def pair(t: Half, tensor: str) -> str:
        s, other = t.const("s", first), t.const("other", second)
        return t.pair_of(tensor, s, t.const("z", np.int8(0)), dq=other)

    return lambda: with_activation(pair)


def blocked(size: int) -> Make:
    def make() -> onnx.ModelProto:
        t = Half()
        steps = np.full((H // size, H) if size < H else H, 0.01, np.float32)
        attrs: dict[str, Any] = {"axis": 0, "block_size": size} if size < H else {"axis": 1}
        w = t.const("w", np.ones((H, H), np.int8))
        real = t.half(t.op("DequantizeLinear", w, t.const("ws", steps), name="w_dq", **attrs))
        return t.close(t.linear(t.quant(t.x()), real), opset=21)

    return make


def miscounted(count: int) -> Make:
    def add(t: Half) -> str:
        w, s = t.const("w", np.ones((H, H), np.int8)), np.full(count, 0.01, np.float32)
        return t.half(t.op("DequantizeLinear", w, t.const("ws", s), axis=1, name="w_dq"))

    return lambda: with_weight(add)


def half_product(activation: float, w: float) -> Make:
    def make() -> onnx.ModelProto:
        t = Half()
        z = t.const("z", np.int8(0))
        x = t.pair_of(t.x(), t.const("s", np.float16(activation)), z)
        codes = t.const("w", np.ones((H, H), np.int8))
        real = t.op("DequantizeLinear", codes, t.const("ws", np.full(H, w, np.float16)), axis=1)
        return t.close(t.linear(x, real), opset=19)

    return make


def bias(kind: str) -> Make:
    def middle(t: Half, value: str) -> str:
        if kind == "int32":
            b = t.const("b", np.arange(H, dtype=np.int32))
            step = t.const("bs", np.full(H, 1e-4, np.float32))
            found = t.half(t.op("DequantizeLinear", b, step, axis=0, name="bias_dq"))
        elif kind == "int8":
            found = t.half(t.pair(t.const("b", noise(H)), 0.02))
        else:
            found = t.const("b", noise(H).astype(np.float16))
        return t.op("Add", value, found, name="bias_add")

    return lambda: between(middle)


def epilogue(*steps: str) -> Make:
    """Between two Linears: bias, gelu, relu and pairs in this order."""

    def middle(t: Half, value: str) -> str:
        for step in steps:
            if step == "pair":
                value = t.quant(value, 0.03)
            elif step == "bias":
                value = t.op("Add", value, t.const("b", noise(H).astype(np.float16)))
            elif step == "gelu":
                inner = t.op("Div", value, t.const("root", np.float16(1.414)))
                value = t.op("Mul", value, t.op("Erf", inner))
            else:
                value = t.op("Relu", value)
        return value

    return lambda: between(middle)


def residual(main: bool, skip: bool) -> Make:
    def middle(t: Half, value: str) -> str:
        x = t.quant(t.op("Relu", t.x()), 0.05) if skip else t.op("Relu", t.x())
        return t.op("Add", t.quant(value, 0.07) if main else value, x, name="sum")

    return lambda: between(middle)


def concat(first: float, second: float) -> Make:
    def make() -> onnx.ModelProto:
        t = Half()
        parts = [t.quant(t.op("Relu", t.x()), first), t.quant(t.op("Neg", t.x()), second)]
        both = t.op("Concat", *parts, axis=2, name="both")
        return t.close(t.linear(both, t.weight("w", 2 * H)))

    return make


def consumers(shared: bool, second: float = 0.02) -> Make:
    def make() -> onnx.ModelProto:
        t = Half()
        x = t.op("Relu", t.x())
        pair = t.quant(x)
        other = pair if shared else t.quant(x, second)
        return t.close(t.op("Add", t.linear(pair), t.linear(other, name="second")))

    return make


def twice(layout: bool, scale: float | None) -> Make:
    def pair(t: Half, tensor: str) -> str:
        found = t.pair(tensor, 0.02)
        if layout:
            found = t.op("Reshape", found, t.const("same", np.array([0, 0, H])))
        return found if scale is None else t.pair(found, scale)

    return lambda: with_activation(pair)


def narrow(n: int) -> Make:
    return lambda: with_weight(lambda t: t.weight("w", H, n), n)


def bare(read: bool) -> Make:
    def middle(t: Half, value: str) -> str:
        s, z = t.const("s", 0.02), t.const("z", np.int8(0))
        codes = t.op("QuantizeLinear", t.full(value), s, z, name="bare")
        if read:
            return t.op("Cast", t.op("Abs", codes), to=TensorProto.FLOAT16)
        return t.half(t.op("DequantizeLinear", codes, s, z))

    return lambda: between(middle)


def table(dequantized_first: bool) -> Make:
    def make() -> onnx.ModelProto:
        t = Half()
        ids = t.op("Cast", t.op("ReduceMax", "x", axes=[2], keepdims=0), to=TensorProto.INT64)
        codes, s, z = (
            t.const("table", np.ones((9, H), np.int8)), t.const("s", 0.02),
            t.const("z", np.int8(0)),
        )  # fmt: skip
        if dequantized_first:
            found = t.op("Gather", t.op("DequantizeLinear", codes, s, z), ids, name="pick")
        else:
            found = t.op("DequantizeLinear", t.op("Gather", codes, ids, name="pick"), s, z)
        return t.close(t.half(found))

    return make


def idle(used: bool) -> Make:
    def middle(t: Half, value: str) -> str:
        return t.op("Relu" if used else "Sqrt", value if used else t.quant(value, 0.03))

    return lambda: between(middle)
