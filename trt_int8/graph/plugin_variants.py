"""Fused graphs as TensorRT reads them: with every body in place, or with the calls alone."""

from __future__ import annotations

from typing import Final

import onnx
import onnx_ir as ir
from onnx_ir.passes import common as passes

from trt_int8.graph.plugin_nodes import plugin_calls
from trt_int8.graph.plugins.outline import sweep
from trt_int8.graph.plugins.turns import join_turns, undo_adapters
from trt_int8.plugins.signatures import NAMESPACE

# The version that quick plugins of TensorRT register with.
PLUGIN_VERSION: Final = "1"


def inline_plugins(model: onnx.ModelProto) -> onnx.ModelProto:
    """A fused graph with every body in the place of its call; names of nodes are those of before.

    Returns:
        A new graph without local functions of the plugins; `model` itself if it has none.
    """
    if not any(function.domain == NAMESPACE for function in model.functions):
        return model
    opened = ir.from_proto(model)
    graph = opened.graph
    functions = {f.name: f for f in opened.functions.values() if f.domain == NAMESPACE}
    for node in list(graph):
        if node.domain == NAMESPACE and node.op_type in functions:
            _inline(graph, node, functions[node.op_type])
    for key in [key for key, f in opened.functions.items() if f.domain == NAMESPACE]:
        del opened.functions[key]
    graph.opset_imports.pop(NAMESPACE, None)
    undo_adapters(graph)
    sweep(graph)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(opened)
    return ir.to_proto(opened)


def _inline(graph: ir.Graph, call: ir.Node, function: ir.Function) -> None:
    known: dict[ir.Value, ir.Value | None] = dict(zip(function.inputs, call.inputs, strict=True))
    for node in function:
        copy = ir.Node(
            node.domain,
            node.op_type,
            [None if value is None else known[value] for value in node.inputs],
            [ir.Attr(a.name, a.type, a.value) for a in node.attributes.values()],
            num_outputs=len(node.outputs),
            name=node.name,
        )
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            new.name, new.type, new.shape = old.name, old.type, old.shape
            known[old] = new
        graph.insert_before(call, copy)
    for made, value in zip(call.outputs, function.outputs, strict=True):
        result = known[value]
        assert result is not None
        result.name, made.name = made.name, None
        result.type, result.shape = made.type, made.shape
        made.replace_all_uses_with(result, replace_graph_outputs=True)
    graph.remove(call, safe=True)


def strip_bodies(model: onnx.ModelProto) -> onnx.ModelProto:
    """A fused graph for TensorRT with plugins: calls without bodies, by the plugins' names.

    The parser takes a local function before a plugin of the same name, and looks it up by name
    alone; `plugin_namespace` and `plugin_version` say which plugin is meant (onnx-tensorrt,
    `ModelImporter.cpp` and the importer of `FallbackPluginImporter`).

    Returns:
        A new graph, in which no Transpose is left that turns codes back to what they were before
        another one. ONNX Runtime cannot run it.
    """
    calls = plugin_calls(model)
    bare = ir.from_proto(model)
    for key in [key for key, f in bare.functions.items() if f.domain == NAMESPACE]:
        del bare.functions[key]
    for node in bare.graph:
        if node.domain == NAMESPACE and node.name in calls:
            node.op_type = calls[node.name].name
            node.attributes.add(ir.AttrString("plugin_namespace", NAMESPACE))
            node.attributes.add(ir.AttrString("plugin_version", PLUGIN_VERSION))
    join_turns(bare.graph)
    sweep(bare.graph)
    return ir.to_proto(bare)
