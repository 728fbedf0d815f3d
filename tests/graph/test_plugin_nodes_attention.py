"""Attentions with Q/DQ as plugin nodes: what is matched, and that not a bit changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from tests.support.onnx_tiny import attribute, count, run_ort
from tests.support.plugin_graphs import HEAD_DIM, HEADS, Block, stacked
from trt_int8.annotate.guard import AttentionGuard
from trt_int8.graph import plugin_nodes
from trt_int8.graph.plugin_nodes import FusedGraph, fuse_plugins
from trt_int8.graph.plugins.operands import HEADS_FIRST, KEY_TURNED, OperandPath, check_order
from trt_int8.graph.plugins.outline import PluginSite
from trt_int8.graph.plugins.walk import NoPluginError

PLAIN = Block()
FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "mask by Where": {"mask": "where"},
    "mask by Where the other way round": {"mask": "hide"},
    "additive mask": {"mask": "add"},
    "mask of rank 2": {"mask": "add", "mask_shape": ("sequence", "sequence")},
    "mask per head": {"mask": "where", "mask_shape": ("batch", HEADS, "sequence", "sequence")},
    "mask per query": {"mask": "add", "mask_shape": ("batch", 1, "sequence", 1)},
    "scale behind Q's pair": {"scale": "q"},
    "scale behind K's pair": {"scale": "k"},
    "K and V are one tensor": {"one_source": True, "pair_at": "split"},
    "scale on the scores": {"scale": "scores"},
    "no scale": {"scale": "none"},
    "pairs in front of the head split": {"pair_at": "split"},
    "output pair on [B, N, S, D]": {"result": "heads"},
    "output pair on [B, S, N, D]": {"result": "rows"},
    "float output": {"scales": (0.02, 0.03, 0.04, 1 / 127, 0)},
    "head size 80": {"head_dim": 80},
}


def fused(block: Block) -> tuple[onnx.ModelProto, FusedGraph]:
    twin = block.twin()
    return twin, fuse_plugins(twin, ["attention"])


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("sizes", [(1, 1), (3, 11)])
def test_every_form_becomes_one_node_that_computes_the_same_bits(
    name: str, sizes: tuple[int, int]
) -> None:
    block = replace(PLAIN, **FORMS[name])
    twin, found = fused(block)
    assert [signature.family for _, signature in found.calls] == ["attention"]
    onnx.checker.check_model(found.model, full_check=True)
    feeds = block.feeds(*sizes)
    want, have = run_ort(twin, feeds)[0], run_ort(found.model, feeds)[0]
    assert np.ptp(want) > 0.5
    np.testing.assert_array_equal(have, want)


@pytest.mark.parametrize("scale", ["scores", "q", "k"])
def test_the_node_carries_the_scales_of_the_pairs_and_of_the_softmax(scale: Any) -> None:
    _, found = fused(replace(PLAIN, scale=scale, mask="add"))
    node = next(n for n in found.model.graph.node if n.domain == "trt_int8")
    names = ("q_scale", "k_scale", "v_scale", "output_scale")
    assert [attribute(node, name) for name in names] == pytest.approx([0.02, 0.03, 0.04, 0.05])
    # The constant 1 / sqrt(16) in float16 is exact.
    assert attribute(node, "softmax_scale") == 0.25
    assert (attribute(node, "causal"), attribute(node, "half_output")) == (0, 0)


def test_a_scale_in_front_of_the_pair_of_q_stays_outside() -> None:
    _, found = fused(PLAIN)
    node = next(n for n in found.model.graph.node if n.domain == "trt_int8")
    assert attribute(node, "softmax_scale") == 1.0
    assert count(found.model, "Mul") == 1


def test_the_plugin_reads_and_writes_int8_as_b_s_n_d() -> None:
    _, found = fused(replace(PLAIN, mask="where"))
    inferred = onnx.shape_inference.infer_shapes(found.model, data_prop=True).graph
    known = {value.name: value.type.tensor_type for value in inferred.value_info}
    node = next(n for n in found.model.graph.node if n.domain == "trt_int8")
    for name in (*node.input[:3], node.output[0]):
        assert known[name].elem_type == onnx.TensorProto.INT8
        dims = [dim.dim_value or dim.dim_param for dim in known[name].shape.dim]
        assert dims == ["batch", "sequence", HEADS, HEAD_DIM]
    assert known[node.input[3]].elem_type == onnx.TensorProto.FLOAT
    assert len(known[node.input[3]].shape.dim) == 4


@pytest.mark.parametrize("mask", ["add", "where"])
def test_a_mask_of_one_column_gets_a_column_for_each_key(mask: Any) -> None:
    block = replace(PLAIN, mask=mask, mask_shape=("batch", 1, "sequence", 1))
    _, found = fused(block)
    node = next(n for n in found.model.graph.node if n.domain == "trt_int8")
    found.model.graph.output.append(onnx.ValueInfoProto(name=node.input[3]))
    assert run_ort(found.model, block.feeds(2, 7))[1].shape == (2, 1, 7, 7)


def test_a_mask_of_two_attentions_is_made_once() -> None:
    first, second = (replace(PLAIN, mask="where").twin() for _ in range(2))
    found = fuse_plugins(stacked(first, second), ["attention"])
    masks = [n.input[3] for n in found.model.graph.node if n.domain == "trt_int8"]
    assert len(masks) == 2
    assert masks[0] == masks[1]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"scales": (0, 0.03, 0.04, 1 / 127, 0.05)}, "Q has no symmetric INT8 pair"),
        ({"scales": (0.02, 0, 0.04, 1 / 127, 0.05)}, "K has no symmetric INT8 pair"),
        ({"scales": (0.02, 0.03, 0, 1 / 127, 0.05)}, "V has no symmetric INT8 pair"),
        ({"scales": (0.02, 0.03, 0.04, 0, 0.05)}, "its softmax output is not quantized"),
        ({"head_dim": 40}, "Int8Attention got heads of 40 elements"),
        ({"scale": "v"}, "V is multiplied by a number behind its pair"),
        ({"scale": "none", "scales": (2.0, 2.0, 0.04, 1 / 127, 0.05)}, "q_scale * k_scale"),
        ({"mask": "add", "mask_shape": (1, 1, "sequence", "others")}, "its sizes are not known"),
    ],
)
def test_what_is_no_attention_of_the_plugin_is_left_alone_with_a_reason(
    changes: dict[str, Any], reason: str
) -> None:
    twin, found = fused(replace(PLAIN, **changes))
    assert found.model is twin
    assert [note.rule for note in found.notes] == ["plugin"]
    assert reason in found.notes[0].reason
    assert found.notes[0].node == "softmax"


def _edited(twin: onnx.ModelProto, name: str, **changes: Any) -> onnx.ModelProto:
    node = next(n for n in twin.graph.node if n.name == name)
    for key, value in changes.items():
        kept = [a for a in node.attribute if a.name != key]
        del node.attribute[:]
        node.attribute.extend([*kept, onnx.helper.make_attribute(key, value)])
    return twin


def test_a_softmax_over_another_axis_is_left_alone() -> None:
    found = fuse_plugins(_edited(PLAIN.twin(), "softmax", axis=1), ["attention"])
    assert found.calls == ()
    assert "not over the keys" in found.notes[0].reason


def test_an_attention_whose_codes_are_an_output_of_the_model_is_left_alone() -> None:
    twin = PLAIN.twin()
    context = [node.name for node in twin.graph.node].index("context")
    behind = [n for n in list(twin.graph.node)[context:] if n.op_type == "QuantizeLinear"]
    twin.graph.output.append(onnx.ValueInfoProto(name=behind[0].output[0]))
    found = fuse_plugins(twin, ["attention"])
    assert found.calls == ()


def test_heads_in_another_order_are_refused() -> None:
    codes = ir.Node("", "QuantizeLinear", [], name="q")
    path = OperandPath(codes, (), HEADS_FIRST, 1.0, 1.0, split=(HEADS, HEAD_DIM))
    check_order(path, HEADS_FIRST, "Q")
    with pytest.raises(NoPluginError, match="another order"):
        check_order(path, KEY_TURNED, "K")


@pytest.mark.parametrize("node", ["scores", "softmax", "context"])
def test_an_attention_whose_inside_something_else_reads_is_left_alone(node: str) -> None:
    twin = PLAIN.twin()
    tensor = next(n.output[0] for n in twin.graph.node if n.name == node)
    twin.graph.output.append(onnx.ValueInfoProto(name=tensor))
    assert fuse_plugins(twin, ["attention"]).calls == ()


def test_a_where_that_puts_a_small_number_in_is_no_mask() -> None:
    twin = replace(PLAIN, mask="where").twin()
    low = next(t for t in twin.graph.initializer if t.name.startswith("low"))
    low.CopyFrom(onnx.numpy_helper.from_array(np.array(-3.0, np.float16), low.name))
    found = fuse_plugins(twin, ["attention"])
    assert found.calls == ()
    assert "lowest number" in found.notes[0].reason


@pytest.mark.parametrize(("longest", "count"), [(512, 0), (513, 1)])
def test_with_a_guard_only_what_tensorrt_cannot_fuse_becomes_a_node(
    longest: int, count: int
) -> None:
    found = fuse_plugins(PLAIN.twin(), ["attention"], AttentionGuard((80,), longest))
    assert len(found.calls) == count
    assert found.notes == ()


def test_a_family_that_is_not_asked_for_stays() -> None:
    twin = PLAIN.twin()
    assert fuse_plugins(twin, ["layernorm", "gelu"]).model is twin


@pytest.mark.parametrize("mask", ["where", "add"])
@pytest.mark.parametrize("refused", ["softmax", "two/softmax"])
def test_an_attention_that_is_refused_late_leaves_nothing_behind(
    mask: Any, refused: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(site: PluginSite) -> None:
        if site.label == refused:
            raise NoPluginError("late")

    block = replace(PLAIN, mask=mask)
    twin = stacked(block.twin(), block.twin())
    monkeypatch.setattr(plugin_nodes, "check_site", refuse)
    found = fuse_plugins(twin, ["attention"])
    assert [note.reason for note in found.notes] == ["late"]
    assert len(found.calls) == 1
    onnx.checker.check_model(found.model, full_check=True)
    np.testing.assert_array_equal(
        run_ort(found.model, block.feeds())[0], run_ort(twin, block.feeds())[0]
    )
    kept = [n.name for n in twin.graph.node if n.name.startswith("two/") == ("two/" in refused)]
    outside = {node.name for node in found.model.graph.node}
    assert set(kept) <= outside
    # One mask, and what turns codes and results of the other attention.
    assert len([name for name in outside if "plugin_" in name]) == 1 + 3 + 1
