"""The FP16 twin: which tensors turn to half, which numbers must survive."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from onnx import TensorProto, helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from tests.support.onnx_tiny import (
    Array,
    Tiny,
    attribute,
    constants_of,
    count,
    f32,
    maker_of,
    noise,
    run_ort,
)
from tests.support.random_graphs import random_graphs
from trt_int8.errors import GraphError
from trt_int8.graph.half import to_half
from trt_int8.graph.normalize import normalize

SHAPE: list[int | str] = [3, 7]


def twin(tiny: Tiny, inputs: tuple[str, ...] = ("x",)) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The float graph `inputs` -> `y`, all [3, 7], and its FP16 twin, which must be valid."""
    model = normalize(tiny.build(dict.fromkeys(inputs, SHAPE), {"y": SHAPE}))
    half = to_half(model)
    onnx.checker.check_model(half, full_check=True)
    return model, half


def type_of(model: onnx.ModelProto, tensor: str) -> int:
    """Element type by ONNX's own inference."""
    graph = shape_inference.infer_shapes(model, strict_mode=True).graph
    known = {v.name: v.type.tensor_type.elem_type for v in [*graph.value_info, *graph.output]}
    known |= {t.name: t.data_type for t in graph.initializer}
    found: int = known[tensor]
    return found


def linear_graph() -> Tiny:
    tiny = Tiny()
    product = tiny.op("MatMul", "x", tiny.const("w", noise(7, 7)), name="product")
    tiny.op("Relu", product, out="y", name="relu")
    return tiny


def test_operators_run_in_half_and_the_ends_keep_their_types() -> None:
    _, half = twin(linear_graph())
    product = maker_of(half, maker_of(half, maker_of(half, "y").input[0]).input[0])
    assert product.name == "product"
    assert {type_of(half, name) for name in product.input} == {TensorProto.FLOAT16}
    ends = [*half.graph.input, *half.graph.output]
    assert [v.type.tensor_type.elem_type for v in ends] == [TensorProto.FLOAT] * 2
    assert [v.name for v in ends] == ["x", "y"]


def test_integer_inputs_keep_their_type() -> None:
    tiny = Tiny()
    tiny.op("Gather", tiny.const("table", noise(20, 7)), "ids", out="y")
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, [3])]
    model = tiny.build({}, {"y": SHAPE})
    model.graph.input.extend(inputs)
    half = to_half(normalize(model))
    assert half.graph.input[0].type.tensor_type.elem_type == TensorProto.INT64
    found = run_ort(half, {"ids": np.array([0, 19, 4])})[0]
    np.testing.assert_array_equal(found, noise(20, 7)[[0, 19, 4]].astype("f2").astype("f4"))


def test_a_linear_in_half_is_near_the_float_one() -> None:
    model, half = twin(linear_graph())
    feeds = {"x": noise(3, 7, seed=2)}
    # Inputs and weights round by 2^-11 each, the product of 7 terms once more.
    bound = 3 * 2.0**-11 * (np.abs(feeds["x"]) @ np.abs(noise(7, 7))).max()
    assert 0 < np.abs(run_ort(half, feeds)[0] - run_ort(model, feeds)[0]).max() < bound


def test_quantizers_keep_float32_scales_between_casts() -> None:
    tiny = Tiny()
    tiny.op("Relu", tiny.pair(tiny.op("Neg", "x"), 0.02), out="y")
    _, half = twin(tiny)
    (quantize,) = [n for n in half.graph.node if n.op_type == "QuantizeLinear"]
    (dequantize,) = [n for n in half.graph.node if n.op_type == "DequantizeLinear"]
    assert {constants_of(half)[n.input[1]].dtype for n in (quantize, dequantize)} == {
        np.dtype("f4")
    }
    before = maker_of(half, quantize.input[0])
    (after,) = [n for n in half.graph.node if dequantize.output[0] in n.input]
    assert attribute(before, "to") == TensorProto.FLOAT
    assert attribute(after, "to") == TensorProto.FLOAT16


