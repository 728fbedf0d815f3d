"""Fused graphs as TensorRT reads them: with every body in place, or with the calls alone."""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx_ir.passes import common as passes

from trt_int8.graph.plugin_nodes import plugin_calls
from trt_int8.graph.plugins.outline import copy_node, sweep
from trt_int8.graph.plugins.turns import join_turns, undo_adapters
from trt_int8.plugins.signatures import NAMESPACE, PLUGIN_VERSION


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
    outside = {str(value.name): value for node in graph for value in node.outputs}
    for node in list(graph):
        if node.domain == NAMESPACE and node.op_type in functions:
            _inline(graph, node, functions[node.op_type], outside)
    for key in [key for key, f in opened.functions.items() if f.domain == NAMESPACE]:
        del opened.functions[key]
    graph.opset_imports.pop(NAMESPACE, None)
    undo_adapters(graph)
    sweep(graph)
    passes.TopologicalSortPass()(opened)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(opened)
    return ir.to_proto(opened)


def _inline(
    graph: ir.Graph, call: ir.Node, function: ir.Function, outside: dict[str, ir.Value]
) -> None:
    known: dict[ir.Value, ir.Value | None] = dict(zip(function.inputs, call.inputs, strict=True))
    for node in function:
        # A node that something outside reads too was kept there, under the same name.
        kept = outside.get(str(node.outputs[0].name))
        if kept is not None and node.inputs:
            known[node.outputs[0]] = kept
            continue
        graph.insert_before(call, copy_node(node, known))
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
            node.resize_inputs(len(calls[node.name].inputs))
            node.attributes.add(ir.AttrString("plugin_namespace", NAMESPACE))
            node.attributes.add(ir.AttrString("plugin_version", PLUGIN_VERSION))
    join_turns(bare.graph)
    sweep(bare.graph)
    return ir.to_proto(bare)
