"""Recipes applied to the blocks of a graph."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.blocks import encoder, packed
from tests.support.onnx_tiny import Tiny, noise
from trt_int8.annotate.guard import AttentionGuard
from trt_int8.annotate.onnx_model import OnnxPlan, plan_onnx, weights_of
from trt_int8.errors import RecipeError
from trt_int8.graph.normalize import normalize
from trt_int8.spec.ladder import LADDER
from trt_int8.spec.recipe import Recipe, load_recipe
from trt_int8.spec.rules import RULES

T4_AND_A100 = AttentionGuard((75, 80), 384)


def named(name: str, **changes: object) -> Recipe:
    return load_recipe(name).model_copy(update=changes)


def readers(plan: OnnxPlan, tensor: str) -> set[tuple[str, int]]:
    return {(node, index) for node, index, source in plan.operands if source == tensor}


def test_the_ffn_recipe_takes_the_two_linears_of_each_feed_forward_block() -> None:
    plan = plan_onnx(encoder(), named("ffn"))
    assert plan.weights == ("0.up", "0.down", "1.up", "1.down")
    assert plan.results == ()


def test_the_linear_recipe_takes_projections_and_head_too() -> None:
    plan = plan_onnx(encoder(layers=1), named("linear"))
    assert plan.weights == ("0.q", "0.k", "0.v", "0.o", "0.up", "0.down", "head")
    assert plan.results == ()


def test_ft1_is_the_placement_of_linear_and_attention() -> None:
    assert plan_onnx(encoder(), named("ft1")) == plan_onnx(encoder(), Recipe())


def test_full_gives_one_norm_output_one_pair_for_all_its_readers() -> None:
    plan = plan_onnx(encoder("post"), named("full"))
    assert readers(plan, "0.norm2") == {("1.q", 0), ("1.k", 0), ("1.v", 0), ("1.sum1", 1)}
    assert readers(plan, "0.norm1") == {("0.up", 0), ("0.sum2", 1)}
    assert plan.residual == ("start", "0.norm1", "0.norm2", "1.norm1")


def test_the_other_arm_of_a_residual_sum_stays_float() -> None:
    plan = plan_onnx(encoder("post"), named("full"))
    arms = [(node, index) for node, index, _ in plan.operands if ".sum" in node]
    assert arms == [("0.sum1", 1), ("0.sum2", 1), ("1.sum1", 1), ("1.sum2", 1)]


def test_full_quantizes_the_stream_of_a_pre_norm_model_apart_from_its_norms() -> None:
    plan = plan_onnx(encoder("pre"), named("full"))
    assert readers(plan, "0.stream1") == {("0.sum2", 0)}
    assert readers(plan, "1.norm1") == {("1.q", 0), ("1.k", 0), ("1.v", 0)}


def test_without_residual_no_sum_is_touched() -> None:
    plan = plan_onnx(encoder("post"), Recipe())
    assert not [node for node, _, _ in plan.operands if "sum" in node]
    assert plan.residual == ()


def test_a_residual_sum_is_kept_by_name() -> None:
    plan = plan_onnx(encoder("post"), named("full", keep=("0.sum*",)))
    assert plan.residual == ("0.norm2", "1.norm1")


def reshaped(skip_is_quantized: bool) -> tuple[OnnxPlan, onnx.ModelProto]:
    """A Gemm on two axes, as in GPT-2's exports, under a residual sum of three axes."""
    tiny = Tiny()
    tiny.op("Relu", "x", out="source")
    flat = tiny.op("Reshape", "source", tiny.const("flat", np.array([-1, 32])), name="rows")
    made = tiny.op("Gemm", flat, tiny.const("w", noise(32, 32)), name="gemm")
    back = tiny.op("Reshape", made, tiny.const("back", np.array([2, 5, 32])))
    tiny.op("Add", back, "source", name="sum", out="y")
    model = normalize(tiny.build({"x": [2, 5, 32]}, {"y": [2, 5, 32]}))
    return plan_onnx(model, Recipe(residual=skip_is_quantized)), model