def test_a_scale_too_small_for_half_still_counts() -> None:
    tiny = Tiny()
    tiny.op("Relu", tiny.pair("x", 1e-9), out="y")
    _, half = twin(tiny)
    feeds = {"x": np.full((3, 7), 1e-7, np.float32)}
    np.testing.assert_allclose(run_ort(half, feeds)[0], 1e-7, rtol=0.2)


def test_a_node_with_an_epsilon_stays_in_float32() -> None:
    tiny = Tiny()
    total = tiny.op("Add", "x", tiny.const("epsilon", 1e-12), name="guard")
    tiny.op("Relu", total, out="y")
    _, half = twin(tiny)
    (guard,) = [n for n in half.graph.node if n.op_type == "Add"]
    assert [type_of(half, name) for name in guard.input if name != "x"] == [TensorProto.FLOAT]
    assert float(constants_of(half)["epsilon"]) == np.float32(1e-12)


def test_a_node_with_a_constant_that_half_can_hold_runs_in_half() -> None:
    tiny = Tiny()
    tiny.op("Relu", tiny.op("Add", "x", tiny.const("offset", 1e-3)), out="y")
    _, half = twin(tiny)
    (add,) = [n for n in half.graph.node if n.op_type == "Add"]
    assert {type_of(half, name) for name in add.input} == {TensorProto.FLOAT16}


@pytest.mark.parametrize("value", [-3.4e38, -1e9, 1e6])
def test_constants_out_of_range_are_clamped_to_the_largest_half(value: float) -> None:
    tiny = Tiny()
    tiny.op("Relu", tiny.op("Add", "x", tiny.const("mask", f32([value] * 7))), out="y")
    _, half = twin(tiny)
    (stored,) = [a for a in constants_of(half).values() if a.shape == (7,)]
    assert stored.dtype == np.float16
    np.testing.assert_array_equal(stored, np.full(7, np.sign(value) * 65504, np.float16))


def constant_of_shape(value: float | None) -> Tiny:
    tiny = Tiny()
    fill = {} if value is None else {"value": numpy_helper.from_array(f32([value]))}
    tiny.op("Max", "x", tiny.op("ConstantOfShape", tiny.op("Shape", "x"), **fill), out="y")
    return tiny


def test_a_constant_of_shape_out_of_range_is_clamped_too() -> None:
    _, half = twin(constant_of_shape(-3e38))
    (fill,) = [n for n in half.graph.node if n.op_type == "ConstantOfShape"]
    assert numpy_helper.to_array(attribute(fill, "value")) == np.float16(-65504)


def test_a_constant_of_shape_without_a_value_gives_zeros() -> None:
    model, half = twin(constant_of_shape(None))
    feeds = {"x": f32(np.arange(21).reshape(3, 7) - 10)}
    np.testing.assert_array_equal(run_ort(half, feeds)[0], run_ort(model, feeds)[0])


def test_a_cast_to_float_becomes_a_cast_to_half() -> None:
    tiny = Tiny()
    number = tiny.op("Cast", tiny.op("Cast", "x", to=TensorProto.INT32), to=TensorProto.FLOAT)
    tiny.op("Add", number, "x", out="y")
    model, half = twin(tiny)
    feeds = {"x": f32(np.arange(21).reshape(3, 7))}
    np.testing.assert_array_equal(run_ort(half, feeds)[0], run_ort(model, feeds)[0])


