"""SmoothQuant in a float graph: the same answers, other ranges."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.support.blocks import encoder
from tests.support.onnx_tiny import Tiny, constants_of, count, maker_of, noise, run_ort
from tests.support.smooth_graphs import (
    K,
    N,
    assert_same_answers,
    closed,
    first_weights,
    one_linear,
    planned,
    smoothed,
    spread,
)
from trt_int8.annotate.onnx_model import OnnxPlan, plan_onnx
from trt_int8.graph.insert import insert_qdq
from trt_int8.graph.normalize import normalize
from trt_int8.graph.smooth import smooth_graph, smoothing_groups
from trt_int8.spec.ranges import TensorRange
from trt_int8.spec.recipe import load_recipe

FORMS = [("MatMul", {}), ("Gemm", {}), ("Gemm", {"transB": 1})]


def in_float64(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph computed in float64."""
    double = onnx.ModelProto()
    double.CopyFrom(model)
    graph = double.graph
    for tensor in graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float64), tensor.name))
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    del graph.value_info[:]
    return double


def quantized(model: onnx.ModelProto, plan: OnnxPlan, amax: float = 4.0) -> onnx.ModelProto:
    ranges = {name: TensorRange(amax=amax, peak=amax) for name in plan.tensors}
    return insert_qdq(model, plan, ranges)


@pytest.mark.parametrize(("kind", "attrs"), FORMS)
def test_the_graph_divides_the_tensor_and_multiplies_the_weight(
    kind: str, attrs: dict[str, int]
) -> None:
    model, factors = one_linear(kind, **attrs), spread(K)
    result = smoothed(model, {"a": factors})
    multiply = maker_of(result, "a")
    stored = constants_of(result)
    assert multiply.op_type == "Mul"
    assert maker_of(result, multiply.input[0]).op_type == "Relu"
    np.testing.assert_allclose(stored[multiply.input[1]], 1 / factors, rtol=2e-7)
    weight = stored[maker_of(result, "y").input[1]]
    wanted = noise(N, K) * factors if attrs else noise(K, N) * factors[:, None]
    np.testing.assert_allclose(weight, wanted, rtol=2e-7)
    assert_same_answers(model, result, noise(3, K, seed=4))


@pytest.mark.parametrize(("kind", "attrs"), FORMS)
def test_in_float64_the_answers_are_the_same_to_1e_12(kind: str, attrs: dict[str, int]) -> None:
    # Powers of two have exact reciprocals in float32, so that nothing is rounded on the way.
    factors = np.exp2(np.random.default_rng(3).integers(-6, 7, K)).astype(np.float32)
    model = one_linear(kind, **attrs)
    result = smoothed(model, {"a": factors})
    x = np.random.default_rng(5).standard_normal((3, K))
    one, other = (run_ort(in_float64(m), {"x": x})[0] for m in (model, result))
    assert one.dtype == np.float64
    np.testing.assert_allclose(other, one, rtol=1e-12, atol=1e-12)


def test_a_weight_left_as_it_was_would_show() -> None:
    model = one_linear()
    result = smoothed(model, {"a": spread(K)})
    maker_of(result, "y").input[1] = "w"
    result.graph.initializer.append(numpy_helper.from_array(noise(K, N), "w"))
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_same_answers(model, result, noise(3, K, seed=4))


@pytest.mark.parametrize("kind", ["post", "pre", "parallel"])
def test_a_whole_encoder_gives_the_same_answers(kind: str) -> None:
    model = encoder(kind, 2)
    groups = smoothing_groups(model, planned(model))
    sizes = {t: constants_of(model)[w].shape[0] for t, w in first_weights(model).items()}
    factors = {t: spread(sizes[t], i) for i, (t,) in enumerate(groups)}
    assert len(factors) >= 5
    result = smoothed(model, factors)
    assert count(result, "Mul") - count(model, "Mul") == len(factors)
    assert_same_answers(model, result, noise(2, 7, 64, seed=9))


def test_without_factors_the_graph_computes_the_same_bits() -> None:
    model, x = encoder("post", 1), noise(2, 7, 64, seed=9)
    result = smoothed(model, {})
    assert run_ort(result, {"x": x})[0].tobytes() == run_ort(model, {"x": x})[0].tobytes()


