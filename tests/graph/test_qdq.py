"""Reading Q/DQ nodes, and refusing what TensorRT cannot run as symmetric INT8."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from tests.support.onnx_tiny import Tiny, Value, noise
from trt_int8.errors import GraphError
from trt_int8.graph import qdq
from trt_int8.graph.normalize import normalize

FINE: dict[str, Any] = {"scale": np.float32(0.02), "zero": np.int8(0)}


def activation(scale: Value, zero: Value | None, **attrs: Any) -> onnx.ModelProto:
    """One activation pair `quant` -> `dequant` with the given parameters."""
    tiny = Tiny()
    params = [tiny.const("scale", scale)] + ([] if zero is None else [tiny.const("zero", zero)])
    codes = tiny.op("QuantizeLinear", "x", *params, name="quant", **attrs)
    tiny.op("Relu", tiny.op("DequantizeLinear", codes, *params, name="dequant", **attrs), out="y")
    return tiny.build({"x": [3, 5]}, {"y": [3, 5]})


def graph_of(model: onnx.ModelProto) -> ir.Graph:
    return ir.from_proto(model).graph


def nodes_by_name(model: onnx.ModelProto) -> dict[str | None, ir.Node]:
    return {node.name: node for node in graph_of(model)}


def test_symmetric_int8_is_accepted() -> None:
    qdq.refuse_unsupported(graph_of(activation(FINE["scale"], FINE["zero"])))


@pytest.mark.parametrize(
    ("scale", "zero", "message"),
    [
        (np.float32(0.02), np.uint8(0), "'quant' (QuantizeLinear) is uint8; wanted int8"),
        (np.float32(0.02), np.int8(3), "'quant' (QuantizeLinear) has a zero point that is not 0"),
        (np.float32(0.02), None, "'quant' (QuantizeLinear) has no constant zero point"),
        (np.float32(0.0), np.int8(0), "'quant' (QuantizeLinear) has a scale that is zero"),
        (np.float32(-1), np.int8(0), "'quant' (QuantizeLinear) has a scale that is zero, negative"),
        (np.float32(np.nan), np.int8(0), "has a scale that is zero, negative or not finite"),
        (np.float32(np.inf), np.int8(0), "has a scale that is zero, negative or not finite"),
    ],
)
def test_parameters_that_are_not_symmetric_int8_are_refused(
    scale: Value, zero: Value | None, message: str
) -> None:
    with pytest.raises(GraphError, match=re.escape(message)):
        normalize(activation(scale, zero))


def test_an_activation_with_a_scale_per_channel_is_refused() -> None:
    model = activation(np.full(5, 0.02, np.float32), np.zeros(5, np.int8), axis=1)
    with pytest.raises(GraphError, match=r"'quant' .* has 5 scales on an activation"):
        normalize(model)


def test_a_scale_computed_at_run_time_is_refused() -> None:
    tiny = Tiny()
    scale = tiny.op("ReduceMax", "x", keepdims=0)
    codes = tiny.op("QuantizeLinear", "x", scale, tiny.const("z", np.int8(0)), name="late")
    tiny.op("DequantizeLinear", codes, scale, "z", out="y")
    with pytest.raises(GraphError, match=r"'late' .* has a scale computed at run time"):
        normalize(tiny.build({"x": [3, 5]}, {"y": [3, 5]}))


def test_dynamic_quantization_is_refused() -> None:
    tiny = Tiny()
    tiny.nodes.append(helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], name="dyn"))
    tiny.op("DequantizeLinear", "q", "s", "z", out="y")
    with pytest.raises(GraphError, match=r"'dyn' .* is a DynamicQuantizeLinear; wanted static"):
        normalize(tiny.build({"x": [3, 5]}, {"y": [3, 5]}))


def test_integer_matmuls_are_refused() -> None:
    tiny = Tiny()
    params = [tiny.const("s", 0.02), tiny.const("z", np.int8(0))]
    codes = tiny.op("QuantizeLinear", "x", *params)
    weight = tiny.const("w", np.ones((5, 2), np.int8))
    product = tiny.op("QLinearMatMul", codes, *params, weight, *params, *params, name="qmm")
    tiny.op("DequantizeLinear", product, *params, out="y")
    with pytest.raises(GraphError, match=r"'qmm' \(QLinearMatMul\) is a QLinearMatMul"):
        normalize(tiny.build({"x": [3, 5]}, {"y": [3, 2]}))


def test_a_dequantizer_of_int8_codes_needs_no_zero_point() -> None:
    tiny = Tiny()
    codes = tiny.const("w", np.ones((5, 2), np.int8))
    real = tiny.op("DequantizeLinear", codes, tiny.const("s", 0.02))
    tiny.op("MatMul", "x", real, out="y")
    normalize(tiny.build({"x": [3, 5]}, {"y": [3, 2]}))


def test_a_dequantizer_of_uint8_codes_is_refused_without_a_zero_point_too() -> None:
    tiny = Tiny()
    codes = tiny.const("w", np.full((5, 2), 200, np.uint8))
    real = tiny.op("DequantizeLinear", codes, tiny.const("s", 0.02), name="dequant")
    tiny.op("MatMul", "x", real, out="y")
    with pytest.raises(GraphError, match=r"'dequant' .* is uint8; wanted int8"):
        normalize(tiny.build({"x": [3, 5]}, {"y": [3, 2]}))


def test_a_zero_point_computed_at_run_time_is_refused() -> None:
    tiny = Tiny()
    zero = tiny.op("Cast", tiny.op("ReduceMax", "x", keepdims=0), to=TensorProto.INT8)
    codes = tiny.const("w", np.ones((5, 2), np.int8))
    real = tiny.op("DequantizeLinear", codes, tiny.const("s", 0.02), zero, name="late")
    tiny.op("MatMul", "x", real, out="y")
    with pytest.raises(GraphError, match=r"'late' .* has no constant zero point"):
        normalize(tiny.build({"x": [3, 5]}, {"y": [3, 2]}))


def test_int32_activations_are_refused() -> None:
    tiny = Tiny()
    sums = tiny.op("Cast", "x", to=TensorProto.INT32)
    params = [tiny.const("s", 0.02), tiny.const("z", np.int32(0))]
    tiny.op("DequantizeLinear", sums, *params, out="y", name="sums")
    with pytest.raises(GraphError, match=r"'sums' .* is int32"):
        normalize(tiny.build({"x": [3, 5]}, {"y": [3, 5]}))


def test_a_blocked_weight_is_refused_by_the_name_of_its_node() -> None:
    tiny = Tiny()
    codes = tiny.const("w", np.ones((5, 6), np.int8))
    params = [
        tiny.const("s", np.full((5, 2), 0.02, np.float32)),
        tiny.const("z", np.zeros((5, 2), np.int8)),
    ]
    real = tiny.op("DequantizeLinear", codes, *params, axis=1, block_size=3, name="blocked")
    tiny.op("MatMul", "x", real, out="y")
    with pytest.raises(GraphError, match=r"'blocked' .* is blocked \(several scales"):
        normalize(tiny.build({"x": [3, 5]}, {"y": [3, 6]}, opset=21))


def test_float16_scales_give_a_valid_graph_or_a_clear_refusal() -> None:
    tiny = Tiny()
    codes = tiny.const("w", np.ones((5, 2), np.int8))
    params = [
        tiny.const("s", np.full(2, 0.02, np.float16)),
        tiny.const("z", np.zeros(2, np.int8)),
    ]
    tiny.op("MatMul", "x", tiny.op("DequantizeLinear", codes, *params, axis=1), out="y")
    model = tiny.build({"x": [3, 5]}, {"y": [3, 2]}, opset=19, dtype=TensorProto.FLOAT16)
    try:
        onnx.checker.check_model(normalize(model), full_check=True)
    except GraphError as error:
        assert "float16" in str(error)  # noqa: PT017 - either way out is right


def test_quantization_inside_a_branch_is_refused() -> None:
    uint8 = activation(FINE["scale"], np.uint8(0)).graph
    branch = onnx.GraphProto(name="branch", node=uint8.node, output=uint8.output)
    branch.initializer.extend(uint8.initializer)
    tiny = Tiny()
    tiny.op("If", tiny.const("yes", np.array(True)), then_branch=branch, else_branch=branch)
    tiny.nodes[-1].output[0] = "out"
    with pytest.raises(GraphError, match=r"quant|If"):
        normalize(tiny.build({"x": [3, 5]}, {"out": [3, 5]}))


def test_a_pair_is_read_with_its_source_and_scale() -> None:
    nodes = nodes_by_name(activation(FINE["scale"], FINE["zero"]))
    pair = qdq.activation_pair(nodes["dequant"])
    assert pair is not None
    assert (pair.source.name, float(pair.scale)) == ("x", float(np.float32(0.02)))


def test_nodes_of_different_scales_are_no_pair() -> None:
    tiny = Tiny()
    zero = tiny.const("z", np.int8(0))
    codes = tiny.op("QuantizeLinear", "x", tiny.const("a", 0.02), zero)
    tiny.op("DequantizeLinear", codes, tiny.const("b", 0.03), zero, out="y", name="dequant")
    nodes = nodes_by_name(tiny.build({"x": [3, 5]}, {"y": [3, 5]}))
    assert qdq.activation_pair(nodes["dequant"]) is None


def weight_model(*, transposed: bool) -> ir.Node:
    """The MatMul behind a weight with one scale per output channel."""
    tiny = Tiny()
    scale, axis = np.array([0.01, 0.02], np.float32), 0 if transposed else 1
    real = tiny.pair(tiny.const("w", noise(*((2, 3) if transposed else (3, 2)))), scale, axis=axis)
    operand = tiny.op("Transpose", real) if transposed else real
    tiny.op("MatMul", "x", operand, out="y", name="product")
    return nodes_by_name(tiny.build({"x": [4, 3]}, {"y": [4, 2]}))["product"]


@pytest.mark.parametrize("transposed", [False, True])
def test_a_quantized_constant_is_read_as_its_consumer_sees_it(transposed: bool) -> None:
    found = qdq.quantized_constant(weight_model(transposed=transposed).inputs[1])
    values = noise(2, 3).T if transposed else noise(3, 2)
    scale = np.array([0.01, 0.02], np.float32)
    assert found is not None
    assert (found.name, found.axis, found.codes.shape) == ("w", 1, (3, 2))
    np.testing.assert_array_equal(found.codes, np.clip(np.rint(values / scale), -128, 127))
    np.testing.assert_array_equal(qdq.dequantized(found), found.codes.astype("f4") * scale)


def test_an_activation_is_no_quantized_constant() -> None:
    nodes = nodes_by_name(activation(FINE["scale"], FINE["zero"]))
    assert qdq.quantized_constant(nodes["dequant"].outputs[0]) is None
    assert qdq.codes_behind(nodes["dequant"]) is None


def test_the_axis_of_a_node_is_one_unless_it_says_otherwise() -> None:
    zeros: dict[str, Any] = {"scale": np.full(3, 0.02, np.float32), "zero": np.zeros(3, np.int8)}
    assert qdq.axis_of_node(nodes_by_name(activation(**zeros))["quant"]) == 1
    assert qdq.axis_of_node(nodes_by_name(activation(**zeros, axis=0))["quant"]) == 0