def test_a_linear_behind_a_reshape_shares_the_pair_of_the_skip_arm() -> None:
    plan, model = reshaped(True)
    assert plan.operands == (("rows", 0, "source"), ("sum", 1, "source"))
    np.testing.assert_array_equal(weights_of(model, plan)["source"], noise(32, 32))


def test_a_linear_behind_a_reshape_has_its_own_pair_if_no_skip_arm_has_one() -> None:
    plan, _ = reshaped(False)
    assert [node for node, _, _ in plan.operands] == ["gemm"]


def test_ft2_quantizes_gemm_outputs_and_shares_the_scale_of_q_k_and_v() -> None:
    plan = plan_onnx(encoder(layers=1), named("ft2"))
    assert len(plan.results) == 7  # six GEMMs and the attention output
    assert plan.weight_scales == "tensor"
    assert plan.same_weight_scale == (("0.k", "0.q", "0.v"),)
    (group,) = [group for group in plan.same_scale if len(group) == 3]
    assert set(group) <= set(plan.results)


def test_an_attention_output_shares_the_scale_of_the_linear_that_reads_it_behind_layout() -> None:
    model = encoder(layers=1)
    (flat,) = [node.input[0] for node in model.graph.node if node.name == "0.o"]
    assert plan_onnx(model, Recipe()).same_scale == (("0.mixed", flat),)


@pytest.mark.parametrize("name", ["linear", "ffn"])
def test_an_attention_output_that_stays_float_shares_no_scale(name: str) -> None:
    assert plan_onnx(encoder(layers=1), named(name)).same_scale == ()


def test_only_ft3_quantizes_the_softmax_input_behind_the_mask() -> None:
    model = encoder(layers=1, bias=True)
    second, third = (plan_onnx(model, named(name)) for name in ("ft2", "ft3"))
    added = set(third.operands) - set(second.operands)
    (bias,) = [n.output[0] for n in model.graph.node if n.name == "0.bias"]
    assert added == {("0.softmax", 0, bias)}
    assert replace(third, operands=second.operands) == second


def test_the_result_of_a_classifier_is_no_gemm_output_of_a_layer() -> None:
    plan = plan_onnx(encoder(layers=1), named("ft2"))
    head = next(n.output[0] for n in encoder(layers=1).graph.node if n.name == "head")
    assert head not in plan.results


def test_contexts_that_concat_joins_share_a_scale() -> None:
    tiny = Tiny()
    parts = []
    for i in range(2):
        h = tiny.op("MatMul", "x", tiny.const(f"w{i}", noise(32, 16, seed=i)))
        scores = tiny.op("MatMul", h, tiny.op("Transpose", h, perm=[0, 2, 1]))
        mixed = tiny.op("MatMul", tiny.op("Softmax", scores, axis=-1), h, out=f"mixed{i}")
        parts.append(tiny.op("Cast", mixed, to=onnx.TensorProto.FLOAT))
    joined = tiny.op("Concat", *parts, axis=2)
    tiny.op("MatMul", joined, tiny.const("wo", noise(32, 32)), out="y")
    model = normalize(tiny.build({"x": [2, 5, 32]}, {"y": [2, 5, 32]}))
    assert plan_onnx(model, Recipe()).same_scale == (("mixed0", "mixed1"),)


def test_tables_are_planned_on_demand_only() -> None:
    tiny = Tiny()
    ids = tiny.op("Cast", "x", to=onnx.TensorProto.INT64)
    rows = tiny.op("Gather", tiny.const("table", noise(50, 32)), ids, name="lookup")
    tiny.op("MatMul", rows, tiny.const("w", noise(32, 32)), out="y")
    model = normalize(tiny.build({"x": [7]}, {"y": [7, 32]}))
    assert plan_onnx(model, Recipe()).tables == ()
    assert plan_onnx(model, Recipe(embeddings=True)).tables == ("lookup",)
    assert plan_onnx(model, Recipe(embeddings=True, keep=("lookup",))).tables == ()
    alone = plan_onnx(model, Recipe(embeddings=True, linear=False, attention=False))
    assert (alone.tables, alone.tensors) == (("lookup",), ())


