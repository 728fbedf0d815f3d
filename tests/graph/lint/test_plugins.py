"""Files with this package's plugin nodes: nothing wrong is found that is not wrong without."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import pytest

from tests.support.plugin_graphs import Block
from tests.support.plugin_rows import gelu_twin, norm_twin
from trt_int8.graph.lint.run import lint_model
from trt_int8.graph.plugin_nodes import fuse_plugins
from trt_int8.graph.plugin_variants import strip_bodies
from trt_int8.spec.lint import Finding, Goal
from trt_int8.spec.plugins import PLUGIN_FAMILIES
from trt_int8.spec.shapes import parse_shapes

GOAL = Goal(sms=(75, 80), shapes=parse_shapes("batch=1:2:4,seq=8:16:40"))

TWINS = {
    "mask": Block(mask="where").twin,
    "hidden": Block(mask="hide", result="heads").twin,
    "causal": Block(mask="where", rows="causal").twin,
    "bias and mask": Block(mask="where", bias=True).twin,
    "norm": lambda: norm_twin(half=True, flat=""),
    "flat norm": lambda: norm_twin(flat="rows"),
    "gelu": gelu_twin,
}


def findings(model: onnx.ModelProto) -> tuple[Finding, ...]:
    return lint_model(model, Path("model.onnx"), GOAL).findings


@pytest.mark.parametrize("name", TWINS)
def test_a_file_with_plugin_nodes_has_the_findings_of_the_file_without(name: str) -> None:
    twin = TWINS[name]()
    fused = fuse_plugins(twin, PLUGIN_FAMILIES)
    have = Counter((f.check, f.severity) for f in findings(fused.model))
    assert have.pop(("plugin-node", "info")) == len(fused.calls) == 1
    assert have == Counter((f.check, f.severity) for f in findings(twin))


@pytest.mark.parametrize("name", ["mask", "norm", "gelu"])
def test_calls_without_bodies_are_known_and_not_taken_for_others(name: str) -> None:
    bare = strip_bodies(fuse_plugins(TWINS[name](), PLUGIN_FAMILIES).model)
    found = {f.check: f.severity for f in findings(bare)}
    assert found["plugin-node"] == "warning"
    assert not {"custom-operator", "pair-around-plugin", "bare-quantize"} & set(found)


def test_an_unknown_operator_of_our_domain_is_foreign() -> None:
    bare = strip_bodies(fuse_plugins(gelu_twin(), PLUGIN_FAMILIES).model)
    node = next(node for node in bare.graph.node if node.domain == "trt_int8")
    node.op_type = "int9_attention"
    assert {"custom-operator"} <= {f.check for f in findings(bare)}
