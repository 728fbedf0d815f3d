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
from trt_int8.graph.foreign import adopt
from trt_int8.graph.names import TensorNames, name_nodes
from trt_int8.graph.normalize import drop_repeated_pairs, fold_constants, fold_weights, tidy
from trt_int8.numerics import FloatArray, quantize, scale_of
from trt_int8.spec.ranges import TensorRange


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
    if plan.weight_scales == "tensor":
        _one_scale_per_tensor(graph, plan)
    drop_repeated_pairs(graph)
    tidy(quantized)
    name_nodes(graph)
    return ir.to_proto(quantized)


def _one_scale_per_tensor(graph: ir.Graph, plan: OnnxPlan) -> None:
    """Say that all channels have one scale: TensorRT then can write a GEMM's result as int8."""
    names, chosen = TensorNames(graph), set(plan.weights)
    for node in graph:
        operand = node.inputs[1] if str(node.name) in chosen else None
        dequantize = operand.producer() if operand is not None else None
        scale = qdq.constant(dequantize.inputs[1]) if dequantize is not None else None
        if dequantize is None or scale is None or scale.ndim == 0:
            continue  # a weight of two nodes is met twice
        for index, value in ((1, scale[0]), (2, np.int8(0))):
            name = names.fresh(f"{node.name}_weight_{'scale' if index == 1 else 'zero_point'}")
            constant = qdq.add_initializer(graph, name, np.asarray(value))
            dequantize.replace_input_with(index, constant)
        dequantize.attributes.pop("axis", None)


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
    adopt(stripped, keep_floats=True)
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
        self._weights: dict[tuple[ir.Value, int, bytes], ir.Value] = {}
        self._tables: dict[ir.Value, ir.Value] = {}

    def run(self, plan: OnnxPlan, ranges: dict[str, TensorRange]) -> None:
        nodes = {str(node.name): node for node in self._graph}
        values = {str(value.name): value for value in self._graph.inputs}
        # An operand A may be a constant too (position tables in front of a projection).
        values |= self._graph.initializers
        values |= {str(value.name): value for node in self._graph for value in node.outputs}
        users = {tensor: tuple(values[tensor].uses()) for tensor in plan.results}
        chosen = _joined(ranges, plan)
        pairs = {t: self._add_pair(values[t], chosen[t]) for t in plan.tensors}
        for tensor in plan.results:
            for user, index in users[tensor]:
                user.replace_input_with(index, pairs[tensor])
        for node_name, index, tensor in plan.operands:
            nodes[node_name].replace_input_with(index, pairs[tensor])
        amax = self._amax_of_weights(nodes, plan)
        for node_name in plan.weights:
            self._quantize_weight(nodes[node_name], amax[node_name])
        for node_name in plan.tables:
            self._quantize_table(nodes[node_name])

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

    def _amax_of_weights(self, nodes: dict[str, ir.Node], plan: OnnxPlan) -> dict[str, FloatArray]:
        """Per node the ranges of its weight: [N], or [] for one of the tensor."""
        found: dict[str, FloatArray] = {}
        for name in plan.weights:
            weight, axis = _weight(nodes[name])
            along = None if plan.weight_scales == "tensor" else axis
            found[name] = weight_amax(weight, along, plan.weight_method)
        for group in plan.same_weight_scale:
            largest = np.max([found[name] for name in group], axis=0)
            found |= dict.fromkeys(group, largest)
        return found

    def _quantize_weight(self, node: ir.Node, amax: FloatArray) -> None:
        value, (_, axis) = node.inputs[1], _weight(node)
        assert value is not None
        key = (value, axis, amax.tobytes())
        if key not in self._weights:
            attributes = {"axis": axis} if amax.ndim else {}
            pair = self._pair(value, scale_of(amax), f"{value.name}_weight", attributes)
            self._graph.insert_before(node, pair)
            self._weights[key] = pair[1].outputs[0]
        node.replace_input_with(1, self._weights[key])

    def _quantize_table(self, node: ir.Node) -> None:
        """Store an embedding table as int8, one scale per row, behind a DequantizeLinear."""
        value = node.inputs[0]
        table = qdq.constant(value)
        if value is None or table is None:
            return
        if value not in self._tables:
            # A row of zeros (padding) has no range; any step gives zeros back.
            peaks = np.abs(table).max(axis=1)
            scale = scale_of(np.where(peaks > 0, peaks, np.float32(1)).astype(np.float32))
            codes = self._constant(f"{value.name}_int8", quantize(table, scale, 0))
            steps = self._constant(f"{value.name}_int8_scale", scale)
            zero = self._constant(f"{value.name}_int8_zero_point", np.zeros(scale.shape, np.int8))
            dequantize = ir.Node(
                "",
                "DequantizeLinear",
                [codes, steps, zero],
                [ir.AttrInt64("axis", 0)],
                name=f"{value.name}/table/DequantizeLinear",
            )
            dequantize.outputs[0].name = self._names.fresh(f"{value.name}_int8_dequantized")
            self._graph.insert_before(node, dequantize)
            self._tables[value] = dequantize.outputs[0]
        node.replace_input_with(0, self._tables[value])

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


def _joined(ranges: dict[str, TensorRange], plan: OnnxPlan) -> dict[str, TensorRange]:
    """The ranges, with the largest of a group for each of its tensors."""
    chosen = dict(ranges)
    for group in plan.same_scale:
        largest = max((chosen[name] for name in group), key=lambda each: each.amax)
        chosen |= dict.fromkeys(group, largest)
    return chosen


def _weight(node: ir.Node) -> tuple[FloatArray, int]:
    """The constant operand B as stored, and the axis of its output channels."""
    weight = qdq.constant(node.inputs[1])
    if weight is None or weight.dtype != np.float32 or weight.ndim != 2:
        raise GraphError(
            f"the weight of node {node.name!r} is not a float32 matrix stored in the file",
            wanted="an initializer [K, N]",
            todo="name the node in the recipe's 'keep', or export the model in float32",
        )
    turned = "transB" in node.attributes and bool(node.attributes["transB"].as_int())
    return weight, 0 if turned else 1