def test_a_layer_that_is_too_small_is_noted_with_its_size() -> None:
    tiny = Tiny()
    hidden = tiny.op("MatMul", "x", tiny.const("w", noise(32, 32)), name="large")
    tiny.op("MatMul", hidden, tiny.const("c", noise(32, 15)), name="small", out="y")
    model = normalize(tiny.build({"x": [7, 32]}, {"y": [7, 15]}))
    (note,) = plan_onnx(model, Recipe()).notes
    assert (note.node, note.rule) == ("small", "small")
    assert "32 x 15" in note.reason


@pytest.mark.parametrize("head_dim", [16, 32, 64])
def test_an_attention_that_fuses_passes_the_guard(head_dim: int) -> None:
    model = encoder(layers=1, head_dim=head_dim)
    assert plan_onnx(model, Recipe(), T4_AND_A100) == plan_onnx(model, Recipe())


@pytest.mark.parametrize("head_dim", [24, 48, 80, 128])
def test_no_bmm_of_an_attention_that_does_not_fuse_is_quantized(head_dim: int) -> None:
    plan = plan_onnx(encoder(layers=2, head_dim=head_dim), Recipe(), T4_AND_A100)
    assert not [n for n, _, _ in plan.operands if "scores" in n or "context" in n]
    assert plan.results == ()
    assert [n.node for n in plan.notes] == ["0.scores", "0.context", "1.scores", "1.context"]
    assert all(f"head size {head_dim}" in n.reason for n in plan.notes)
    assert {n.rule for n in plan.notes} == {"attention-limits"}


def test_the_length_of_the_profile_counts_per_card() -> None:
    model = encoder(layers=1, head_dim=64)
    refused = {
        (sms, longest): bool(plan_onnx(model, Recipe(), AttentionGuard(sms, longest)).notes)
        for sms in ((75,), (80,), (75, 80))
        for longest in (384, 385, 512, 513)
    }
    allowed = {key for key, value in refused.items() if not value}
    assert allowed == {((75,), 384), ((80,), 384), ((80,), 385), ((80,), 512), ((75, 80), 384)}


def test_a_guarded_attention_that_is_kept_is_noted_as_kept() -> None:
    model = encoder(layers=1, head_dim=48)
    notes = plan_onnx(model, Recipe(keep=("0.softmax",)), T4_AND_A100).notes
    assert [(n.node, n.rule) for n in notes] == [("0.scores", "keep"), ("0.context", "keep")]


def test_if_nothing_is_left_the_error_says_why() -> None:
    recipe = Recipe(linear=False)
    with pytest.raises(RecipeError, match=r"matches no node .*'0\.scores': .*head size 48"):
        plan_onnx(encoder(layers=1, head_dim=48), recipe, T4_AND_A100)


@pytest.mark.parametrize("name", LADDER)
@pytest.mark.parametrize("kind", ["post", "pre", "parallel"])
def test_each_rung_can_be_placed_in_each_kind_of_layer(name: str, kind: str) -> None:
    plan = plan_onnx(encoder(kind, 1), named(name))
    assert set(plan.weights) >= {"0.up", "0.down"}
    assert all(note.rule in RULES for note in plan.notes)


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(["post", "pre", "parallel"]),
    name=st.sampled_from(sorted(LADDER)),
    head_dim=st.sampled_from([16, 48]),
    kept=st.sampled_from(["", "0.scores", "0.q", "0.sum1", "0.down"]),
)
def test_attention_is_quantized_whole_or_not_at_all(
    kind: str, name: str, head_dim: int, kept: str
) -> None:
    keep = (kept,) if kept else ()
    plan = plan_onnx(encoder(kind, 1, head_dim), named(name, keep=keep), T4_AND_A100)
    bmms = {(n, i) for n, i, _ in plan.operands if n in ("0.scores", "0.context")}
    assert len(bmms) + ("0.mixed" in plan.results) in (0, 5)
    assert kept not in {n for n, _, _ in plan.operands} | set(plan.weights)
    assert len(set(plan.operands)) == len(plan.operands)


def test_packed_projections_are_found_by_the_guard_too() -> None:
    assert plan_onnx(packed("reshape+gather"), Recipe(), T4_AND_A100).notes == ()
