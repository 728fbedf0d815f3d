"""Masks of plugin nodes: one row where that is proven, causal by itself, and sums of several."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from tests.support.onnx_tiny import Tiny, attribute, count, run_ort
from tests.support.plugin_graphs import HEADS, LOWEST_HALF, Block, stacked
from trt_int8.graph import plugin_nodes
from trt_int8.graph.plugin_nodes import fuse_plugins
from trt_int8.graph.plugin_variants import inline_plugins, strip_bodies
from trt_int8.graph.plugins.masks import read_mask
from trt_int8.graph.plugins.outline import PluginSite
from trt_int8.graph.plugins.walk import NoPluginError, Shapes
from trt_int8.plugins import attention_model
from trt_int8.plugins.attention import AttentionOptions, AttentionScalars
from trt_int8.plugins.attention_model import AttentionTensors

SEQUENCE = 7
# Of every condition on key and query that a mask of [B, 1, S, S] may have besides its keys: the
# rows that the plugin needs, and whether it hides later keys by itself.
ROWS = {
    "same": (1, 0),
    "causal": (1, 1),
    "triangle": (1, 1),
    "late": (SEQUENCE, 0),
    "corner": (SEQUENCE, 0),
    "later": (SEQUENCE, 0),
    "strict": (SEQUENCE, 0),
    "shifted": (SEQUENCE, 0),
}
BIASED = Block(mask="add", bias=True, scale="scores")


def call_of(model: onnx.ModelProto) -> onnx.NodeProto:
    calls: list[onnx.NodeProto] = [n for n in model.graph.node if n.domain == "trt_int8"]
    return calls[0]


def read_by_call(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[NDArray[Any]]:
    """What the call reads."""
    open_graph = onnx.ModelProto()
    open_graph.CopyFrom(model)
    del open_graph.graph.output[:]
    names = call_of(model).input
    open_graph.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return run_ort(open_graph, feeds)


@pytest.mark.parametrize("mask", ["where", "add"])
@pytest.mark.parametrize("rows", ROWS)
def test_a_mask_is_one_row_and_causal_where_that_is_proven_alone(
    mask: Literal["where", "add"], rows: str
) -> None:
    block = Block(mask=mask, rows=rows)
    twin, feeds = block.twin(), block.feeds(3, SEQUENCE)
    found = fuse_plugins(twin, ["attention"])
    onnx.checker.check_model(found.model, full_check=True)
    wanted_rows, causal = ROWS[rows]
    assert read_by_call(found.model, feeds)[3].shape == (3, 1, wanted_rows, SEQUENCE)
    assert attribute(call_of(found.model), "causal") == causal
    inlined = inline_plugins(found.model)
    for model in (found.model, inlined):
        np.testing.assert_array_equal(run_ort(model, feeds)[0], run_ort(twin, feeds)[0])
    assert {n.name for n in inlined.graph.node} == {n.name for n in twin.graph.node}


@pytest.mark.parametrize(("rows", "wanted"), [("causal", ("keys", 1)), ("later", ("full", 0))])
def test_the_kernel_is_compiled_for_one_row_where_the_call_reads_one(
    rows: str, wanted: tuple[str, int]
) -> None:
    found = fuse_plugins(Block(mask="where", rows=rows).twin(), ["attention"]).model
    known = onnx.shape_inference.infer_shapes(found, data_prop=True).graph
    name = call_of(found).input[3]
    axes = next(v for v in known.value_info if v.name == name).type.tensor_type.shape.dim
    kind = "keys" if axes[2].dim_value == 1 else "full"
    assert (kind, attribute(call_of(found), "causal")) == wanted


@pytest.mark.parametrize("rows", ["same", "causal", "triangle"])
def test_keys_that_differ_between_queries_are_not_cut_to_one_row(rows: str) -> None:
    shape = ("batch", 1, "sequence", "sequence")
    block = Block(mask="where", rows=rows, mask_shape=shape)
    found = fuse_plugins(block.twin(), ["attention"]).model
    feeds = block.feeds(3, SEQUENCE)
    assert read_by_call(found, feeds)[3].shape == (3, 1, SEQUENCE, SEQUENCE)
    assert attribute(call_of(found), "causal") == 0


@pytest.mark.parametrize(("keys", "is_causal"), [("queries", True), ("keys", False)])
def test_a_triangle_is_causal_where_there_are_as_many_queries_as_keys(
    keys: str, is_causal: bool
) -> None:
    tiny = Tiny()
    scores = tiny.op("MatMul", "q", "k", name="scores")
    numbers = []
    for name, axis, new in (("q", 2, 1), ("k", 3, 0)):
        place = tiny.const(f"{name}_axis", np.array(axis))
        length = tiny.op("Gather", tiny.op("Shape", name), place)
        ends = (tiny.const(f"{name}_0", np.array(0)), length, tiny.const(f"{name}_1", np.array(1)))
        axes = tiny.const(f"{name}_new", np.array([new]))
        numbers.append(tiny.op("Unsqueeze", tiny.op("Range", *ends), axes))
    seen = tiny.op("LessOrEqual", numbers[1], numbers[0])
    tiny.op("Where", seen, scores, tiny.const("low", LOWEST_HALF), name="masked", out="y")
    model = tiny.build(
        {"q": ["batch", 2, "queries", 8], "k": ["batch", 2, 8, keys]},
        {"y": ["batch", 2, "queries", keys]},
    )
    nodes = {node.name: node for node in ir.from_proto(model).graph}
    read, _ = read_mask(nodes["masked"], nodes["scores"].outputs[0], Shapes.of(model))
    assert read.is_causal is is_causal


def test_a_causal_condition_that_says_what_is_hidden_stays_a_whole_mask() -> None:
    block = Block(mask="hide", rows="causal")
    call = call_of(fuse_plugins(block.twin(), ["attention"]).model)
    assert attribute(call, "causal") == 0


@pytest.mark.parametrize("mask", ["where", "add"])
def test_one_row_and_causal_mean_to_the_plugin_what_the_model_says(
    mask: Literal["where", "add"],
) -> None:
    block = Block(mask=mask, rows="causal", scale="scores")
    twin, feeds = block.twin(), block.feeds(3, SEQUENCE)
    found = fuse_plugins(twin, ["attention"]).model
    call = call_of(found)
    names = ("q_scale", "k_scale", "v_scale", "output_scale", "softmax_scale")
    q, k, v, keys = read_by_call(found, feeds)
    scalars = AttentionScalars(**{name: attribute(call, name) for name in names})
    options = AttentionOptions(q.shape[-1], mask="keys", causal=True)
    plugin = attention_model.int8_attention(options, scalars, AttentionTensors((q, k, v), keys))
    found.graph.output.append(onnx.ValueInfoProto(name=call.output[0]))
    codes = run_ort(found, feeds)[1]
    assert np.ptp(codes) > 20
    assert np.abs(np.int32(plugin) - codes).max() <= 2
    free = AttentionOptions(q.shape[-1], mask="keys")
    other = attention_model.int8_attention(free, scalars, AttentionTensors((q, k, v), keys))
    assert np.abs(np.int32(other) - codes).max() > 10


@pytest.mark.parametrize("mask", ["add", "where", "hide"])
@pytest.mark.parametrize("hidden_rows", [False, True])
def test_a_bias_and_a_mask_are_one_tensor_for_the_plugin_and_two_for_the_reference(
    mask: Literal["add", "where", "hide"], hidden_rows: bool
) -> None:
    block = Block(mask=mask, bias=True)
    twin, feeds = block.twin(), block.feeds(2, SEQUENCE)
    if hidden_rows:
        hidden = {"add": LOWEST_HALF, "where": False, "hide": True}[mask]
        feeds["mask"][1] = hidden
    found = fuse_plugins(twin, ["attention"]).model
    onnx.checker.check_model(found, full_check=True)
    for model in (found, inline_plugins(found)):
        np.testing.assert_array_equal(run_ort(model, feeds)[0], run_ort(twin, feeds)[0])
    read = read_by_call(found, feeds)
    assert len(read) == 3 + 1 + 2
    added = feeds["mask"]
    if mask != "add":
        added = np.where(added == (mask == "where"), np.float32(0), np.float32(-np.inf))
    assert read[3].dtype == np.float32
    np.testing.assert_array_equal(read[3], feeds["bias"] + added)


def test_tensorrt_is_told_of_the_sum_alone() -> None:
    found = fuse_plugins(BIASED.twin(), ["attention"]).model
    sum_of_both = call_of(found).input[3]
    bare = strip_bodies(found)
    call = call_of(bare)
    assert list(call.input)[3:] == [sum_of_both]
    add = next(node for node in bare.graph.node if sum_of_both in node.output)
    assert add.op_type == "Add"


def test_a_file_with_bodies_in_place_has_no_sum() -> None:
    twin = BIASED.twin()
    inlined = inline_plugins(fuse_plugins(twin, ["attention"]).model)
    assert {n.name for n in inlined.graph.node} == {n.name for n in twin.graph.node}


def test_two_attentions_share_one_sum() -> None:
    twin = stacked(BIASED.twin(), BIASED.twin(), ("mask", "bias", "mask_half", "bias_half"))
    found = fuse_plugins(_with_one_cast(twin), ["attention"]).model
    calls = [node for node in found.graph.node if node.domain == "trt_int8"]
    assert len(calls) == 2
    assert calls[0].input[3:] == calls[1].input[3:]
    sums = [node for node in found.graph.node if node.op_type == "Add" and "plugin" in node.name]
    assert len(sums) == 1
    feeds = BIASED.feeds(2, SEQUENCE)
    np.testing.assert_array_equal(run_ort(found, feeds)[0], run_ort(twin, feeds)[0])


def _with_one_cast(twin: onnx.ModelProto) -> onnx.ModelProto:
    """The second block reads the float16 mask and bias of the first."""
    made: dict[str, str] = {}
    again: dict[str, str] = {}
    for node in twin.graph.node:
        if node.op_type == "Cast" and node.input[0] in ("mask", "bias"):
            again[node.output[0]] = made.setdefault(node.input[0], node.output[0])
    for node in twin.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = again.get(name, name)
    return twin


def test_scores_that_are_scaled_behind_a_mask_are_left_alone() -> None:
    twin = Block(mask="add", scale="scores").twin()
    softmax = next(node for node in twin.graph.node if node.name == "softmax")
    masked = next(node for node in twin.graph.node if node.name == "masked")
    scale = next(node for node in twin.graph.node if node.op_type == "Mul")
    scale.input[0], masked.input[0], softmax.input[0] = (
        masked.output[0],
        scale.input[0],
        scale.output[0],
    )
    nodes = list(twin.graph.node)
    nodes.remove(scale)
    nodes.insert(nodes.index(masked) + 1, scale)
    del twin.graph.node[:]
    twin.graph.node.extend(nodes)
    found = fuse_plugins(twin, ["attention"])
    assert found.model is twin
    assert "scaled behind a mask" in found.notes[0].reason


@pytest.mark.parametrize("block", [BIASED, Block(mask="add", rows="causal")])
def test_an_attention_refused_late_gives_its_masks_back(
    block: Block, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(site: PluginSite) -> None:
        if site.label == "softmax":
            raise NoPluginError("late")

    twin = stacked(block.twin(), block.twin(), ("mask", "bias"))
    monkeypatch.setattr(plugin_nodes, "check_site", refuse)
    found = fuse_plugins(twin, ["attention"])
    assert [len(found.calls), len(found.notes)] == [1, 1]
    onnx.checker.check_model(found.model, full_check=True)
    feeds = block.feeds(2, SEQUENCE)
    np.testing.assert_array_equal(run_ort(found.model, feeds)[0], run_ort(twin, feeds)[0])
    inlined = inline_plugins(found.model)
    assert {n.name for n in inlined.graph.node} == {n.name for n in twin.graph.node}


def test_a_bias_per_head_and_query_is_not_cut_to_one_row() -> None:
    found = fuse_plugins(BIASED.twin(), ["attention"]).model
    bias = call_of(found).input[3]
    assert count(found, "Gather") == 0
    assert read_by_call(found, BIASED.feeds(2, SEQUENCE))[3].shape == (2, HEADS, *[SEQUENCE] * 2)
    assert "plugin_mask" in bias
