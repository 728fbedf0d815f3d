"""Graphs for the linter with a fault in types, operators or the file as a whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.support.lint_faults import Make
from tests.support.lint_graphs import (
    H,
    Half,
    between,
)
from tests.support.onnx_tiny import Tiny, noise


def norm(kind: str) -> Make:
    def middle(t: Half, value: str) -> str:
        if kind == "operator":
            ones = t.const("gain", np.ones(H, np.float16))
            return t.op("LayerNormalization", value, ones, t.const("shift", np.zeros(H, "f2")))
        value = t.full(value) if kind == "float" else value
        if kind == "rms":
            square = t.op("Pow", value, t.const("two", np.float16(2)), name="square")
            return t.op("Div", value, t.op("Sqrt", t.op("ReduceMax", square, axes=[-1])))
        middle = t.op("Sub", value, t.op("ReduceMean", value, axes=[-1], name="mean"))
        return t.half(middle) if kind == "float" else middle

    return lambda: between(middle)


def masked(value: float, dtype: type, cast: bool = False) -> Make:
    def middle(t: Half, tensor: str) -> str:
        mask = t.const("far", np.full(H, value, dtype))
        if cast:
            return t.op("Add", tensor, t.half(mask))
        if dtype is np.float32:
            return t.half(t.op("Add", t.full(tensor), mask))
        return t.op("Add", tensor, mask)

    return lambda: between(middle)


def product(dtype: int) -> Make:
    def make() -> onnx.ModelProto:
        t = Half()
        x = t.op("Cast", "x", to=dtype)
        w = t.op("Cast", t.const("w", noise(H, H)), to=dtype)
        return t.close(t.op("MatMul", x, w, name="linear"))

    return make


def transposed(opset: int) -> Make:
    def make() -> onnx.ModelProto:
        t = Half()
        pair = t.half(t.op("Transpose", t.pair(t.full(t.x()), 0.02), perm=[0, 2, 1]))
        return t.close(t.op("Relu", pair), opset=opset)

    return make


def on_type(kind: str, dtype: int, *more: str, **attrs: Any) -> Make:
    def middle(t: Half, value: str) -> str:
        inner = t.op("Cast", value, to=dtype)
        rest = [inner for _ in more]
        return t.half(t.op(kind, inner, *rest, name="odd", **attrs))

    return lambda: between(middle)


def foreign(kind: str, domain: str, pair: bool = False) -> Make:
    def make() -> onnx.ModelProto:
        t = Half()
        x = t.quant(t.x()) if pair else t.x()
        model = t.close(t.op(kind, x, domain=domain, name="odd"))
        if domain:
            model.opset_import.append(helper.make_opsetid(domain, 1))
        return model

    return make


def plain(*kinds: str) -> Make:
    def make() -> onnx.ModelProto:
        t = Half()
        value = t.x()
        for kind in kinds:
            value = t.op(kind, value, name="odd")
        return t.close(value)

    return make


def dynamic(kind: str) -> Make:
    def make() -> onnx.ModelProto:
        t = Half()
        node = helper.make_node(kind, ["x"], ["c", "s", "z"], name="odd")
        t.nodes.append(node)
        return t.close(t.half(t.op("DequantizeLinear", "c", "s", "z")))

    return make


def branch(control: bool) -> Make:
    def make() -> onnx.ModelProto:
        t = Half()
        x = t.x()
        if control:
            end = [helper.make_tensor_value_info("inner", TensorProto.FLOAT16, None)]
            body = helper.make_graph([helper.make_node("Relu", [x], ["inner"])], "b", [], end)
            condition = t.const("yes", np.array(True))
            x = t.op("If", condition, then_branch=body, else_branch=body, name="choice")
        return t.close(x)

    return make


def float_linear(opset: int = 17, shape: tuple[int | str, ...] = ("b", "s", H)) -> Make:
    def make() -> onnx.ModelProto:
        t = Tiny()
        t.op("MatMul", "x", t.const("w", noise(H, H)), out="y", name="linear")
        return t.build({"x": list(shape)}, {"y": list(shape)}, opset=opset)

    return make


def half_linear() -> onnx.ModelProto:
    t = Half()
    return t.close(t.linear(t.x(), t.const("w", noise(H, H).astype(np.float16))))


def fused_attention(domain: str = "") -> onnx.ModelProto:
    t = Half()
    x = t.x()
    return t.close(t.op("Attention", x, x, x, q_num_heads=2, kv_num_heads=2, name="odd"), opset=23)


def large(total: int) -> Make:
    """A model that says of one tensor that it has `total` bytes beside the file."""

    def make() -> onnx.ModelProto:
        model = half_linear()
        tensor = next(t for t in model.graph.initializer if t.name == "w")
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "lost.bin"), ("length", str(total))):
            tensor.external_data.add(key=key, value=value)
        return model

    return make


def without_output(model: onnx.ModelProto) -> onnx.ModelProto:
    model.graph.output[0].name = "nobody"
    return model


def wrong_attribute() -> onnx.ModelProto:
    model = plain("Relu")()
    model.graph.node[1].attribute.append(helper.make_attribute("no_such", 1))
    return model


def sum_of(dtype: int) -> Make:
    def middle(t: Half, value: str) -> str:
        other = t.op("Cast", value, to=dtype)
        return t.half(t.op("Add", value, other, name="odd"))

    return lambda: between(middle)
