"""Insert Q/DQ into a float ONNX graph by plan, and take them out again."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from trt_int8.annotate.onnx_model import OnnxPlan
from trt_int8.graph import qdq
from trt_int8.graph.normalize import drop_repeated_pairs, fold_weights, name_nodes, tidy
from trt_int8.numerics import FloatArray, scale_of
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
    """
    quantized = ir.from_proto(model)
    graph = quantized.graph
    nodes = {str(node.name): node for node in graph}
    pairs: dict[str, ir.Value] = {}
    for node_name, index, tensor in plan.operands:
        node = nodes[node_name]
        source = node.inputs[index]
        if source is not None:
            if tensor not in pairs:
                pairs[tensor] = _add_pair(graph, source, ranges[tensor].amax)
            node.replace_input_with(index, pairs[tensor])
    for tensor in plan.results:
        _quantize_result(graph, tensor, ranges[tensor].amax)
    for node_name in plan.weights:
        _quantize_weight(graph, nodes[node_name])
    fold_weights(graph)
    drop_repeated_pairs(graph)
    tidy(quantized)
    name_nodes(graph)
    return ir.to_proto(quantized)


def strip_qdq(model: onnx.ModelProto) -> onnx.ModelProto:
    """The float graph behind a Q/DQ graph: no rounding of activations; weights as stored.

    A weight kept as int8 codes becomes codes * scale; one kept as float stays what it was.
    """
    stripped = ir.from_proto(model)
    tidy(stripped)
    graph = stripped.graph
    for node in list(graph):
        if node.op_type != "DequantizeLinear":
            continue
        pair = qdq.activation_pair(node)
        if pair is not None:
            node.outputs[0].replace_all_uses_with(pair.source)
            continue
        producer = node.inputs[0].producer() if node.inputs[0] is not None else None
        if producer is not None and producer.op_type == "QuantizeLinear":
            source = producer.inputs[0]
            if source is not None and source.is_initializer():
                node.outputs[0].replace_all_uses_with(source)
            continue
        found = qdq.codes_behind(node)
        if found is not None:
            name = f"{node.outputs[0].name}_float"
            values = qdq.dequantized(found)
            node.outputs[0].replace_all_uses_with(qdq.add_initializer(graph, name, values))
    tidy(stripped)
    name_nodes(graph)
    return ir.to_proto(stripped)


def has_qdq(model: onnx.ModelProto) -> bool:
    """Tell whether a graph has Q/DQ nodes."""
    return any(n.op_type in ("QuantizeLinear", "DequantizeLinear") for n in model.graph.node)


def _add_pair(graph: ir.Graph, source: ir.Value, amax: float) -> ir.Value:
    name = str(source.name)
    scale = qdq.add_initializer(graph, f"{name}_scale", scale_of(amax))
    zero = qdq.add_initializer(graph, f"{name}_zero_point", np.zeros((), np.int8))
    quantize = ir.Node("", "QuantizeLinear", [source, scale, zero], name=f"{name}/QuantizeLinear")
    quantize.outputs[0].name = f"{name}_quantized"
    dequantize = ir.Node(
        "",
        "DequantizeLinear",
        [quantize.outputs[0], scale, zero],
        name=f"{name}/DequantizeLinear",
    )
    dequantize.outputs[0].name = f"{name}_dequantized"
    producer = source.producer()
    if producer is not None:
        graph.insert_after(producer, [quantize, dequantize])
    else:
        graph.insert_before(graph[0], [quantize, dequantize])
    return dequantize.outputs[0]


def _quantize_result(graph: ir.Graph, tensor: str, amax: float) -> None:
    value = next(v for node in graph for v in node.outputs if v.name == tensor)
    users = [(user, index) for user, index in value.uses() if user.op_type != "QuantizeLinear"]
    pair = _add_pair(graph, value, amax)
    for user, index in users:
        user.replace_input_with(index, pair)


def _quantize_weight(graph: ir.Graph, node: ir.Node) -> None:
    value = node.inputs[1]
    weight = qdq.constant(value)
    if weight is None or value is None:
        return
    transposed = node.op_type == "Gemm" and bool(
        "transB" in node.attributes and node.attributes["transB"].as_int()
    )
    axis = 0 if transposed else 1
    scale = channel_scale(weight.astype(np.float32), axis)
    name = f"{value.name}_{node.name}"
    inputs = [
        value,
        qdq.add_initializer(graph, f"{name}_weight_scale", scale),
        qdq.add_initializer(graph, f"{name}_weight_zero_point", np.zeros(scale.size, np.int8)),
    ]
    attributes = [ir.AttrInt64("axis", axis)]
    quantize = ir.Node("", "QuantizeLinear", inputs, attributes)
    dequantize = ir.Node(
        "", "DequantizeLinear", [quantize.outputs[0], *inputs[1:]], [ir.AttrInt64("axis", axis)]
    )
    graph.insert_before(node, [quantize, dequantize])
    node.replace_input_with(1, dequantize.outputs[0])


def channel_scale(weight: FloatArray, axis: int) -> FloatArray:
    """One scale per output channel: largest |w| / 127; a channel of zeros takes the smallest other.

    Args:
        weight: float32 [K, N] or [N, K].
        axis: where N is.

    Returns:
        float32 [N].
    """
    amax = np.abs(weight).max(axis=1 - axis)
    positive = amax[amax > 0]
    fill = positive.min() if positive.size else np.float32(1.0)
    return scale_of(np.where(amax > 0, amax, fill).astype(np.float32))
