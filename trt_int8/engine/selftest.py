"""Start-up self-test of the coverage reader: it must see INT8 where it is, and only there.

Two tiny networks are built for the target before any verdict is trusted: one attention block
with Q/DQ everywhere, and the same with the last Linear left in FP16.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from trt_int8.errors import CoverageError
from trt_int8.graph.half import to_half
from trt_int8.graph.normalize import normalize
from trt_int8.spec.coverage import EngineCoverage
from trt_int8.spec.shapes import InputShape

_HIDDEN, _HEADS, _HEAD_DIM = 64, 2, 32
ALL_NODES = ("q", "k", "v", "scores", "context", "out")
SHAPES = (InputShape(name="x", min=(1, 16, 64), opt=(1, 64, 64), max=(2, 128, 64)),)


def positive_control() -> onnx.ModelProto:
    """FP16 attention block with Q/DQ on all six matmuls."""
    return _block(quantize_out=True)


def negative_control() -> onnx.ModelProto:
    """The same with no Q/DQ on the weight of `out`."""
    return _block(quantize_out=False)


def check(positive: EngineCoverage, negative: EngineCoverage) -> None:
    """Compare what the reader saw with what was built.

    Raises:
        CoverageError: it missed INT8 in the first network, or saw it in the wrong place in the
            second.
    """
    seen_positive = tuple(n.node for n in positive.nodes if n.runs == "int8")
    seen_negative = tuple(n.node for n in negative.nodes if n.runs == "int8")
    wanted = (ALL_NODES, ALL_NODES[:-1])
    if (seen_positive, seen_negative) != wanted or positive.attentions_int8 != 1:
        raise CoverageError(
            f"the coverage self-test for SM{positive.sm} saw INT8 in {list(seen_positive)} and"
            f" {list(seen_negative)}, {positive.attentions_int8} fused INT8 attention",
            wanted=f"{list(wanted[0])} and {list(wanted[1])}, 1 fused INT8 attention",
            todo="install the TensorRT version that the constraints file pins",
        )


def _block(*, quantize_out: bool) -> onnx.ModelProto:
    builder = _Builder()
    x = builder.pair("x", 4.0)
    heads = [builder.head(name, x) for name in ("q", "k", "v")]
    q, k, v = (builder.pair(value, 4.0) for value in heads)
    k_last = builder.node("Transpose", [k], "k_last", perm=[0, 1, 3, 2])
    weights = builder.node("Softmax", [builder.node("MatMul", [q, k_last], "scores")], "p", axis=-1)
    context = builder.node("MatMul", [builder.pair(weights, 1.0), v], "context")
    merged = builder.node("Transpose", [context], "merge", perm=[0, 2, 1, 3])
    flat = builder.node("Reshape", [merged, builder.constant("flat", [0, 0, _HIDDEN])], "flatten")
    weight = builder.weight("out", quantized=quantize_out)
    builder.node("MatMul", [builder.pair(flat, 4.0), weight], "out")
    return to_half(normalize(builder.model()))


class _Builder:
    """Appends nodes whose single output has the node's name."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(0)

    def node(self, op: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def constant(self, name: str, values: list[int] | float | NDArray[np.generic]) -> str:
        array = np.float32(values) if isinstance(values, float) else np.asarray(values)
        name = f"{name}_const"
        self._initializers.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def pair(self, value: str, amax: float) -> str:
        scale = self.constant(f"{value}_scale", amax / 127)
        zero = self.constant(f"{value}_zero", np.zeros((), np.int8))
        codes = self.node("QuantizeLinear", [value, scale, zero], f"{value}_codes")
        return self.node("DequantizeLinear", [codes, scale, zero], f"{value}_dq")

    def weight(self, name: str, *, quantized: bool) -> str:
        values = self._random.standard_normal((_HIDDEN, _HIDDEN)).astype(np.float32) / 8
        weight = self.constant(f"{name}_weight", values)
        return self.pair(weight, 0.5) if quantized else weight

    def head(self, name: str, x: str) -> str:
        linear = self.node("MatMul", [x, self.weight(name, quantized=True)], name)
        shape = self.constant(f"{name}_split", [0, 0, _HEADS, _HEAD_DIM])
        split = self.node("Reshape", [linear, shape], f"{name}_heads")
        return self.node("Transpose", [split], f"{name}_t", perm=[0, 2, 1, 3])

    def model(self) -> onnx.ModelProto:
        axes: list[str | int | None] = ["batch", "sequence", _HIDDEN]
        graph = helper.make_graph(
            self._nodes,
            "selftest",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, axes)],
            [helper.make_tensor_value_info("out", TensorProto.FLOAT, axes)],
            self._initializers,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