def test_q_k_and_v_read_one_divided_tensor() -> None:
    model = encoder("post", 1)
    result = smoothed(model, {"start": spread(64)})
    readers = {node.name for node in result.graph.node if "start" in node.input}
    assert readers == {"0.q", "0.k", "0.v"}
    assert count(result, "Mul") == count(model, "Mul") + 1


def test_a_skip_arm_reads_the_tensor_as_it_was() -> None:
    model = encoder("post", 1)
    result = smoothed(model, {"start": spread(64)})
    add = next(node for node in result.graph.node if node.name == "0.sum1")
    norm = maker_of(result, add.input[1])
    assert norm.op_type == "LayerNormalization"
    assert maker_of(result, "start").input[0] == norm.output[0]


def test_a_linear_that_stays_fp16_reads_the_tensor_and_the_weight_as_they_were() -> None:
    tiny = Tiny()
    weight = tiny.const("w", noise(K, N))
    tiny.op("Relu", "x", out="a")
    tiny.op("MatMul", "a", weight, name="int8", out="y")
    tiny.op("Gemm", "a", weight, name="half", out="z")
    model = closed(tiny, y=[3, N], z=[3, N])
    result = smoothed(model, {"a": spread(K)}, keep=("half",))
    kept = maker_of(result, "z")
    assert maker_of(result, kept.input[0]).op_type == "Relu"
    np.testing.assert_array_equal(constants_of(result)[kept.input[1]], noise(K, N))
    assert maker_of(result, maker_of(result, "y").input[0]).op_type == "Mul"
    one, other = (run_ort(m, {"x": noise(3, K)})[1] for m in (model, result))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("recipe", ["linear+attention", "full", "linear"])
def test_the_plan_fits_the_smoothed_graph_and_ranges_are_of_the_divided_tensors(
    recipe: str,
) -> None:
    model = encoder("post", 1)
    plan = plan_onnx(model, load_recipe(recipe))
    sizes = {t: constants_of(model)[w].shape[0] for t, w in first_weights(model).items()}
    factors = {t: spread(sizes[t], 1) for group in smoothing_groups(model, plan) for t in group}
    result = quantized(smooth_graph(model, plan, factors), plan)
    onnx.checker.check_model(result, full_check=True)
    assert count(result, "QuantizeLinear") == count(quantized(model, plan), "QuantizeLinear")
    for tensor in factors:
        readers = [node for node in result.graph.node if tensor in node.input]
        assert [node.op_type for node in readers] == ["QuantizeLinear"]
        assert maker_of(result, tensor).op_type == "Mul"


def test_an_outlier_channel_costs_the_others_less_after_smoothing() -> None:
    """Real INT8 by ONNX Runtime; the range is the largest value in both graphs."""
    model, x = one_linear(), np.abs(noise(3, K, seed=8))
    x[:, 5] *= 100
    factors = np.ones(K, np.float32)
    factors[5] = 10
    plan, exact = planned(model), np.maximum(x, 0).astype(np.float64) @ noise(K, N)
    errors = []
    for given in ({}, {"a": factors}):
        amax = float((x / given.get("a", np.ones(K))).max())
        found = run_ort(quantized(smooth_graph(model, plan, given), plan, amax), {"x": x})[0]
        errors.append(np.square(found - exact).sum())
    assert errors[1] < 0.3 * errors[0]


def test_names_that_are_taken_are_not_used_again() -> None:
    tiny = Tiny()
    tiny.op("Relu", "x", out="a")
    for taken in ("a_unsmoothed", "a_smooth", "w_smooth"):
        tiny.op("Neg", "a", out=taken)
    tiny.op("Neg", "a", name="a/Smooth", out="a/Smooth")
    tiny.op("MatMul", "a", tiny.const("w", noise(K, N)), name="linear", out="product")
    sums = tiny.op("Sum", "a_unsmoothed", "a_smooth", "w_smooth", "a/Smooth")
    total = tiny.op("ReduceSum", sums, keepdims=1)
    tiny.op("Add", "product", total, out="y")
    model = closed(tiny, y=[3, N])
    result = smoothed(model, {"a": spread(K)})
    nodes = [node.name for node in result.graph.node]
    assert len(set(nodes)) == len(nodes)
    assert_same_answers(model, result, noise(3, K, seed=4))


def test_the_result_is_still_in_normal_form() -> None:
    result = smoothed(one_linear("Gemm", transB=1), {"a": spread(K)})
    assert normalize(result).SerializeToString() == result.SerializeToString()
