"""The functions of a fused file: one per call, all names new, and scales that agree."""

from __future__ import annotations

import onnx
import pytest
from onnx import numpy_helper

from tests.support.onnx_tiny import attribute
from tests.support.plugin_graphs import Block
from tests.support.plugin_rows import gelu_twin, norm_twin
from trt_int8.graph.plugin_nodes import fuse_plugins, plugin_calls
from trt_int8.plugins.signatures import signature_named
from trt_int8.spec.plugins import PLUGIN_FAMILIES


def fused_files() -> list[onnx.ModelProto]:
    twins = [
        Block(mask="where", scale="scores").twin(),
        Block(one_source=True, pair_at="split").twin(),
        Block(scales=(0.02, 0.03, 0.04, 1 / 127, 0)).twin(),
        norm_twin(half=True, total=True),
        gelu_twin("tanh"),
    ]
    return [fuse_plugins(twin, PLUGIN_FAMILIES).model for twin in twins]


@pytest.fixture(scope="module")
def files() -> list[onnx.ModelProto]:
    return fused_files()


def test_every_function_is_called_once(files: list[onnx.ModelProto]) -> None:
    for model in files:
        functions = [function.name for function in model.functions]
        called = [node.op_type for node in model.graph.node if node.domain == "trt_int8"]
        assert len(functions) >= 1
        assert sorted(functions) == sorted(called)


def test_no_two_nodes_or_tensors_of_a_file_have_one_name(files: list[onnx.ModelProto]) -> None:
    for model in files:
        scopes = [model.graph.node, *(function.node for function in model.functions)]
        nodes = [node.name for scope in scopes for node in scope]
        assert all(nodes)
        assert len(set(nodes)) == len(nodes)
        tensors = [name for scope in scopes for node in scope for name in node.output]
        tensors += [name for function in model.functions for name in function.input]
        assert len(set(tensors)) == len(tensors)


def test_a_call_has_the_inputs_attributes_and_outputs_of_its_signature(
    files: list[onnx.ModelProto],
) -> None:
    for model in files:
        for node in (n for n in model.graph.node if n.domain == "trt_int8"):
            signature = plugin_calls(model)[node.name]
            assert node.op_type.startswith(f"{signature.name}__")
            assert signature_named(signature.name) == signature
            assert len(node.input) == len(signature.inputs)
            assert len(node.output) == len(signature.outputs)
            given = {a.name: {a.FLOAT: float, a.INT: int}[a.type] for a in node.attribute}
            assert given == {spec.name: spec.kind for spec in signature.attributes}


def test_the_scales_of_a_call_are_those_of_the_pairs_in_its_body(
    files: list[onnx.ModelProto],
) -> None:
    seen = 0
    for model in files:
        bodies = {function.name: function for function in model.functions}
        for node in (n for n in model.graph.node if n.domain == "trt_int8"):
            for name, scale in scales_in(bodies[node.op_type]).items():
                assert attribute(node, name) == scale
                seen += 1
    # Where K and V are one tensor the body reads it by one of its two names.
    assert seen == 4 + 3 + 3 + 1 + 1


def scales_in(body: onnx.FunctionProto) -> dict[str, float]:
    """By attribute the scale next to that input or output of a body, found by following it."""
    constants = {
        node.output[0]: numpy_helper.to_array(attribute(node, "value"))
        for node in body.node
        if node.op_type == "Constant"
    }
    readers = {node.input[0]: node for node in body.node if node.input}
    makers = {node.output[0]: node for node in body.node}
    found: dict[str, float] = {}
    for name in body.input:
        node = readers.get(name)
        while node is not None and node.op_type in ("Transpose", "Reshape"):
            node = readers.get(node.output[0])
        if node is not None and node.op_type == "DequantizeLinear":
            found[f"{name.rpartition('/')[2]}_scale"] = float(constants[node.input[1]])
    last = makers[body.output[0]]
    while last.op_type in ("Transpose", "Reshape"):
        if last.input[0] not in makers:
            return found
        last = makers[last.input[0]]
    if last.op_type == "QuantizeLinear":
        found["output_scale"] = float(constants[last.input[1]])
    return found


def test_fusing_twice_gives_the_same_file() -> None:
    first, second = fused_files(), fused_files()
    assert [m.SerializeToString() for m in first] == [m.SerializeToString() for m in second]


def test_the_graph_that_is_fused_stays_as_it_was() -> None:
    twin = Block(mask="add").twin()
    before = twin.SerializeToString(deterministic=True)
    assert fuse_plugins(twin, ["attention"]).calls
    assert twin.SerializeToString(deterministic=True) == before


def test_a_fused_file_has_nothing_left_to_fuse(files: list[onnx.ModelProto]) -> None:
    assert [fuse_plugins(model, PLUGIN_FAMILIES).calls for model in files] == [()] * len(files)
