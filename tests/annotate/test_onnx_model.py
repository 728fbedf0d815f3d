"""Which tensors of a float ONNX graph are planned for INT8."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto

from tests.support.onnx_tiny import Tiny, noise
from trt_int8.annotate.onnx_model import OnnxPlan, plan_onnx
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
    assert plan_onnx(block(), Recipe()) == OnnxPlan(LINEARS + BMMS, ("mixed",), ("q", "out"))


def test_without_attention_only_linears_are_planned() -> None:
    assert plan_onnx(block(), Recipe(attention=False)) == OnnxPlan(LINEARS, (), ("q", "out"))


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
