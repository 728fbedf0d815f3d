"""What a policy counts: hand-made coverage against recipes and placement notes."""

from __future__ import annotations

from dataclasses import replace

import onnx
import pytest

from tests.pipeline.test_verdict import engine, node
from tests.support.onnx_tiny import Tiny, noise
from trt_int8.graph.normalize import normalize
from trt_int8.pipeline.data import PreparedModel
from trt_int8.pipeline.expected import mark_left
from trt_int8.spec.coverage import NodeCoverage, Role
from trt_int8.spec.recipe import Recipe
from trt_int8.spec.rules import PlacementNote

LINEAR, ATTENTION = "/model/layer.0/output/dense/MatMul", "/model/layer.0/attention/self/MatMul_1"


def float_node(name: str, role: Role = "linear") -> NodeCoverage:
    return node(name, "float", role).model_copy(update={"wanted_int8": False})


def prepared(*noted: str, by_recipe: bool = True) -> PreparedModel:
    notes = tuple(PlacementNote(node=name, rule="keep", reason="why") for name in noted)
    model = onnx.ModelProto()
    return PreparedModel(model, model, None, [], "", (), (), notes, by_recipe)


def expected(given: PreparedModel, recipe: Recipe, *nodes: NodeCoverage) -> list[str]:
    (marked,) = mark_left([engine(*nodes)], given, recipe)
    return [each.node for each in marked.expected]


NODES = (float_node(LINEAR), float_node(ATTENTION, "attention"))


def test_a_matmul_that_the_placement_missed_is_still_expected() -> None:
    assert expected(prepared(), Recipe(), *NODES) == [LINEAR, ATTENTION]


def test_the_linear_recipe_does_not_expect_attention() -> None:
    assert expected(prepared(), Recipe(attention=False), *NODES) == [LINEAR]


@pytest.mark.parametrize("linear", [False, "ffn"])
def test_linears_that_a_recipe_leaves_out_are_not_expected(linear: bool | str) -> None:
    recipe = Recipe.model_validate({"linear": linear})
    assert expected(prepared(), recipe, *NODES) == [ATTENTION]


@pytest.mark.parametrize("name", [LINEAR, "model.layer.0.output.dense"])
def test_a_noted_node_or_module_is_not_expected(name: str) -> None:
    assert expected(prepared(name), Recipe(), *NODES) == [ATTENTION]


def test_a_note_on_another_module_changes_nothing() -> None:
    assert expected(prepared("model.layer.0.output"), Recipe(), *NODES) == [LINEAR, ATTENTION]


def test_of_a_model_with_pairs_of_its_own_they_are_expected_and_nothing_else() -> None:
    wanted = node("/mine/MatMul", "float")
    assert expected(prepared(by_recipe=False), Recipe(), *NODES, wanted) == ["/mine/MatMul"]


def test_a_matmul_with_a_pair_on_one_operand_alone_is_expected() -> None:
    tiny = Tiny()
    pair = tiny.pair("x", 0.1)
    tiny.op("MatMul", pair, tiny.const("w", noise(32, 32)), name="half", out="y")
    given = replace(
        prepared(by_recipe=False), int8=normalize(tiny.build({"x": [2, 32]}, {"y": [2, 32]}))
    )
    assert expected(given, Recipe(), float_node("half"), *NODES) == ["half"]


def test_what_has_pairs_is_expected_whatever_the_recipe_says() -> None:
    wanted = node(ATTENTION, "float", "attention")
    assert expected(prepared(ATTENTION), Recipe(attention=False), wanted) == [ATTENTION]
