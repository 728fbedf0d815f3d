"""Fused files as TensorRT reads them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest

from tests.support.onnx_tiny import attribute, count, run_ort
from tests.support.plugin_graphs import Block
from tests.support.plugin_rows import gelu_twin, norm_twin, rows
from trt_int8.graph.plugin_nodes import fuse_plugins, plugin_calls
from trt_int8.graph.plugin_variants import inline_plugins, strip_bodies
from trt_int8.plugins.signatures import NAMESPACE, signature_named
from trt_int8.spec.plugins import PLUGIN_FAMILIES

BLOCKS: dict[str, dict[str, Any]] = {
    "scale in front of Q's pair": {"mask": "where"},
    "pairs in front of the head split": {"pair_at": "split", "mask": "hide"},
    "output pair on [B, N, S, D]": {"result": "heads", "mask": "add"},
    "mask of unknown length": {"mask": "add", "mask_shape": ("batch", 1, "sequence", 1)},
}


def shape_of_nodes(model: onnx.ModelProto) -> list[tuple[str, str]]:
    return sorted((node.op_type, node.name) for node in model.graph.node)


@pytest.mark.parametrize("name", BLOCKS)
def test_inlining_gives_the_nodes_and_names_of_before(name: str) -> None:
    twin = replace(Block(), **BLOCKS[name]).twin()
    inlined = inline_plugins(fuse_plugins(twin, ["attention"]).model)
    onnx.checker.check_model(inlined, full_check=True)
    assert not inlined.functions
    # The constants of a Reshape and a mask without rank 4 stay in the form of the plugin.
    assert shape_of_nodes(inlined) == shape_of_nodes(twin)


def test_inlining_rows_gives_the_nodes_and_names_of_before() -> None:
    for twin in (norm_twin(half=True, total=True), gelu_twin()):
        inlined = inline_plugins(fuse_plugins(twin, PLUGIN_FAMILIES).model)
        assert shape_of_nodes(inlined) == shape_of_nodes(twin)


def test_a_node_that_stayed_outside_too_is_there_once_after_inlining() -> None:
    twin = norm_twin()
    given = next(node for node in twin.graph.node if node.name == "in")
    pair = [node for node in twin.graph.node if node.op_type == "QuantizeLinear"]
    # x comes through a pair, and its DQ is read by the norm and by something else.
    scale, zero = pair[0].input[1:3]
    x, codes, back = given.output[0], "x_codes", "x_back"
    readers = [node for node in twin.graph.node if x in node.input]
    place = list(twin.graph.node).index(given) + 1
    chain = [
        onnx.helper.make_node("Cast", [x], ["x_float"], name="x_cast", to=1),
        onnx.helper.make_node("QuantizeLinear", ["x_float", scale, zero], [codes], name="x_q"),
        onnx.helper.make_node("DequantizeLinear", [codes, scale, zero], [back], name="x_dq"),
        onnx.helper.make_node("Cast", [back], ["x_again"], name="x_half", to=10),
        onnx.helper.make_node("Neg", ["x_again"], ["more"], name="more"),
    ]
    for reader in readers:
        reader.input[:] = ["x_again" if name == x else name for name in reader.input]
    for step, node in enumerate(chain):
        twin.graph.node.insert(place + step, node)
    more = onnx.helper.make_tensor_value_info("more", onnx.TensorProto.FLOAT16, None)
    twin.graph.output.append(more)
    fused = fuse_plugins(twin, ["layernorm"]).model
    assert len(fused.functions) == 1
    inlined = inline_plugins(fused)
    onnx.checker.check_model(inlined, full_check=True)
    assert shape_of_nodes(inlined) == shape_of_nodes(twin)


def test_a_file_without_plugin_nodes_is_given_back() -> None:
    twin = gelu_twin()
    assert inline_plugins(twin) is twin


def files() -> list[onnx.ModelProto]:
    twins = [replace(Block(), **changes).twin() for changes in BLOCKS.values()]
    twins += [norm_twin(), gelu_twin()]
    return [fuse_plugins(twin, PLUGIN_FAMILIES).model for twin in twins]


def test_without_bodies_a_call_names_the_plugin_and_has_all_its_attributes() -> None:
    for fused in files():
        bare, calls = strip_bodies(fused), plugin_calls(fused)
        assert not bare.functions
        nodes = [node for node in bare.graph.node if node.domain == NAMESPACE]
        assert [node.name for node in nodes] == list(calls)
        for node in nodes:
            signature = signature_named(node.op_type)
            assert signature == calls[node.name]
            assert len(node.input) == len(signature.inputs)
            names = {given.name for given in node.attribute}
            assert names == {
                *(spec.name for spec in signature.attributes),
                "plugin_namespace",
                "plugin_version",
            }
            assert attribute(node, "plugin_namespace") == b"trt_int8"
            assert attribute(node, "plugin_version") == b"1"


def test_without_bodies_no_transpose_is_left_around_an_attention() -> None:
    twin = replace(Block(), mask="where").twin()
    fused = fuse_plugins(twin, ["attention"]).model
    assert count(fused, "Transpose") == 6
    assert count(strip_bodies(fused), "Transpose") == 0


def test_a_transpose_that_another_node_reads_stays() -> None:
    twin = Block(scale="none").twin()
    turned = next(node for node in twin.graph.node if node.op_type == "Transpose")
    twin.graph.output.append(onnx.ValueInfoProto(name=turned.output[0]))
    fused = fuse_plugins(twin, ["attention"]).model
    assert count(strip_bodies(fused), "Transpose") == 2


@pytest.mark.parametrize("number", range(len(BLOCKS) + 2))
def test_without_bodies_the_calls_stand_at_the_same_tensors(number: int) -> None:
    fused = files()[number]
    bare = strip_bodies(fused)
    # Give the calls their bodies again, and run what is around them.
    for function in fused.functions:
        bare.functions.append(function)
    names = {node.name: node.op_type for node in fused.graph.node if node.domain == NAMESPACE}
    for node in bare.graph.node:
        if node.name in names:
            node.op_type = names[node.name]
            kept = [a for a in node.attribute if not a.name.startswith("plugin_")]
            del node.attribute[:]
            node.attribute.extend(kept)
    blocks = list(BLOCKS.values())
    feeds = replace(Block(), **blocks[number]).feeds() if number < len(blocks) else rows(fused)
    want, have = run_ort(fused, feeds)[0], run_ort(bare, feeds)[0]
    # ONNX Runtime rounds to float16 elsewhere, so a code may be the next one.
    np.testing.assert_allclose(have, want, atol=0.1)
    assert np.std(have - want) < 0.01 * np.std(want)
