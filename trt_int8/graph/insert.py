"""Insert Q/DQ into a float ONNX graph by plan, and take them out again."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from trt_int8.annotate.onnx_model import OnnxPlan
from trt_int8.calibrate.estimate.weights import weight_amax
from trt_int8.errors import GraphError
from trt_int8.graph import qdq
from trt_int8.graph.names import TensorNames, name_nodes
from trt_int8.graph.normalize import drop_repeated_pairs, fold_constants, fold_weights, tidy
from trt_int8.numerics import FloatArray, scale_of
from trt_int8.spec.ranges import TensorRange
from trt_int8.spec.recipe import WeightMethod


def insert_qdq(
    model: onnx.ModelProto, plan: OnnxPlan, ranges: dict[str, TensorRange]
) -> onnx.ModelProto:
    """Quantize a float graph.

    Args:
        model: float graph in normal form.
        plan: what to quantize.
        ranges: amax for each of `plan.tensors`.

    Returns:
        A new graph in normal form.

    Raises:
        GraphError: a weight of the plan is not a float32 matrix.
        RangeError: a range is not a number above 0.
    """
    quantized = ir.from_proto(model)
    graph = quantized.graph
    _Inserter(graph).run(plan, ranges)
    fold_weights(graph)
    drop_repeated_pairs(graph)
    tidy(quantized)
    name_nodes(graph)
    return ir.to_proto(quantized)


def strip_qdq(model: onnx.ModelProto) -> onnx.ModelProto:
    """The float graph behind a Q/DQ graph: no rounding of activations; weights as stored.

    A weight kept as int8 codes becomes codes * scale; one kept as float stays what it was.

    Raises:
        GraphError: a Q or DQ is not half of a pair with one scale.
    """
    stripped = ir.from_proto(model)
    tidy(stripped)
    graph = stripped.graph
    fold_constants(graph)
    names = TensorNames(graph)
    for node in list(graph):
        value = _behind(graph, names, node) if node.op_type == "DequantizeLinear" else None
        if value is not None:
            _stand_in(graph, node, value)
    tidy(stripped)
    name_nodes(graph)
    left = next((n for n in graph if n.op_type in ("QuantizeLinear", "DequantizeLinear")), None)
    if left is not None:
        raise GraphError(
            f"node {left.name!r} ({left.op_type}) is not half of a Q/DQ pair",
            wanted="each DequantizeLinear right behind a QuantizeLinear of the same scale",
            todo="quantize the float model again, or pass the float ONNX",
        )
    return ir.to_proto(stripped)


def _behind(graph: ir.Graph, names: TensorNames, node: ir.Node) -> ir.Value | None:
    """What a DQ stands for without rounding."""
    pair = qdq.activation_pair(node)
    if pair is not None:
        return pair.source
    found = qdq.codes_behind(node)
    if found is None:
        return None
    quantizer = node.inputs[0].producer() if node.inputs[0] is not None else None
    if quantizer is not None:
        return quantizer.inputs[0]
    name = names.fresh(f"{node.outputs[0].name}_float")
    return qdq.add_initializer(graph, name, qdq.dequantized(found))


def _stand_in(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    """Put `value` in the place of the result of `node`, which may be an output of the graph."""
    old = node.outputs[0]
    identity = ir.Node("", "Identity", [value])
    new = identity.outputs[0]
    graph.insert_after(node, identity)
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    new.name, new.type, new.shape = old.name, old.type, old.shape


def has_qdq(model: onnx.ModelProto) -> bool:
    """Tell whether a graph has Q/DQ nodes."""
    return any(n.op_type in ("QuantizeLinear", "DequantizeLinear") for n in model.graph.node)


class _Inserter:
    """Puts the pairs of a plan into a graph; remembers those it has made."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._names = TensorNames(graph)
        self._weights: dict[tuple[ir.Value, int], ir.Value] = {}

    def run(self, plan: OnnxPlan, ranges: dict[str, TensorRange]) -> None:
        nodes = {str(node.name): node for node in self._graph}
        values = {str(value.name): value for value in self._graph.inputs}
        # An operand A may be a constant too (position tables in front of a projection).
        values |= self._graph.initializers
        values |= {str(value.name): value for node in self._graph for value in node.outputs}
        users = {tensor: tuple(values[tensor].uses()) for tensor in plan.results}
        pairs = {t: self._add_pair(values[t], ranges[t]) for t in plan.tensors}
        for tensor in plan.results:
            for user, index in users[tensor]:
                user.replace_input_with(index, pairs[tensor])
        for node_name, index, tensor in plan.operands:
            nodes[node_name].replace_input_with(index, pairs[tensor])
        for node_name in plan.weights:
            self._quantize_weight(nodes[node_name], plan.weight_method)

    def _add_pair(self, source: ir.Value, chosen: TensorRange) -> ir.Value:
        scale_of(chosen.amax)  # refuses what is no range
        # A range that came as a scale (from a TensorRT cache) gives back that very scale.
        scale = np.asarray(chosen.scale, np.float32)
        pair = self._pair(source, scale, str(source.name), {})
        producer = source.producer()
        if producer is not None:
            self._graph.insert_after(producer, pair)
        else:
            self._graph.insert_before(self._graph[0], pair)
        return pair[1].outputs[0]

    def _quantize_weight(self, node: ir.Node, method: WeightMethod) -> None:
        value = node.inputs[1]
        weight = qdq.constant(value)
        if value is None or weight is None or weight.dtype != np.float32 or weight.ndim != 2:
            raise GraphError(
                f"the weight of node {node.name!r} is not a float32 matrix stored in the file",
                wanted="an initializer [K, N]",
                todo="name the node in the recipe's 'keep', or export the model in float32",
            )
        turned = "transB" in node.attributes and bool(node.attributes["transB"].as_int())
        axis = 0 if turned else 1
        if (value, axis) not in self._weights:
            scale = scale_of(weight_amax(weight, axis, method))
            pair = self._pair(value, scale, f"{value.name}_weight", {"axis": axis})
            self._graph.insert_before(node, pair)
            self._weights[value, axis] = pair[1].outputs[0]
        node.replace_input_with(1, self._weights[value, axis])

    def _pair(
        self, source: ir.Value, scale: FloatArray, name: str, attributes: dict[str, int]
    ) -> tuple[ir.Node, ir.Node]:
        steps = self._constant(f"{name}_scale", scale)
        zero = self._constant(f"{name}_zero_point", np.zeros(scale.shape, np.int8))
        given = [ir.AttrInt64(key, value) for key, value in attributes.items()]
        quantize = ir.Node(
            "", "QuantizeLinear", [source, steps, zero], given, name=f"{name}/QuantizeLinear"
        )
        codes = quantize.outputs[0]
        codes.name = self._names.fresh(f"{name}_quantized")
        dequantize = ir.Node(
            "", "DequantizeLinear", [codes, steps, zero], given, name=f"{name}/DequantizeLinear"
        )
        dequantize.outputs[0].name = self._names.fresh(f"{name}_dequantized")
        return quantize, dequantize

    def _constant(self, name: str, array: NDArray[Any]) -> ir.Value:
        return qdq.add_initializer(self._graph, self._names.fresh(name), array)
