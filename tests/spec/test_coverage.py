from __future__ import annotations

import pytest

from trt_int8.spec.coverage import EngineCoverage, NodeCoverage, Role, Runs


def node(role: Role, runs: Runs, name: str = "n") -> NodeCoverage:
    return NodeCoverage(
        node=name,
        role=role,
        wanted_int8=True,
        runs=runs,
        operands=("Int8", "Int8"),
        output="Half",
        constant_weight=True,
        kernel="k",
        fused_attention=False,
        reason="",
    )


def engine(*nodes: NodeCoverage) -> EngineCoverage:
    return EngineCoverage(
        sm=75,
        precision="int8",
        evidence="layers",
        tensorrt_version="1",
        nodes=nodes,
        attentions=0,
        attentions_fused=0,
        attentions_int8=0,
    )


def test_the_fraction_counts_linear_and_attention_nodes_only() -> None:
    found = engine(
        node("linear", "int8"),
        node("attention", "float"),
        node("attention", "int8"),
        node("small", "float"),
        node("other", "float"),
    )
    assert (found.int8_count, len(found.counted)) == (2, 3)
    assert found.fraction == pytest.approx(2 / 3)


@pytest.mark.parametrize("runs", ["float", "unmapped", "disputed"])
def test_only_proven_int8_counts(runs: Runs) -> None:
    assert engine(node("linear", runs)).fraction == 0.0


def test_a_small_node_in_int8_adds_nothing() -> None:
    found = engine(node("small", "int8"), node("linear", "float"))
    assert (found.int8_count, found.fraction) == (0, 0.0)


def test_an_engine_without_counted_nodes_is_fully_covered() -> None:
    assert engine(node("other", "float")).fraction == 1.0


def test_counted_nodes_keep_their_order() -> None:
    found = engine(
        node("linear", "int8", "z"), node("other", "int8", "o"), node("attention", "int8", "a")
    )
    assert [n.node for n in found.counted] == ["z", "a"]


def test_coverage_survives_its_json_form() -> None:
    found = engine(node("linear", "disputed"))
    assert EngineCoverage.model_validate_json(found.to_json()) == found
