"""The way of an attention's output to its Q, and how to have the codes as [B, S, N, D]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from trt_int8.graph.plugins.operands import HEADS_FIRST, LayoutWriter, transpose
from trt_int8.graph.plugins.walk import NoPluginError, Shapes, is_used_once, scale_of

# What the codes are: [B, N, S, D], [B, S, N, D], or [B, S, N * D].
Layout = Literal["heads", "rows", "merged"]


@dataclass(frozen=True)
class Result:
    """What an attention output goes through.

    Attributes:
        value: the last tensor the plugin computes: codes, or float16 [B, S, N, D] without Q.
        layout: of `value`.
        merge: the Reshape to [B, S, N * D], if there is one in front of Q.
        sizes: N and D.
        scale: of Q; None without Q.
    """

    value: ir.Value
    layout: Layout
    merge: ir.Node | None
    sizes: tuple[int, int]
    scale: float | None


def read_result(context: ir.Node, shapes: Shapes) -> Result:
    """Follow an attention output to its Q.

    Raises:
        NoPluginError: several nodes read it, or its layout is none that is known.
    """
    value = context.outputs[0]
    heads, head_dim = shapes.fixed(value, 1 - 4), shapes.fixed(value, -1)
    if heads is None or head_dim is None:
        raise NoPluginError("its number of heads or its head size is not fixed")
    layout: Layout = "heads"
    merge: ir.Node | None = None
    rows: ir.Value | None = None
    while is_used_once(value):
        user, place = next(iter(value.uses()))
        if user.domain or place != 0:
            break
        if user.op_type == "QuantizeLinear":
            scale = scale_of(user)
            if scale is None:
                raise NoPluginError("its output is not quantized symmetrically with one scale")
            return Result(user.outputs[0], layout, merge, (heads, head_dim), scale)
        if layout == "heads" and is_heads_first(user):
            layout, rows = "rows", user.outputs[0]
        elif layout == "rows" and _merges(user, context.outputs[0], shapes):
            layout, merge = "merged", user
        elif user.op_type != "Cast":
            break
        value = user.outputs[0]
    if rows is None or rows.dtype != ir.DataType.FLOAT16:
        raise NoPluginError("its output is neither quantized nor float16 as [B, S, N, D]")
    return Result(rows, "rows", None, (heads, head_dim), None)


def is_heads_first(node: ir.Node) -> bool:
    """Tell whether it is the Transpose between [B, N, S, D] and [B, S, N, D]."""
    given = node.attributes.get("perm") if node.op_type == "Transpose" else None
    return given is not None and tuple(given.as_ints()) == HEADS_FIRST


def _merges(node: ir.Node, context: ir.Value, shapes: Shapes) -> bool:
    """Tell whether it is the Reshape to [B, S, N * D]."""
    before, after = shapes.trials(context), shapes.trials(node.outputs[0])
    if node.op_type != "Reshape" or before is None or after is None:
        return False
    wanted = tuple((b, s, (n or 0) * (d or 0)) for b, n, s, d in before)
    return wanted == after


class ResultWriter:
    """Gives the plugin codes [B, S, N, D], and all that read the codes what they had."""

    def __init__(self, layouts: LayoutWriter) -> None:
        """For the graph of `layouts`."""
        self._layouts = layouts

    def write(self, result: Result) -> ir.Value:
        """The output of the plugin."""
        value = result.value
        if result.layout == "rows":
            return value
        users = tuple(value.uses())
        last = value.producer()
        assert last is not None
        heads, head_dim = result.sizes
        if result.merge is not None:
            # The same shape without the nodes that compute it, which the body has not.
            result.merge.replace_input_with(1, self._layouts.shape((0, 0, heads * head_dim)))
            first = self._layouts.reshape(value, (0, 0, heads, head_dim))
        else:
            first = transpose(value, HEADS_FIRST)
        rows = self._layouts.insert(first, last, value.dtype)
        if result.merge is not None:
            second = self._layouts.reshape(rows, (0, 0, heads * head_dim))
        else:
            second = transpose(rows, HEADS_FIRST)
        same = self._layouts.insert(second, first, value.dtype)
        for user, place in users:
            user.replace_input_with(place, same)
        return rows
