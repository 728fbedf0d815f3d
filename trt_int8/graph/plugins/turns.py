"""The layout and mask operators around plugin nodes: taken out again, or moved together."""

from __future__ import annotations

import onnx_ir as ir

from trt_int8.graph.plugins.masks import BOUND, BOUND_OPERAND, MASK
from trt_int8.graph.plugins.operands import ADAPTER, perm_of
from trt_int8.graph.plugins.walk import is_used_once, maker, number

_MOST_STEPS = 8


def undo_adapters(graph: ir.Graph) -> None:
    """Take out every two of our operators of which one undoes the other; in place.

    That is what is left where a body is in its place, or no plugin node was made after all.
    """
    # From the end: what is inside a body comes behind what is outside it.
    for node in reversed(list(graph)):
        measured = _measured(node)
        if measured is not None:
            node.replace_input_with(0, measured)
        source = _undone(node)
        if source is not None:
            node.outputs[0].replace_all_uses_with(source, replace_graph_outputs=True)


def _measured(node: ir.Node) -> ir.Value | None:
    """The tensor whose shape our Reshape gives codes, if the node is a Shape of these codes."""
    codes = maker(node.inputs[0], "Reshape") if node.op_type == "Shape" else None
    sizes = maker(codes.inputs[1], "Shape") if codes is not None else None
    if codes is None or sizes is None or ADAPTER not in str(codes.name):
        return None
    return sizes.inputs[0]


def _undone(node: ir.Node) -> ir.Value | None:
    """What one of our layout or mask operators had before another changed it; None for others."""
    name = str(node.name)
    if ADAPTER in name and node.op_type in ("Transpose", "Reshape"):
        first = maker(node.inputs[0], "Transpose", "Reshape")
        return first.inputs[0] if first is not None and ADAPTER in str(first.name) else None
    if MASK not in name or (node.op_type not in ("Equal", "Cast") and BOUND not in name):
        return None
    value: ir.Value | None = node.outputs[0]
    while value is not None and (before := value.producer()) and MASK in str(before.name):
        value = before.inputs[BOUND_OPERAND if BOUND in str(before.name) else 0]
    return value if value is not node.inputs[0] else None


def join_turns(graph: ir.Graph) -> None:
    """Move every layout Transpose beside a plugin node up to the Transpose it meets; in place.

    Only element by element operators may stand between the two. Only for TensorRT: ONNX Runtime
    rounds float16 elsewhere when a Transpose moves.
    """
    for node in list(graph):
        if node.op_type != "Transpose" or node.graph is not graph:
            continue
        found = _meets(node)
        if found is None or not any(ADAPTER in str(n.name) for n in (node, found[0])):
            continue
        first, (user, place) = found
        inner, outer = (perm_of(n) for n in (first, node))
        joined = tuple(inner[axis] for axis in outer)
        source = first.inputs[0]
        assert source is not None
        if joined != tuple(range(len(joined))):
            first.attributes["perm"] = ir.AttrInt64s("perm", joined)
            first.outputs[0].shape = None
        elif user is node:
            node.outputs[0].replace_all_uses_with(source, replace_graph_outputs=True)
            continue
        else:
            user.replace_input_with(place, source)
        if user is node:
            node.outputs[0].replace_all_uses_with(first.outputs[0], replace_graph_outputs=True)
            continue
        last = node.inputs[0]
        assert last is not None
        _forget_shapes(user, node)
        node.outputs[0].replace_all_uses_with(last, replace_graph_outputs=True)


def _meets(node: ir.Node) -> tuple[ir.Node, tuple[ir.Node, int]] | None:
    """The Transpose in front of a Transpose, and the node and operand that read its result."""
    user, place = node, 0
    for _ in range(_MOST_STEPS):
        value = user.inputs[place]
        if value is None or not is_used_once(value):
            return None
        before = value.producer()
        if before is None or before.domain:
            return None
        if before.op_type == "Transpose":
            return before, (user, place)
        operand = _operand(before)
        if operand is None:
            return None
        user, place = before, operand
    return None


def _operand(node: ir.Node) -> int | None:
    """The operand that an element by element operator passes on; None for other operators."""
    if node.op_type in ("Cast", "QuantizeLinear", "DequantizeLinear"):
        per_tensor = node.op_type == "Cast" or number(node.inputs[1]) is not None
        return 0 if per_tensor else None
    if node.op_type in ("Mul", "Div") and number(node.inputs[1]) is not None:
        return 0
    return 1 if node.op_type == "Mul" and number(node.inputs[0]) is not None else None


def _forget_shapes(first: ir.Node, last: ir.Node) -> None:
    """Of the results between two nodes, whose axes are in another order now."""
    node: ir.Node | None = first
    while node is not None and node is not last:
        node.outputs[0].shape = None
        node = next((user for user, _ in node.outputs[0].uses()), None)
