"""Bring attention to the operators that TensorRT fuses: MatMul, scale, mask, Softmax, MatMul.

Exporters write three other forms: the ONNX operator `Attention` (opset 23; TensorRT never runs it
INT8), a softmax in parts, and a softmax whose NaN is replaced by 0 (PyTorch's
`scaled_dot_product_attention`), which keeps the softmax out of the fused kernel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common as passes

from trt_int8.graph import qdq
from trt_int8.graph.attention_operator import expand_attention
from trt_int8.graph.names import TensorNames, name_nodes
from trt_int8.graph.normalize import tidy

_MASK_STEPS = 64
# Between a mask and the softmax: what passes values on, and what joins two of them.
_PASS = ("Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Expand", "Slice", "Transpose")
_JOIN = ("Add", "Sub", "Mul", "Div", "Min", "Max", "Where")


def attention_form(model: onnx.ModelProto) -> onnx.ModelProto:
    """Rewrite attention; everything else stays as it is.

    Args:
        model: float or Q/DQ graph.

    Returns:
        A new graph with the same outputs, but for queries that may see no key at all: where the
        model gave 0 for these (it replaced the NaN), they get the mean of the values.
    """
    rewritten = ir.from_proto(model)
    tidy(rewritten)
    passes.ShapeInferencePass()(rewritten)
    graph = rewritten.graph
    expand_attention(graph)
    _join_softmax(graph)
    for node in list(graph):
        if node.op_type == "Softmax":
            _drop_guard(graph, node)
    tidy(rewritten)
    name_nodes(graph)
    found = ir.to_proto(rewritten)
    if any(node.op_type == "Attention" and not node.domain for node in found.graph.node):
        # What is left (grouped heads, a cache) by the definition in the ONNX specification.
        found = onnx.inliner.inline_selected_functions(
            found, [("", "Attention")], inline_schema_functions=True
        )
    return found


def _join_softmax(graph: ir.Graph) -> None:
    """Exp(x) / ReduceSum(Exp(x)) over the last axis is Softmax(x); so it is behind x - max(x)."""
    for node in list(graph):
        if node.op_type != "Div" or node.inputs[0] is None:
            continue
        exponential = node.inputs[0].producer()
        total = _maker(node.inputs[1], "ReduceSum")
        if exponential is None or exponential.op_type != "Exp" or total is None:
            continue
        if total.inputs[0] is not node.inputs[0] or not _over_last(total):
            continue
        source = exponential.inputs[0]
        shifted = _maker(source, "Sub")
        largest = _maker(shifted.inputs[1], "ReduceMax") if shifted is not None else None
        if shifted is not None and largest is not None and _over_last(largest):
            source = shifted.inputs[0] if largest.inputs[0] is shifted.inputs[0] else source
        softmax = ir.Node("", "Softmax", [source], [ir.AttrInt64("axis", -1)], name=node.name)
        _put_in_place(graph, node, softmax)


def _maker(value: ir.Value | None, kind: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == kind else None


def _over_last(node: ir.Node) -> bool:
    """Whether a reduction goes over the last axis alone and keeps it (as an axis of one)."""
    if "keepdims" in node.attributes and not node.attributes["keepdims"].as_int():
        return False
    axes: NDArray[Any] | None = None
    if "axes" in node.attributes:
        axes = np.asarray(node.attributes["axes"].as_ints())
    elif len(node.inputs) > 1:
        axes = qdq.constant(node.inputs[1])
    rank = len(node.inputs[0].shape) if node.inputs[0] is not None and node.inputs[0].shape else 0
    return axes is not None and axes.tolist() in ([-1], [rank - 1])


def _drop_guard(graph: ir.Graph, softmax: ir.Node) -> None:
    """Take out `Where(IsNaN(p), 0, p)` behind a softmax, if no row can be masked with infinity."""
    weights = softmax.outputs[0]
    users = {user.op_type: user for user, _ in weights.uses()}
    check, guard = users.get("IsNaN"), users.get("Where")
    if check is None or guard is None or guard.inputs[0] is not check.outputs[0]:
        return
    zero = qdq.constant(guard.inputs[1])
    if guard.inputs[2] is not weights or zero is None or zero.any():
        return
    infinite = _infinite_constants(softmax.inputs[0])
    if infinite is None:
        return
    names = TensorNames(graph)
    for user, index, array in infinite:
        # The lowest number: a masked score still gives exactly 0 beside any other.
        finite = np.where(np.isneginf(array), np.finfo(array.dtype).min, array).astype(array.dtype)
        name = names.fresh(f"{user.name}_finite_mask")
        user.replace_input_with(index, qdq.add_initializer(graph, name, finite))
    guard.outputs[0].replace_all_uses_with(weights, replace_graph_outputs=True)


def _infinite_constants(
    scores: ir.Value | None,
) -> list[tuple[ir.Node, int, NDArray[Any]]] | None:
    """Constants with -infinity that reach the scores, as (user, operand, value).

    None if something else may bring infinity: an input of the graph, or an operator not known.
    """
    found: list[tuple[ir.Node, int, NDArray[Any]]] = []
    waiting: list[tuple[ir.Value | None, ir.Node | None, int]] = [(scores, None, 0)]
    for _ in range(_MASK_STEPS):
        if not waiting:
            return found
        value, user, index = waiting.pop()
        array = qdq.constant(value)
        if array is not None:
            if user is not None and np.isneginf(array).any():
                found.append((user, index, array))
            continue
        node = value.producer() if value is not None else None
        if node is None:
            return None
        if node.op_type == "MatMul" or _counts(node):
            continue
        if node.op_type not in _PASS + _JOIN:
            return None
        taken = range(1, 3) if node.op_type == "Where" else range(len(node.inputs))
        taken = range(1) if node.op_type in _PASS else taken
        waiting += [(node.inputs[place], node, place) for place in taken]
    return None


def _counts(node: ir.Node) -> bool:
    """Whether it makes a number of something that is not a float: a mask of 0 and 1."""
    if node.op_type != "Cast":
        return False
    source = node.inputs[0]
    whole = (ir.DataType.BOOL, ir.DataType.INT64, ir.DataType.INT32)
    return source is not None and source.dtype in whole


def _put_in_place(graph: ir.Graph, old: ir.Node, new: ir.Node) -> None:
    value, made = old.outputs[0], new.outputs[0]
    made.name, made.type, made.shape = value.name, value.type, value.shape
    value.name = None
    graph.insert_after(old, new)
    value.replace_all_uses_with(made, replace_graph_outputs=True)
    graph.remove(old, safe=True)
