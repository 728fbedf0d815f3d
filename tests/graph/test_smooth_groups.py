"""Which tensors of a float graph can be smoothed, together with which others."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.blocks import encoder
from tests.support.onnx_tiny import Tiny, constants_of, f32, maker_of, noise
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
    two_tensors,
)
from trt_int8.annotate.onnx_model import OnnxPlan, plan_onnx
from trt_int8.errors import RangeError
from trt_int8.graph.smooth import smooth_graph, smoothing_groups
from trt_int8.spec.recipe import Recipe


def test_the_groups_are_the_inputs_of_linears_but_for_attention_outputs() -> None:
    model = encoder("post", 1)
    read = set(first_weights(model))
    mixed = next(node.input[0] for node in model.graph.node if node.name == "0.o")
    assert mixed in read
    assert set(smoothing_groups(model, planned(model))) == {(t,) for t in read - {mixed}}


def test_without_int8_attention_its_output_can_be_smoothed_too() -> None:
    model = encoder("post", 1)
    groups = smoothing_groups(model, planned(model, attention=False))
    assert set(groups) == {(t,) for t in first_weights(model)}


def test_what_a_residual_sum_reads_in_int8_is_left_out() -> None:
    model = encoder("post", 1)
    names = {t for group in smoothing_groups(model, planned(model, residual=True)) for t in group}
    assert "start" not in names
    assert "0.norm1" not in names
    assert names  # the input of 0.down is still there


def test_gemm_outputs_are_left_out() -> None:
    tiny = Tiny()
    tiny.op("Relu", "x", out="a")
    tiny.op("MatMul", "a", tiny.const("w", noise(K, K)), name="one", out="b")
    tiny.op("MatMul", "b", tiny.const("v", noise(K, N)), name="two", out="y")
    model = closed(tiny, y=[3, N])
    plan = plan_onnx(model, Recipe())
    assert smoothing_groups(model, plan) == (("a",), ("b",))
    with_result = OnnxPlan(plan.operands, ("b",), plan.weights)
    assert smoothing_groups(model, with_result) == (("a",),)


def test_inputs_and_outputs_of_the_graph_are_left_out() -> None:
    tiny = Tiny()
    tiny.op("MatMul", "x", tiny.const("w", noise(K, K)), name="one", out="middle")
    tiny.op("MatMul", "middle", tiny.const("v", noise(K, N)), name="two", out="y")
    model = closed(tiny, y=[3, N], middle=[3, K])
    plan = plan_onnx(model, Recipe())
    assert plan.tensors == ("x", "middle")
    assert smoothing_groups(model, plan) == ()


def test_a_constant_left_operand_is_left_out() -> None:
    tiny = Tiny()
    table = tiny.op("MatMul", tiny.const("table", noise(3, K)), tiny.const("w", noise(K, N)))
    a = tiny.op("Relu", "x")
    tiny.op("Add", tiny.op("MatMul", a, tiny.const("v", noise(K, N)), name="other"), table, out="y")
    model = closed(tiny, y=[3, N])
    assert smoothing_groups(model, planned(model)) == ((a,),)


def test_a_gemm_that_turns_its_input_is_left_out() -> None:
    tiny = Tiny()
    tiny.op("Relu", "x", out="a")
    tiny.op("Gemm", "a", tiny.const("w", noise(3, N)), transA=1, name="linear", out="y")
    model = closed(tiny, y=[K, N])
    plan = OnnxPlan((("linear", 0, "a"),), (), ("linear",))
    assert smoothing_groups(model, plan) == ()
    with pytest.raises(RangeError, match="smoothing factors for 'a'; wanted factors of tensors"):
        smooth_graph(model, plan, {"a": spread(3)})


def test_tensors_whose_linears_share_a_weight_are_one_group_with_one_weight() -> None:
    model, factors = two_tensors(), spread(K)
    assert smoothing_groups(model, planned(model)) == (("a", "b"),)
    result = smoothed(model, {"a": factors, "b": factors})
    assert maker_of(result, "y").input[1] == maker_of(result, "z").input[1]
    assert "w" not in constants_of(result)
    assert_same_answers(model, result, noise(3, K, seed=4))


def test_groups_that_meet_in_a_later_linear_become_one() -> None:
    tiny = Tiny()
    weights = [tiny.const(f"w{i}", noise(K, K, seed=i)) for i in range(3)]
    for i, (tensor, own) in enumerate((("a", [0, 2]), ("b", [1]), ("c", [1, 0]))):
        tiny.op("Mul", "x", tiny.const(f"{tensor}_m", f32(i + 1)), out=tensor)
        for w in own:
            tiny.op("MatMul", tensor, weights[w], name=f"{tensor}{w}", out=f"{tensor}{w}")
    outputs: dict[str, list[int | str]] = {n: [3, K] for n in ("a0", "a2", "b1", "c1", "c0")}
    model = closed(tiny, **outputs)
    assert smoothing_groups(model, planned(model)) == (("a", "b", "c"),)


def test_one_weight_read_both_ways_round_is_multiplied_for_each() -> None:
    """An autoencoder with tied weights decodes by the transpose of what encodes."""
    model, factors = two_tensors(transB=1), spread(K)
    result = smoothed(model, {"a": factors, "b": factors})
    stored = constants_of(result)
    one, two = (stored[maker_of(result, name).input[1]] for name in "yz")
    np.testing.assert_allclose(one, noise(K, K) * factors[:, None], rtol=2e-7)
    np.testing.assert_allclose(two, noise(K, K) * factors, rtol=2e-7)
    assert_same_answers(model, result, noise(3, K, seed=4))


def test_a_weight_read_both_ways_round_makes_no_group_of_tensors_of_other_channels() -> None:
    tiny = Tiny()
    weight = tiny.const("w", noise(K, N))
    tiny.op("Relu", "x", out="a")
    tiny.op("Gemm", "a", weight, name="encode", out="h")
    tiny.op("Tanh", "h", out="b")
    tiny.op("Gemm", "b", weight, name="decode", out="y", transB=1)
    model = closed(tiny, y=[3, K])
    assert smoothing_groups(model, planned(model)) == (("a",), ("b",))
    result = smoothed(model, {"a": spread(K), "b": spread(N, 1)})
    assert_same_answers(model, result, noise(3, K, seed=4))


def test_other_factors_for_tensors_of_one_group_give_each_its_own_weight() -> None:
    model = two_tensors()
    result = smoothed(model, {"a": spread(K), "b": spread(K, 1)})
    assert maker_of(result, "y").input[1] != maker_of(result, "z").input[1]
    assert_same_answers(model, result, noise(3, K, seed=4))


@pytest.mark.parametrize("channels", [1, K - 1, N])
def test_another_number_of_channels_is_refused(channels: int) -> None:
    model = one_linear()
    with pytest.raises(RangeError, match=f"{channels} smoothing factors for 'a'; wanted {K}, one"):
        smooth_graph(model, planned(model), {"a": spread(channels)})


@pytest.mark.parametrize("tensor", ["nothing", "x", "y", "w"])
def test_a_tensor_that_cannot_be_smoothed_is_refused_by_name(tensor: str) -> None:
    model = one_linear()
    with pytest.raises(RangeError, match=f"smoothing factors for '{tensor}'; .* anew"):
        smooth_graph(model, planned(model), {"a": spread(K), tensor: spread(K)})