def run_half(half: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    """Run with each half operator rounding to half: ONNX's reference, not ORT's float32 islands."""
    return list(ReferenceEvaluator(half).run(None, feeds))


@pytest.mark.parametrize("kind", ["ReduceMean", "Exp", "Relu"])
def test_any_operator_may_make_the_output(kind: str) -> None:
    tiny = Tiny()
    attrs: dict[str, Any] = {"axes": [1], "keepdims": 1} if kind == "ReduceMean" else {}
    tiny.op(kind, "x", out="y", **attrs)
    model = normalize(tiny.build({"x": SHAPE}, {"y": [3, 1 if attrs else 7]}))
    half = to_half(model)
    onnx.checker.check_model(half, full_check=True)
    feeds = {"x": noise(3, 7)}
    np.testing.assert_allclose(run_ort(half, feeds)[0], run_ort(model, feeds)[0], rtol=2e-3)


def test_a_quantized_output_keeps_its_values() -> None:
    tiny = Tiny()
    tiny.pair("x", 0.02)
    tiny.nodes[-1].output[0] = "y"
    _, half = twin(tiny)
    expected = np.clip(np.rint(noise(3, 7) / np.float32(0.02)), -128, 127) * np.float32(0.02)
    np.testing.assert_allclose(run_ort(half, {"x": noise(3, 7)})[0], expected, rtol=1e-3)


def test_an_output_that_other_nodes_read_is_handed_out_in_float32() -> None:
    tiny = Tiny()
    tiny.op("Relu", tiny.op("Neg", "x", out="y"), out="z")
    model = normalize(tiny.build({"x": SHAPE}, {"y": SHAPE, "z": SHAPE}))
    half = to_half(model)
    onnx.checker.check_model(half, full_check=True)
    rounded = noise(3, 7).astype("f2").astype("f4")
    first, second = run_half(half, {"x": noise(3, 7)})
    np.testing.assert_array_equal(first, -rounded)
    np.testing.assert_array_equal(second, np.maximum(-rounded, 0))


def test_names_that_are_taken_are_not_used_again() -> None:
    tiny = Tiny()
    tiny.const("w", noise(7))
    tiny.const("w_half", noise(7, seed=1))
    scaled = tiny.op("Mul", tiny.op("Add", "x", "w"), "w_half", out="x_half")
    tiny.op("Relu", scaled, out="y")
    model, half = twin(tiny)
    feeds = {"x": noise(3, 7)}
    np.testing.assert_allclose(run_ort(half, feeds)[0], run_ort(model, feeds)[0], atol=0.02)


def test_a_graph_with_a_branch_is_refused() -> None:
    tiny = Tiny()
    output = [helper.make_tensor_value_info("picked", TensorProto.FLOAT, SHAPE)]
    branch = helper.make_graph([helper.make_node("Neg", ["x"], ["picked"])], "b", [], output)
    yes = tiny.op("Cast", tiny.op("ReduceMax", "x", keepdims=0), to=TensorProto.BOOL)
    tiny.op("If", yes, out="y", name="fork", then_branch=branch, else_branch=branch)
    with pytest.raises(GraphError, match=r"'fork' \(If\) has sub-graphs"):
        twin(tiny)


def test_an_operator_of_unknown_type_is_refused_by_its_name() -> None:
    tiny = Tiny()
    tiny.op("Relu", tiny.op("Strange", "x", name="odd", domain="my.operators"), out="y")
    model = tiny.build({"x": SHAPE}, {"y": SHAPE})
    model.opset_import.append(helper.make_opsetid("my.operators", 1))
    with pytest.raises(GraphError, match=r"type of node 'odd' \(Strange\) cannot be inferred"):
        to_half(normalize(model))


def test_the_float_graph_is_not_touched_and_the_twin_is_repeatable() -> None:
    model = normalize(linear_graph().build({"x": SHAPE}, {"y": SHAPE}))
    before = model.SerializeToString()
    assert to_half(model).SerializeToString() == to_half(model).SerializeToString()
    assert model.SerializeToString() == before


@settings(max_examples=30, deadline=None)
@given(model=random_graphs())
def test_the_twin_of_any_graph_is_valid_and_has_as_many_quantizers(model: onnx.ModelProto) -> None:
    normal = normalize(model)
    half = to_half(normal)
    onnx.checker.check_model(half, full_check=True)
    width = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    assert np.isfinite(run_ort(half, {"x": noise(3, width)})[0]).all()
    kinds = ("QuantizeLinear", "DequantizeLinear", "MatMul", "Gemm")
    assert [count(half, k) for k in kinds] == [count(normal, k) for k in kinds]
