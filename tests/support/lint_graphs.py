"""Small float16 graphs with Q/DQ in float32, sound or with one fault each, for the linter."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.support.onnx_tiny import Shape, Tiny, Value

H = 64
_PROJECTIONS = ("query", "key", "value")


class Half(Tiny):
    """A graph whose body is float16; `x` [batch, sequence, 64] and `y` are float32."""

    def half(self, value: str) -> str:
        return self.op("Cast", value, to=TensorProto.FLOAT16)

    def full(self, value: str) -> str:
        return self.op("Cast", value, to=TensorProto.FLOAT)

    def x(self) -> str:
        return self.half("x")

    def quant(self, source: str, scale: Value = 0.02, **attrs: Any) -> str:
        """A pair with float32 scales on a float16 tensor."""
        return self.half(self.pair(self.full(source), scale, **attrs))

    def pair_of(self, source: str, scale: str, zero: str | None = None, dq: str = "") -> str:
        """A pair on a float32 tensor whose parameters are these tensors."""
        params = [scale] if zero is None else [scale, zero]
        codes = self.op("QuantizeLinear", source, *params, name="quant")
        rest = [dq or scale, *params[1:]]
        return self.op("DequantizeLinear", codes, *rest, name="dequant")

    def weight(
        self, name: str, k: int = H, n: int = H, *, axis: int = 1, turned: bool = False
    ) -> str:
        """Int8 codes [K, N] (or [N, K]) behind a DQ, as float16."""
        shape = (n, k) if turned else (k, n)
        codes = np.random.default_rng(len(name)).integers(-127, 128, shape).astype(np.int8)
        scales = np.full(shape[axis], 0.003, np.float32)
        params = [
            self.const(f"{name}_step", scales),
            self.const(f"{name}_zero", np.zeros(shape[axis], np.int8)),
        ]
        found = self.op(
            "DequantizeLinear", self.const(name, codes), *params, axis=axis, name=f"{name}_dq"
        )
        return self.half(found)

    def linear(self, source: str, weight: str = "", name: str = "linear") -> str:
        return self.op("MatMul", source, weight or self.weight(f"{name}_w"), name=name)

    def close(self, out: str, last: int | str = H, opset: int = 17) -> onnx.ModelProto:
        self.op("Cast", out, to=TensorProto.FLOAT, out="y", name="close")
        shape: Shape = ["batch", "sequence"]
        return self.build({"x": [*shape, H]}, {"y": [*shape, last]}, opset=opset)


def quantized_linear() -> onnx.ModelProto:
    """One INT8 Linear with nothing to complain about."""
    t = Half()
    return t.close(t.linear(t.quant(t.x())))


def with_activation(pair: Any) -> onnx.ModelProto:
    """A Linear whose activation, float32, goes through `pair(graph, tensor)`."""
    t = Half()
    return t.close(t.linear(t.half(pair(t, t.full(t.x())))))


def with_weight(weight: Any, n: int = H) -> onnx.ModelProto:
    """A Linear named `linear` whose weight is `weight(graph)`, float16."""
    t = Half()
    return t.close(t.linear(t.quant(t.x()), weight(t)), n)


def between(middle: Any) -> onnx.ModelProto:
    """Two INT8 Linears, `linear` and `second`, with `middle(graph, tensor)` between."""
    t = Half()
    found = middle(t, t.linear(t.quant(t.x())))
    return t.close(t.linear(t.quant(found, 0.04), name="second"))


def attention(
    *,
    missing: tuple[str, ...] = (),
    heads: int = 2,
    size: int = 32,
    softmax: float = 1 / 127,
    scores: str = "",
    packed: str = "",
) -> onnx.ModelProto:
    """An attention named `softmax` with its projections, INT8 throughout.

    Args:
        missing: sites without a pair (query, key, value, softmax, context).
        heads: N.
        size: D.
        softmax: scale of the softmax output.
        scores: `before` or `after` the mask stands a pair; "" for none.
        packed: `split` or `paired split` for one MatMul that makes query, key and value.
    """
    t, hidden = Half(), heads * size
    x = t.quant(t.x())
    made = _packed(t, x, hidden, packed) if packed else _separate(t, x, hidden)
    shape = t.const("shape", np.array([0, 0, heads, size]))

    def site(name: str, value: str, scale: float = 0.02) -> str:
        return value if name in missing else t.quant(value, scale)

    q, k, v = (
        site(name, t.op("Transpose", t.op("Reshape", value, shape), perm=[0, 2, 1, 3]))
        for name, value in zip(_PROJECTIONS, made, strict=True)
    )
    turned = t.op("Transpose", k, perm=[0, 1, 3, 2])
    s = t.op("MatMul", q, turned, name="scores")
    s = t.quant(s, 0.1) if scores == "before" else s
    s = t.op("Add", s, t.const("mask", np.float16(-1.0)), name="mask")
    s = t.quant(s, 0.1) if scores == "after" else s
    p = site("softmax", t.op("Softmax", s, axis=-1, name="softmax"), softmax)
    c = t.op("MatMul", p, v, name="context")
    merged = t.op("Transpose", c, perm=[0, 2, 1, 3])
    flat = t.op("Reshape", merged, t.const("flat", np.array([0, 0, hidden])))
    return t.close(t.linear(site("context", flat), t.weight("out_w", hidden), name="out"))


def _separate(t: Half, x: str, hidden: int) -> list[str]:
    return [t.linear(x, t.weight(f"{p}_w", H, hidden), p) for p in _PROJECTIONS]


def _packed(t: Half, x: str, hidden: int, kind: str) -> list[str]:
    made = t.linear(x, t.weight("packed_w", H, 3 * hidden), "packed")
    made = t.quant(made) if kind.startswith("paired") else made
    sizes = t.const("sizes", np.array([hidden] * 3))
    parts = [f"{p}_part" for p in _PROJECTIONS]
    t.nodes.append(helper.make_node("Split", [made, sizes], parts, axis=2, name="split"))
    return parts


def function_model(calls: int, overload: str = "") -> onnx.ModelProto:
    """Local function `Block` with a Q/DQ'd Linear in its body, called `calls` times."""
    inner = Half()
    inner.op("Identity", inner.linear(inner.quant("a"), "w", "inner"), out="b", name="end")
    constants = [
        helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(value))
        for name, value in inner.constants.items()
    ]
    opsets = [helper.make_opsetid("", 17)]
    body = [*constants, *inner.nodes]
    function = helper.make_function("local", "Block", ["a", "w"], ["b"], body, opsets)
    t = Half()
    value = t.x()
    for index in range(calls):
        weight = t.weight(f"w{index}")
        value = t.op("Block", value, weight, domain="local", name=f"call{index}")
        t.nodes[-1].overload = overload
    model = t.close(value)
    function.overload = overload
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("local", 1))
    model.ir_version = 10
    return model


def renamed(model: onnx.ModelProto, **names: str) -> onnx.ModelProto:
    """A copy with some nodes under other names (`quant="" ` for none)."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        node.name = names.get(node.name, node.name)
    return copy
