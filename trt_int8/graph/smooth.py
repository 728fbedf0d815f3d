"""SmoothQuant in a float ONNX graph: a Mul in front of Linears, its inverse in their weights.

The graph computes the same as before, up to float rounding. Only what the Linears of the plan read
is divided: a skip arm, or a Linear that stays FP16, reads the tensor as it was, so that post-LN
models can be smoothed too. TensorRT fuses the Mul into the kernel that quantizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common as passes

from trt_int8.annotate.onnx_model import OnnxPlan
from trt_int8.errors import RangeError
from trt_int8.graph import qdq
from trt_int8.graph.names import TensorNames

Group = tuple[str, ...]
# A stored matrix and whether its transpose is read: an autoencoder with tied weights has both.
_Weight = tuple[str, bool]


def smoothing_groups(model: onnx.ModelProto, plan: OnnxPlan) -> tuple[Group, ...]:
    """Tensors that can be smoothed; those whose Linears share a weight are one group.

    A tensor that something else than the input of a planned Linear reads quantized (a skip arm, an
    attention, a result) is left out: it has one scale for all. So are inputs and outputs of the
    graph, and a Linear whose weight is no float32 matrix stored in the file.
    """
    graph = ir.from_proto(model).graph
    found: dict[_Weight, set[str]] = {}
    for tensor, nodes in _candidates(graph, plan).items():
        joined = {tensor}.union(*(found.get(_weight_of(node), set()) for node in nodes))
        for node in nodes:
            found[_weight_of(node)] = joined
        for weight, others in found.items():
            if others & joined:
                found[weight] = joined
    groups = {tuple(sorted(each)) for each in found.values()}
    return tuple(sorted(groups))


def smooth_graph(
    model: onnx.ModelProto, plan: OnnxPlan, factors: Mapping[str, NDArray[np.float32]]
) -> onnx.ModelProto:
    """Divide tensors by factors and multiply the weights that read them.

    Args:
        model: float graph in normal form.
        plan: of this graph; it fits the new one too. The names of its tensors are then those of
            the divided ones.
        factors: float32 [K], above 0, by tensor of `smoothing_groups`; equal within a group.

    Raises:
        RangeError: a tensor cannot be smoothed, or has another number of channels.
    """
    opened = ir.from_proto(model)
    graph, names = opened.graph, TensorNames(opened.graph)
    candidates = _candidates(graph, plan)
    weights: dict[tuple[_Weight, bytes], ir.Value] = {}
    for tensor, given in factors.items():
        nodes = candidates.get(tensor)
        if nodes is None:
            raise _unknown(tensor)
        divided = _divide(graph, names, nodes[0].inputs[0], given)
        for node in nodes:
            key = (_weight_of(node), given.tobytes())
            if key not in weights:
                name = names.fresh(f"{key[0][0]}_smooth")
                weights[key] = qdq.add_initializer(graph, name, _multiplied(node, tensor, given))
            node.replace_input_with(0, divided)
            node.replace_input_with(1, weights[key])
    passes.RemoveUnusedNodesPass()(opened)
    return ir.to_proto(opened)


def _candidates(graph: ir.Graph, plan: OnnxPlan) -> dict[str, list[ir.Node]]:
    """Per tensor that can be smoothed the Linears that read it."""
    ends = {str(value.name) for value in (*graph.inputs, *graph.outputs)}
    barred = {*plan.results, *(name for group in plan.same_scale for name in group), *ends}
    nodes, linears = {str(node.name): node for node in graph}, set(plan.weights)
    found: dict[str, list[ir.Node]] = {}
    for name, index, tensor in plan.operands:
        node = nodes[name]
        if index == 0 and name in linears and _reads(node, tensor):
            found.setdefault(tensor, []).append(node)
        else:
            barred.add(tensor)
    return {tensor: readers for tensor, readers in found.items() if tensor not in barred}


def _reads(node: ir.Node, tensor: str) -> bool:
    """Whether the node multiplies the last axis of the tensor, made at run time, by a matrix."""
    value, weight = node.inputs[0], qdq.constant(node.inputs[1])
    turned = "transA" in node.attributes and bool(node.attributes["transA"].as_int())
    if value is None or value.producer() is None or value.name != tensor or turned:
        return False
    return weight is not None and weight.dtype == np.float32 and weight.ndim == 2


def _divide(
    graph: ir.Graph, names: TensorNames, value: ir.Value | None, factors: NDArray[np.float32]
) -> ir.Value:
    """The tensor over its factors, under the name the tensor had."""
    assert value is not None
    producer, name = value.producer(), str(value.name)
    assert producer is not None
    inverse = qdq.add_initializer(graph, names.fresh(f"{name}_smooth"), np.float32(1) / factors)
    value.name = names.fresh(f"{name}_unsmoothed")
    multiply = ir.Node("", "Mul", [value, inverse], name=names.fresh(f"{name}/Smooth"))
    divided = multiply.outputs[0]
    divided.name, divided.type, divided.shape = name, value.type, value.shape
    graph.insert_after(producer, multiply)
    return divided


def _multiplied(node: ir.Node, tensor: str, factors: NDArray[np.float32]) -> NDArray[Any]:
    weight = qdq.constant(node.inputs[1])
    assert weight is not None
    _, turned = _weight_of(node)
    channels = weight.shape[1 if turned else 0]
    if factors.shape != (channels,):
        raise RangeError(
            f"{factors.size} smoothing factors for {tensor!r}",
            wanted=f"{channels}, one per channel",
            todo="calibrate this model anew",
        )
    return weight * factors if turned else weight * factors[:, np.newaxis]


def _weight_of(node: ir.Node) -> _Weight:
    value = node.inputs[1]
    turned = "transB" in node.attributes and bool(node.attributes["transB"].as_int())
    return str(value.name) if value is not None else "", turned


def _unknown(tensor: str) -> RangeError:
    return RangeError(
        f"smoothing factors for {tensor!r}",
        wanted="factors of tensors that only quantized Linears of this model read",
        todo="calibrate this model with this recipe anew",
    )
