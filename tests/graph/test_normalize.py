"""The normal form: what becomes of weights, pairs, constants and names."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings

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
from tests.support.random_graphs import WEIGHT_FORMS, linear, random_graphs
from trt_int8.errors import GraphError
from trt_int8.graph.normalize import normalize

K, N = 7, 5
QUANTIZED_FORMS = tuple(form for form in WEIGHT_FORMS if form != "float")


def one_linear(form: str) -> onnx.ModelProto:
    tiny = Tiny()
    tiny.op("Relu", linear(tiny, "x", form, (K, N), 0), out="y")
    return tiny.build({"x": [3, K]}, {"y": [3, N]})


def expected_codes(form: str) -> Array:
    values = np.rint(noise(K, N) * 64) / 64
    largest = np.abs(values).max(axis=0)
    scale = 1 / 32 if form == "per tensor" else 2.0 ** np.ceil(np.log2(largest / 127))
    return np.clip(np.rint(values / scale), -128, 127).astype(np.int8)


def stored_weight(model: onnx.ModelProto) -> tuple[onnx.NodeProto, list[Array]]:
    """The DQ in front of operand B of the only MatMul or Gemm, and its three constants."""
    (product,) = [n for n in model.graph.node if n.op_type in ("MatMul", "Gemm")]
    dequantize = maker_of(model, product.input[1])
    constants = constants_of(model)
    return dequantize, [constants[name] for name in dequantize.input]


@pytest.mark.parametrize("form", QUANTIZED_FORMS)
def test_a_quantized_weight_is_stored_as_int8_k_by_n_with_scales_along_n(form: str) -> None:
    dequantize, (codes, scale, zero) = stored_weight(normalize(one_linear(form)))
    assert dequantize.op_type == "DequantizeLinear"
    assert attribute(dequantize, "axis") == 1
    assert codes.dtype == np.int8
    np.testing.assert_array_equal(codes, expected_codes(form))
    assert (scale.dtype, scale.shape) == (np.dtype("f4"), (N,))
    assert (zero.dtype, zero.shape, zero.any()) == (np.dtype("i1"), (N,), np.False_)


@pytest.mark.parametrize("form", QUANTIZED_FORMS)
def test_only_the_dequantizer_is_left_of_a_quantized_weight(form: str) -> None:
    model = normalize(one_linear(form))
    left = sorted(n.op_type for n in model.graph.node if n.op_type not in ("MatMul", "Gemm"))
    assert left == ["DequantizeLinear", "Relu"]


@pytest.mark.parametrize("form", WEIGHT_FORMS)
def test_a_linear_computes_the_same_bits_after_normalizing(form: str) -> None:
    model, feeds = one_linear(form), {"x": noise(3, K, seed=9)}
    np.testing.assert_array_equal(run_ort(normalize(model), feeds)[0], run_ort(model, feeds)[0])


def test_a_float_weight_stays_as_it_is() -> None:
    model = normalize(one_linear("float"))
    assert [n.op_type for n in model.graph.node] == ["MatMul", "Relu"]
    np.testing.assert_array_equal(constants_of(model)["weight0"], np.rint(noise(K, N) * 64) / 64)


def test_transb_becomes_zero_with_the_weight_turned() -> None:
    model = normalize(one_linear("gemm transB"))
    (gemm,) = [n for n in model.graph.node if n.op_type == "Gemm"]
    assert attribute(gemm, "transB") == 0


def test_a_weight_quantized_and_dequantized_by_different_scales_keeps_its_value() -> None:
    tiny = Tiny()
    tiny.const("w", noise(K, N))
    zero = tiny.const("zero", np.array(0, np.int8))
    codes = tiny.op("QuantizeLinear", "w", tiny.const("first", 0.02), zero)
    real = tiny.op("DequantizeLinear", codes, tiny.const("second", 0.04), zero)
    tiny.op("MatMul", "x", real, out="y")
    model, feeds = tiny.build({"x": [3, K]}, {"y": [3, N]}), {"x": noise(3, K)}
    np.testing.assert_array_equal(run_ort(normalize(model), feeds)[0], run_ort(model, feeds)[0])


def test_a_weight_shared_by_two_nodes_is_stored_once() -> None:
    tiny = Tiny()
    side = 40
    scales = np.full(side, 0.02, np.float32)
    shared = tiny.pair(tiny.const("w", noise(side, side)), scales, axis=1)
    tiny.op("Add", tiny.op("MatMul", "x", shared), tiny.op("MatMul", "z", shared), out="y")
    model = normalize(tiny.build({"x": [3, side], "z": [3, side]}, {"y": [3, side]}))
    assert sum(a.shape == (side, side) for a in constants_of(model).values()) == 1


def test_a_weight_shared_by_two_nodes_gives_both_the_same_values_as_before() -> None:
    tiny = Tiny()
    shared = tiny.pair(tiny.const("w", noise(K, N)), np.full(N, 0.02), axis=1)
    tiny.op("Sub", tiny.op("MatMul", "x", shared), tiny.op("Gemm", "z", shared), out="y")
    model = tiny.build({"x": [3, K], "z": [3, K]}, {"y": [3, N]})
    feeds = {"x": noise(3, K), "z": noise(3, K, seed=1)}
    np.testing.assert_array_equal(run_ort(normalize(model), feeds)[0], run_ort(model, feeds)[0])


def test_scales_along_k_are_refused() -> None:
    tiny = Tiny()
    real = tiny.pair(tiny.const("w", noise(K, N)), np.full(K, 0.02), axis=0)
    tiny.op("MatMul", "x", real, out="y", name="wrong_axis")
    with pytest.raises(GraphError, match="'wrong_axis' has its scales along K"):
        normalize(tiny.build({"x": [3, K]}, {"y": [3, N]}))


def test_scales_along_k_of_a_transposed_gemm_are_refused() -> None:
    tiny = Tiny()
    real = tiny.pair(tiny.const("w", noise(N, K)), np.full(K, 0.02), axis=1)
    tiny.op("Gemm", "x", real, out="y", name="wrong_axis", transB=1)
    with pytest.raises(GraphError, match="'wrong_axis' has its scales along K"):
        normalize(tiny.build({"x": [3, K]}, {"y": [3, N]}))


def test_a_quantized_weight_of_three_axes_is_refused_by_the_name_of_its_node() -> None:
    tiny = Tiny()
    tiny.op("MatMul", "x", tiny.pair(tiny.const("w", noise(2, K, N)), 0.02), out="y", name="deep")
    with pytest.raises(GraphError, match=r"'deep' multiplies by .* shape \[2, 7, 5\]"):
        normalize(tiny.build({"x": [2, 3, K]}, {"y": [2, 3, N]}))


def two_pairs(first: float, second: float) -> onnx.ModelProto:
    tiny = Tiny()
    turned = tiny.op("Transpose", tiny.pair("x", first), perm=[1, 0])
    flat = tiny.op("Reshape", turned, tiny.const("shape", np.array([-1])))
    tiny.op("Relu", tiny.pair(flat, second), out="y")
    return tiny.build({"x": [3, K]}, {"y": [3 * K]})


def test_the_first_of_two_equal_pairs_around_layout_operators_is_dropped() -> None:
    model, feeds = two_pairs(0.03, 0.03), {"x": noise(3, K, scale=3)}
    normal = normalize(model)
    assert (count(normal, "QuantizeLinear"), count(normal, "DequantizeLinear")) == (1, 1)
    np.testing.assert_array_equal(run_ort(normal, feeds)[0], run_ort(model, feeds)[0])


def test_two_pairs_of_different_scales_both_stay() -> None:
    model, feeds = two_pairs(0.03, 0.05), {"x": noise(3, K, scale=3)}
    normal = normalize(model)
    assert count(normal, "QuantizeLinear") == 2
    np.testing.assert_array_equal(run_ort(normal, feeds)[0], run_ort(model, feeds)[0])


def test_two_equal_pairs_around_arithmetic_both_stay() -> None:
    tiny = Tiny()
    tiny.op("Relu", tiny.pair(tiny.op("Exp", tiny.pair("x", 0.03)), 0.03), out="y")
    assert count(normalize(tiny.build({"x": [3, K]}, {"y": [3, K]})), "QuantizeLinear") == 2


def test_a_pair_that_something_else_reads_too_stays() -> None:
    tiny = Tiny()
    first = tiny.pair("x", 0.03)
    again = tiny.pair(tiny.op("Transpose", first, perm=[1, 0]), 0.03)
    tiny.op("Add", first, tiny.op("Transpose", again, perm=[1, 0]), out="y")
    model, feeds = tiny.build({"x": [3, K]}, {"y": [3, K]}), {"x": noise(3, K)}
    normal = normalize(model)
    assert maker_of(normal, "y").input[0] != "x"
    np.testing.assert_array_equal(run_ort(normal, feeds)[0], run_ort(model, feeds)[0])


@pytest.mark.parametrize("paired", [False, True])
def test_two_transposes_become_one_in_front_of_the_pair_between_them(paired: bool) -> None:
    tiny = Tiny()
    turned = tiny.op("Transpose", "x", perm=[1, 2, 0])
    between = tiny.pair(turned, 0.03) if paired else turned
    tiny.op("Relu", tiny.op("Transpose", between, perm=[2, 1, 0]), out="y")
    model, feeds = tiny.build({"x": [2, 3, K]}, {"y": [2, K, 3]}), {"x": noise(2, 3, K)}
    normal = normalize(model)
    kinds = [node.op_type for node in normal.graph.node]
    pair = ["QuantizeLinear", "DequantizeLinear"] if paired else []
    assert kinds == ["Transpose", *pair, "Relu"]
    np.testing.assert_array_equal(run_ort(normal, feeds)[0], run_ort(model, feeds)[0])


def test_a_transpose_that_something_else_reads_too_stays() -> None:
    tiny = Tiny()
    turned = tiny.op("Transpose", "x", perm=[1, 0])
    again = tiny.op("Transpose", tiny.pair(turned, 0.03), perm=[1, 0])
    tiny.op("MatMul", again, turned, out="y")
    model, feeds = tiny.build({"x": [3, K]}, {"y": [3, 3]}), {"x": noise(3, K)}
    normal = normalize(model)
    assert count(normal, "Transpose") == 2
    np.testing.assert_array_equal(run_ort(normal, feeds)[0], run_ort(model, feeds)[0])


def test_equal_pairs_on_one_tensor_are_shared() -> None:
    tiny = Tiny()
    left, right = tiny.pair("x", 0.03), tiny.pair("x", 0.03)
    tiny.op("Add", tiny.op("Relu", left), tiny.op("Neg", right), out="y")
    assert count(normalize(tiny.build({"x": [3, K]}, {"y": [3, K]})), "QuantizeLinear") == 1


def test_nodes_of_one_name_or_of_none_get_names_of_their_own() -> None:
    tiny = Tiny()
    value = tiny.op("Neg", tiny.op("Relu", "x", name="same"), name="same")
    tiny.op("Exp", value, out="y")
    tiny.nodes[-1].name = ""
    normal = normalize(tiny.build({"x": [3, K]}, {"y": [3, K]}))
    assert [node.name for node in normal.graph.node] == ["same", "same_1", "Exp_y"]


def test_scales_of_shape_one_and_of_no_shape_make_a_pair() -> None:
    tiny = Tiny()
    first, second = tiny.const("a", f32([0.03])), tiny.const("b", f32(0.03))
    zeros = [tiny.const("za", np.zeros(1, np.int8)), tiny.const("zb", np.int8(0))]
    inner = tiny.op(
        "DequantizeLinear", tiny.op("QuantizeLinear", "x", first, zeros[0]), second, zeros[1]
    )
    tiny.op("Relu", tiny.pair(inner, 0.03), out="y")
    assert count(normalize(tiny.build({"x": [K]}, {"y": [K]})), "QuantizeLinear") == 1


def test_a_large_weight_in_normal_form_keeps_its_name() -> None:
    tiny = Tiny()
    real = tiny.pair(tiny.const("w", noise(40, 40)), np.full(40, 0.02), axis=1)
    tiny.op("MatMul", "x", real, out="y")
    once = normalize(tiny.build({"x": [3, 40]}, {"y": [3, 40]}))
    assert "w_int8" in constants_of(once)
    assert normalize(once).SerializeToString() == once.SerializeToString()


def test_a_tensor_made_twice_is_refused() -> None:
    tiny = Tiny()
    tiny.op("Relu", "x", out="twice")
    tiny.op("Neg", "x", out="twice")
    tiny.op("Exp", "twice", out="y")
    with pytest.raises(GraphError, match=r"inconsistent .*'twice' is redeclared"):
        normalize(tiny.build({"x": [3, K]}, {"y": [3, K]}))


def test_the_given_model_is_not_touched() -> None:
    model = one_linear("gemm transB")
    before = model.SerializeToString(deterministic=True)
    normalize(model)
    assert model.SerializeToString(deterministic=True) == before


@settings(max_examples=40, deadline=None)
@given(model=random_graphs())
def test_a_normal_graph_computes_the_same_bits_as_the_graph_it_came_from(
    model: onnx.ModelProto,
) -> None:
    width = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    feeds = {"x": noise(3, width, seed=3)}
    normal = normalize(model)
    onnx.checker.check_model(normal, full_check=True)
    np.testing.assert_array_equal(run_ort(normal, feeds)[0], run_ort(model, feeds)[0])


@settings(max_examples=25, deadline=None)
@given(model=random_graphs())
def test_normalizing_twice_gives_the_bytes_of_normalizing_once(model: onnx.ModelProto) -> None:
    once = normalize(model)
    assert normalize(once).SerializeToString() == once.SerializeToString()


@settings(max_examples=10, deadline=None)
@given(model=random_graphs())
def test_normalizing_is_repeatable_and_names_are_unique(model: onnx.ModelProto) -> None:
    normal = normalize(model)
    names = [node.name for node in normal.graph.node]
    assert len(set(names)) == len(names)
    assert normal.SerializeToString() == normalize(model).SerializeToString()
