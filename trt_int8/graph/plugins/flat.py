"""A Reshape to [rows, H] between a norm or GELU and its Q, as GPT-2's Conv1D writes it.

Plugins give codes of the shape of x. So the reference turns its codes back to that shape, and the
graph flattens those of the call: two Reshapes of which one undoes the other (`turns.py`).
"""

from __future__ import annotations

import onnx_ir as ir

from trt_int8.graph.plugins.operands import ADAPTER, LayoutWriter
from trt_int8.graph.plugins.walk import NoPluginError, Shapes, behind_casts, maker

_FLAT_RANK = 2


def behind_flat(value: ir.Value | None) -> tuple[ir.Value | None, ir.Node | None]:
    """What one Reshape and Casts only pass on, and the Reshape; None where there is none."""
    whole = behind_casts(value)
    node = maker(whole, "Reshape")
    return (whole, None) if node is None else (behind_casts(node.inputs[0]), node)


def check_flat(node: ir.Node | None, hidden: int, shapes: Shapes) -> None:
    """Refuse a Reshape that does more than put all rows in one axis.

    Raises:
        NoPluginError: it does, or its shape is not known.
    """
    if node is None:
        return
    made = node.outputs[0]
    if shapes.rank(made) != _FLAT_RANK or shapes.fixed(made, -1) != hidden:
        raise NoPluginError("a Reshape in front of its Q does something else than flatten the rows")


def unflat_codes(
    quantize: ir.Node, node: ir.Node | None, hidden: int, layouts: LayoutWriter
) -> ir.Value:
    """The codes in the shape of the norm or GELU; whatever read them gets them flat again.

    Args:
        quantize: Q.
        node: the Reshape in front of it, checked; None for no change.
        hidden: H.
        layouts: of the graph.
    """
    codes = quantize.outputs[0]
    result = behind_casts(node.inputs[0]) if node is not None else None
    if node is None or result is None:
        return codes
    users = tuple(codes.uses())
    # The same shape without the nodes that compute it, which the body has not.
    flat = layouts.shape((-1, hidden))
    node.replace_input_with(1, flat)
    # Not of x: where more reads a float16 tensor, ONNX Runtime rounds it elsewhere.
    measure = ir.Node("", "Shape", [result])
    sizes = layouts.insert(measure, quantize, ir.DataType.INT64)
    back = ir.Node("", "Reshape", [codes, sizes])
    whole = layouts.insert(back, measure, codes.dtype)
    same = layouts.insert(ir.Node("", "Reshape", [whole, flat]), back, codes.dtype)
    for user, place in users:
        user.replace_input_with(place, same)
    return whole


def let_shapes_read(result: ir.Value, codes: ir.Value) -> None:
    """A Shape of the result takes that of its codes, or the plugin would need a second output.

    Args:
        result: of a norm or GELU; also behind Casts.
        codes: of the same shape.
    """
    for user, place in tuple(result.uses()):
        if user.op_type == "Cast" and not user.domain:
            let_shapes_read(user.outputs[0], codes)
        elif user.op_type == "Shape" and ADAPTER not in str(user.name):
            user.replace_input_with(place, codes)
