"""Q/DQ put into a float graph by plan, and taken out again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from tests.support.onnx_tiny import Array, Tiny, constants_of, count, f32, maker_of, noise, run_ort
from tests.support.tiny_transformers import text_model
from trt_int8.annotate.onnx_model import OnnxPlan, plan_onnx
from trt_int8.errors import GraphError, RangeError
from trt_int8.graph.export import export_float
from trt_int8.graph.insert import has_qdq, insert_qdq, strip_qdq
from trt_int8.graph.normalize import normalize
from trt_int8.numerics import channel_amax, scale_of
from trt_int8.spec.ranges import TensorRange
from trt_int8.spec.recipe import Recipe

K, N = 19, 17


def ranges(plan: OnnxPlan, amax: float = 4.0) -> dict[str, TensorRange]:
    return {name: TensorRange(amax=amax, peak=amax) for name in plan.tensors}


def one_linear(kind: str = "MatMul", **attrs: int) -> onnx.ModelProto:
    tiny = Tiny()
    stored = noise(N, K) if attrs.get("transB") else noise(K, N)
    tiny.op(kind, "x", tiny.const("w", stored), out="y", name="product", **attrs)
    return normalize(tiny.build({"x": [3, K]}, {"y": [3, N]}))


def quantized(model: onnx.ModelProto, amax: float = 4.0) -> onnx.ModelProto:
    plan = plan_onnx(model, Recipe())
    return insert_qdq(model, plan, ranges(plan, amax))


def rounded(x: Array, scale: Array | np.float32) -> Array:
    """Quantize and dequantize, by the formula of the INT8 contract."""
    return (np.clip(np.rint(x / scale), -128, 127) * scale).astype(np.float32)


@pytest.mark.parametrize(("kind", "turned"), [("MatMul", 0), ("Gemm", 0), ("Gemm", 1)])
def test_a_linear_computes_with_rounded_input_and_weight(kind: str, turned: int) -> None:
    model = one_linear(kind, **({"transB": 1} if turned else {}))
    x = noise(3, K, seed=5) * 3
    w = noise(N, K).T if turned else noise(K, N)
    expected = rounded(x, np.float32(4) / np.float32(127)) @ rounded(
        w, np.abs(w).max(axis=0) / np.float32(127)
    )
    found = run_ort(quantized(model), {"x": x})[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert np.abs(found - x @ w).max() > 0.01


def test_the_result_is_in_normal_form() -> None:
    result = quantized(one_linear("Gemm", transB=1))
    onnx.checker.check_model(result, full_check=True)
    assert normalize(result).SerializeToString() == result.SerializeToString()
    assert constants_of(result)["w_int8"].shape == (K, N)


def test_a_wrong_range_shows_in_the_output() -> None:
    model, feeds = one_linear(), {"x": noise(3, K)}
    good, bad = (run_ort(quantized(model, amax), feeds)[0] for amax in (4.0, 0.4))
    exact = run_ort(model, feeds)[0]
    assert np.abs(good - exact).max() < 0.3
    assert np.abs(bad - exact).max() > 1.0


def test_a_range_of_zero_is_refused() -> None:
    model = one_linear()
    plan = plan_onnx(model, Recipe())
    with pytest.raises(RangeError, match=r"amax is 0\.0"):
        insert_qdq(model, plan, ranges(plan, 0.0))


@pytest.mark.parametrize(("kind", "turned"), [("MatMul", 0), ("Gemm", 1)])
def test_the_mse_ranges_of_weights_round_them_better_than_the_largest(
    kind: str, turned: int
) -> None:
    model = one_linear(kind, **({"transB": 1} if turned else {}))
    weight = noise(N, K).T if turned else noise(K, N)
    plan = plan_onnx(model, Recipe())
    # With steps of 1 / 127, rows of a unit matrix give the rows of the rounded weight itself.
    unit = np.eye(K, dtype=np.float32)
    errors = {}
    for method in ("max", "mse"):
        result = insert_qdq(model, replace(plan, weight_method=method), ranges(plan, 1.0))
        rows = [run_ort(result, {"x": unit[[k] * 3]})[0][0] for k in range(K)]
        errors[method] = float(((np.stack(rows) - weight) ** 2).sum())
    assert 0 < errors["mse"] < errors["max"]


def test_two_linears_on_one_tensor_share_its_pair() -> None:
    tiny = Tiny()
    left = tiny.op("MatMul", "x", tiny.const("a", noise(K, N)))
    tiny.op("Add", left, tiny.op("MatMul", "x", tiny.const("b", noise(K, N, seed=1))), out="y")
    assert (
        count(quantized(normalize(tiny.build({"x": [3, K]}, {"y": [3, N]}))), "QuantizeLinear") == 1
    )


def test_other_readers_of_a_tensor_keep_the_float_values() -> None:
    tiny = Tiny()
    tiny.op("Add", tiny.op("MatMul", "x", tiny.const("w", noise(K, K))), "x", out="y", name="sum")
    result = quantized(normalize(tiny.build({"x": [3, K]}, {"y": [3, K]})))
    assert "x" in maker_of(result, "y").input


def test_a_name_that_is_taken_does_not_stop_it() -> None:
    tiny = Tiny()
    hidden = tiny.op("Mul", "x", tiny.const("h_scale", noise(K)), out="h")
    tiny.op("MatMul", hidden, tiny.const("w", noise(K, N)), out="y")
    model, feeds = normalize(tiny.build({"x": [3, K]}, {"y": [3, N]})), {"x": noise(3, K)}
    # The largest |h| is between 4 and 8.
    found = run_ort(quantized(model, 8.0), feeds)[0]
    np.testing.assert_allclose(found, run_ort(model, feeds)[0], atol=0.5)


def test_an_attention_without_heads_in_front_of_a_linear_is_quantized() -> None:
    tiny = Tiny()
    scores = tiny.op("MatMul", "x", tiny.op("Transpose", "x", perm=[0, 2, 1]))
    context = tiny.op("MatMul", tiny.op("Softmax", scores, axis=-1), "x")
    tiny.op("MatMul", context, tiny.const("w", noise(K, N)), out="y")
    model, feeds = normalize(tiny.build({"x": [2, 5, K]}, {"y": [2, 5, N]})), {"x": noise(2, 5, K)}
    found = run_ort(quantized(model), feeds)[0]
    np.testing.assert_allclose(found, run_ort(model, feeds)[0], atol=0.6)


def test_a_weight_behind_a_cast_becomes_int8_too() -> None:
    tiny = Tiny()
    stored = tiny.const("w", noise(K, N).astype(np.float16))
    tiny.op("MatMul", "x", tiny.op("Cast", stored, to=TensorProto.FLOAT), out="y")
    result = quantized(normalize(tiny.build({"x": [3, K]}, {"y": [3, N]})))
    assert maker_of(result, maker_of(result, "y").input[1]).op_type == "DequantizeLinear"


def test_a_weight_of_two_nodes_is_stored_once() -> None:
    tiny = Tiny()
    tiny.const("w", noise(40, 40))
    tiny.op("MatMul", tiny.op("Relu", tiny.op("MatMul", "x", "w")), "w", out="y")
    result = quantized(normalize(tiny.build({"x": [3, 40]}, {"y": [3, 40]})))
    assert sum(a.shape == (40, 40) for a in constants_of(result).values()) == 1


def test_a_weight_that_is_no_float32_matrix_is_refused_by_the_name_of_its_node() -> None:
    tiny = Tiny()
    tiny.op("MatMul", "x", tiny.const("w", noise(K, N).astype(np.float64)), out="y", name="wide")
    model = tiny.build({"x": [3, K]}, {"y": [3, N]}, dtype=TensorProto.DOUBLE)
    plan = plan_onnx(model, Recipe())
    with pytest.raises(GraphError, match="weight of node 'wide' is not a float32 matrix"):
        insert_qdq(model, plan, ranges(plan))


def test_codes_that_are_changed_between_q_and_dq_cannot_be_stripped() -> None:
    tiny = Tiny()
    params = [tiny.const("s", 0.02), tiny.const("z", np.int8(0))]
    changed = tiny.op("Neg", tiny.op("QuantizeLinear", "x", *params, name="first"))
    tiny.op("DequantizeLinear", changed, *params, out="y")
    with pytest.raises(GraphError, match=r"'first' .* is not half of a Q/DQ pair"):
        strip_qdq(tiny.build({"x": [3, K]}, {"y": [3, K]}))


def test_an_int32_bias_is_stripped_to_float() -> None:
    tiny = Tiny()
    bias = tiny.op(
        "DequantizeLinear", tiny.const("b", np.full(K, 3, np.int32)), tiny.const("s", 0.5)
    )
    tiny.op("Add", "x", bias, out="y")
    stripped = strip_qdq(tiny.build({"x": [3, K]}, {"y": [3, K]}))
    np.testing.assert_array_equal(run_ort(stripped, {"x": noise(3, K)})[0], noise(3, K) + f32(1.5))


def test_stripping_gives_the_float_graph_up_to_the_rounding_of_weights() -> None:
    model, x = one_linear(), noise(3, K)
    stripped = strip_qdq(quantized(model))
    w = noise(K, N)
    expected = x @ rounded(w, np.abs(w).max(axis=0) / np.float32(127))
    assert not has_qdq(stripped)
    np.testing.assert_allclose(run_ort(stripped, {"x": x})[0], expected, rtol=1e-5, atol=1e-5)


def test_stripping_keeps_a_float_weight_exactly() -> None:
    tiny = Tiny()
    tiny.op("MatMul", tiny.pair("x", 0.02), tiny.pair(tiny.const("w", noise(K, N)), 0.02), out="y")
    stripped = strip_qdq(tiny.build({"x": [3, K]}, {"y": [3, N]}))
    (stored,) = constants_of(stripped).values()
    np.testing.assert_array_equal(stored, noise(K, N))


def test_a_graph_that_ends_in_a_pair_can_be_stripped() -> None:
    tiny = Tiny()
    tiny.pair(tiny.op("Neg", "x"), 0.02)
    tiny.nodes[-1].output[0] = "y"
    stripped = strip_qdq(tiny.build({"x": [3, K]}, {"y": [3, K]}))
    np.testing.assert_array_equal(run_ort(stripped, {"x": noise(3, K)})[0], -noise(3, K))


def test_has_qdq_tells_the_two_graphs_apart() -> None:
    model = one_linear()
    assert (has_qdq(model), has_qdq(quantized(model))) == (False, True)


def test_inserting_and_stripping_leave_their_arguments_alone() -> None:
    model = one_linear("Gemm", transB=1)
    before = model.SerializeToString()
    result = quantized(model)
    bytes_of_result = result.SerializeToString()
    strip_qdq(result)
    assert (model.SerializeToString(), result.SerializeToString()) == (before, bytes_of_result)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 99))
def test_no_weight_moves_by_more_than_half_its_channels_step(k: int, n: int, seed: int) -> None:
    weight = noise(k, n, seed=seed)
    scale = scale_of(channel_amax(weight, 1))
    assert (np.abs(rounded(weight, scale) - weight) <= scale * 0.5001).all()


def test_an_exported_bert_keeps_its_answer_within_the_int8_error() -> None:
    model = export_float(text_model())
    plan = plan_onnx(model, Recipe())
    feeds: dict[str, Array] = {
        "input_ids": np.random.default_rng(0).integers(3, 97, (2, 9)),
        "attention_mask": np.ones((2, 9), np.int64),
    }
    observed = onnx.ModelProto.FromString(model.SerializeToString())
    observed.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in plan.tensors)
    values = dict(
        zip([o.name for o in observed.graph.output], run_ort(observed, feeds), strict=True)
    )
    found = {n: TensorRange(amax=float(np.abs(values[n]).max()), peak=1.0) for n in plan.tensors}
    result = insert_qdq(model, plan, found)
    exact, int8 = run_ort(model, feeds)[0], run_ort(result, feeds)[0]
    noise_db = 10 * np.log10(np.sum(exact**2) / np.sum((exact - int8) ** 2))
    assert 20 < noise_db < 60
    onnx.checker.check_model(result, full_check=True)
    float_again = run_ort(strip_qdq(result), feeds)[0]
    assert np.sum((exact - float_again) ** 2) < np.sum((exact - int8) ** 2)


def test_only_the_planned_nodes_are_quantized() -> None:
    tiny = Tiny()
    hidden = tiny.op("MatMul", "x", tiny.const("a", noise(K, K)), name="first")
    tiny.op("MatMul", hidden, tiny.const("b", noise(K, N)), out="y", name="second")
    model = normalize(tiny.build({"x": [3, K]}, {"y": [3, N]}))
    plan = plan_onnx(model, Recipe())
    half = replace(plan, operands=plan.operands[:1], weights=plan.weights[:1])
    result = insert_qdq(model, half, ranges(half))
    kinds = [
        [
            maker_of(result, i).op_type
            for i in n.input
            if any(i in m.output for m in result.graph.node)
        ]
        for n in result.graph.node
        if n.op_type == "MatMul"
    ]
    assert kinds == [["DequantizeLinear"] * 2, ["MatMul"]]
