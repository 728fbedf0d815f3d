"""Which tensors of a float ONNX graph are planned for INT8."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.support.onnx_tiny import Tiny, noise
from trt_int8.annotate.onnx_model import OnnxPlan, plan_onnx, weights_of
from trt_int8.errors import RecipeError
from trt_int8.graph.normalize import normalize
from trt_int8.spec.recipe import Recipe


def block() -> onnx.ModelProto:
    """Linear `q`, an attention over its result, linear `out`, and a classifier of 3 classes."""
    tiny = Tiny()
    hidden = tiny.op("MatMul", "x", tiny.const("wq", noise(32, 32)), name="q", out="hidden")
    turned = tiny.op("Transpose", hidden, perm=[0, 2, 1], out="turned")
    scores = tiny.op("MatMul", hidden, turned, name="scores")
    scaled = tiny.op("Div", scores, tiny.const("root", 5.7), name="scale")
    weights = tiny.op("Softmax", scaled, axis=-1, name="softmax", out="weights")
    context = tiny.op("MatMul", weights, hidden, name="context", out="mixed")
    wide = tiny.op("Relu", context, out="wide")
    last = tiny.op("MatMul", wide, tiny.const("wo", noise(32, 48)), name="out", out="last")
    tiny.op("MatMul", last, tiny.const("wc", noise(48, 3)), name="classes", out="y")
    return normalize(tiny.build({"x": [2, 5, 32]}, {"y": [2, 5, 3]}))


LINEARS = (("q", 0, "x"), ("out", 0, "wide"))
BMMS = (
    ("scores", 0, "hidden"),
    ("scores", 1, "turned"),
    ("context", 0, "weights"),
    ("context", 1, "hidden"),
)


def test_the_default_recipe_takes_linears_and_attention() -> None:
    plan = plan_onnx(block(), Recipe())
    assert plan == OnnxPlan(LINEARS + BMMS, ("mixed",), ("q", "out"), notes=plan.notes)
    assert [note.node for note in plan.notes] == ["classes"]


def test_without_attention_only_linears_are_planned() -> None:
    plan = plan_onnx(block(), Recipe(attention=False))
    assert plan == OnnxPlan(LINEARS, (), ("q", "out"), notes=plan.notes)


def test_without_linears_only_attention_is_planned() -> None:
    assert plan_onnx(block(), Recipe(linear=False)) == OnnxPlan(BMMS, ("mixed",), ())


def test_a_linear_with_fewer_than_16_outputs_is_left_out() -> None:
    assert "classes" not in plan_onnx(block(), Recipe()).weights


def test_kept_linears_are_left_out_by_glob() -> None:
    assert plan_onnx(block(), Recipe(keep=("ou*",))).weights == ("q",)


def test_an_attention_is_kept_by_the_name_of_its_softmax() -> None:
    assert plan_onnx(block(), Recipe(keep=("softmax",))).results == ()


@pytest.mark.parametrize("name", ["scores", "context"])
def test_an_attention_is_kept_by_the_name_of_either_matmul(name: str) -> None:
    plan = plan_onnx(block(), Recipe(keep=(name,)))
    assert name not in {node for node, _, _ in plan.operands}


def test_each_tensor_needs_one_range() -> None:
    tensors = plan_onnx(block(), Recipe()).tensors
    assert tensors == ("x", "wide", "hidden", "turned", "weights", "mixed")


def test_a_recipe_that_matches_nothing_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"'linear\+attention' matches no node of the ONNX file"):
        plan_onnx(block(), Recipe(keep=("*",)))


def test_a_keep_pattern_without_a_match_is_refused_by_its_text() -> None:
    with pytest.raises(
        RecipeError, match=r"'keep' has the pattern 'ouch\*', .* wanted names such as q"
    ):
        plan_onnx(block(), Recipe(keep=("out", "ouch*")))


def test_a_keep_pattern_for_a_layer_that_is_too_small_is_no_error() -> None:
    assert plan_onnx(block(), Recipe(keep=("classes",))).weights == ("q", "out")


def test_an_embedding_is_not_planned() -> None:
    tiny = Tiny()
    ids = tiny.op("Cast", "x", to=TensorProto.INT64)
    rows = tiny.op("Gather", tiny.const("table", noise(50, 32)), ids)
    tiny.op("MatMul", rows, tiny.const("w", noise(32, 32)), name="linear", out="y")
    plan = plan_onnx(normalize(tiny.build({"x": [7]}, {"y": [7, 32]})), Recipe())
    assert [node for node, _, _ in plan.operands] == ["linear"]


def test_planning_leaves_the_graph_alone() -> None:
    model = block()
    before = model.SerializeToString()
    plan_onnx(model, Recipe())
    assert model.SerializeToString() == before


def test_each_linear_input_has_the_weight_it_meets() -> None:
    model = block()
    found = weights_of(model, plan_onnx(model, Recipe()))
    assert set(found) == {"x", "wide"}
    np.testing.assert_array_equal(found["x"], noise(32, 32))
    np.testing.assert_array_equal(found["wide"], noise(32, 48))


def test_the_operands_of_attention_meet_no_weight() -> None:
    model = block()
    assert weights_of(model, plan_onnx(model, Recipe(linear=False))) == {}


def test_a_kept_linear_gives_no_weight() -> None:
    model = block()
    assert set(weights_of(model, plan_onnx(model, Recipe(keep=("q",))))) == {"wide"}


def three(*kinds: str) -> onnx.ModelProto:
    """Three Linears over one tensor: `plain` [K, N], `gemm` [K, N] and `turned` [N, K]."""
    tiny = Tiny()
    outputs = []
    for number, kind in enumerate(kinds):
        weight = noise(32, 16 + number, seed=number)
        stored = tiny.const(f"w{number}", weight.T if kind == "turned" else weight)
        if kind == "plain":
            outputs.append(tiny.op("MatMul", "x", stored, name=kind))
        else:
            turned = int(kind == "turned")
            outputs.append(tiny.op("Gemm", "x", stored, name=kind, transB=turned))
    tiny.op("Concat", *outputs, axis=1, out="y")
    return tiny.build({"x": [7, 32]}, {"y": [7, sum(16 + n for n in range(len(kinds)))]})


def test_weights_that_meet_one_tensor_stand_side_by_side_as_right_operands() -> None:
    model = three("plain", "gemm", "turned")
    names = ("plain", "gemm", "turned")
    plan = OnnxPlan(tuple((name, 0, "x") for name in names), (), names)
    (found,) = weights_of(model, plan).values()
    wanted = np.concatenate([noise(32, 16 + n, seed=n) for n in range(3)], axis=1)
    np.testing.assert_array_equal(found, wanted)
    assert found.dtype == np.float32


def test_linears_of_a_graph_in_normal_form_give_the_same_weights() -> None:
    model = normalize(three("plain", "gemm", "turned"))
    (found,) = weights_of(model, plan_onnx(model, Recipe())).values()
    wanted = np.concatenate([noise(32, 16 + n, seed=n) for n in range(3)], axis=1)
    np.testing.assert_array_equal(found, wanted)


def test_a_weight_that_is_not_stored_as_it_is_used_is_left_out() -> None:
    tiny = Tiny()
    turned = tiny.op("Transpose", tiny.const("stored", noise(20, 32)), perm=[1, 0])
    first = tiny.op("MatMul", "x", turned, name="computed")
    second = tiny.op("MatMul", "x", tiny.const("w", noise(32, 16)), name="plain")
    tiny.op("Concat", first, second, axis=1, out="y")
    model = tiny.build({"x": [7, 32]}, {"y": [7, 36]})
    plan = OnnxPlan((("computed", 0, "x"), ("plain", 0, "x")), (), ("computed", "plain"))
    (found,) = weights_of(model, plan).values()
    np.testing.assert_array_equal(found, noise(32, 16))
