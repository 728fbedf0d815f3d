"""What is proven of a mask without running it: the same for every query, or causal besides.

Exporters write a padding mask as [B, 1, S, S] too, by And with a condition that is always true and
by Expand. Such a mask has one row that says all, and a plugin reads S numbers in place of S * S.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from trt_int8.graph import qdq
from trt_int8.graph.plugins.walk import Shapes, maker, number

# Axes of scores, counted from the end.
_QUERIES, _KEYS = -2, -1
# Each element of the result depends on the elements at the same place alone.
_ELEMENTWISE = frozenset(
    {"And", "Or", "Not", "Cast", "Identity", "Where", "Equal", "Less", "LessOrEqual", "Greater"}
    | {"GreaterOrEqual", "Add", "Sub", "Mul", "Div", "Neg", "Min", "Max"}
)
_MOST_STEPS = 32


class MaskProofs:
    """Proofs about the masks of one graph."""

    def __init__(self, shapes: Shapes) -> None:
        """For the graph of `shapes`."""
        self._shapes = shapes
        self._known: dict[tuple[ir.Value, int], bool] = {}

    def is_same_for_queries(self, mask: ir.Value) -> bool:
        """All rows of a mask [..., S_q, S_k] are equal."""
        return self._is_constant(mask, _QUERIES, _MOST_STEPS)

    def is_causal(self, seen: ir.Value) -> bool:
        """Query i sees key j for j <= i and where a condition holds that has no i in it.

        Args:
            seen: bool [..., S, S], true where a key counts.
        """
        parts = _conjuncts(seen)
        triangles = [part for part in parts if self._is_triangle(part)]
        rest = [part for part in parts if not any(part is each for each in triangles)]
        return bool(triangles) and all(self.is_same_for_queries(part) for part in rest)

    def _is_constant(self, value: ir.Value | None, axis: int, steps: int) -> bool:
        """All elements along an axis (negative) are equal; also where there is no such axis."""
        if value is None or not steps:
            return False
        if (value, axis) not in self._known:
            self._known[value, axis] = self._prove_constant(value, axis, steps)
        return self._known[value, axis]

    def _prove_constant(self, value: ir.Value, axis: int, steps: int) -> bool:
        array = qdq.constant(value)
        if array is not None:
            if array.ndim < -axis:
                return True
            return bool(np.all(array == np.take(array, [0], axis))) if array.size else False
        if self._has_one(value, axis) or self._is_always_true(value):
            return True
        node = value.producer()
        if node is None or node.domain:
            return False
        if node.op_type in _ELEMENTWISE:
            return all(self._is_constant(operand, axis, steps - 1) for operand in node.inputs)
        if node.op_type == "Expand":
            return self._is_constant(node.inputs[0], axis, steps - 1)
        if node.op_type == "Unsqueeze":
            before = self._before_unsqueeze(node, axis)
            if before is None:
                return False
            return before == 0 or self._is_constant(node.inputs[0], before, steps - 1)
        return node.op_type == "ConstantOfShape"

    def _has_one(self, value: ir.Value, axis: int) -> bool:
        """One element along an axis, or no such axis, by shape inference."""
        name = str(value.name)
        dims = (self._shapes.one.get(name), self._shapes.two.get(name))
        return all(d is not None and (len(d) < -axis or d[axis] == 1) for d in dims)

    def _before_unsqueeze(self, node: ir.Node, axis: int) -> int | None:
        """Where an axis (negative) was before; 0 if it is new, None if that is not known."""
        rank, axes = self._shapes.rank(node.inputs[0]), qdq.constant(node.inputs[1])
        if rank is None or axes is None:
            return None
        whole = rank + axes.size
        new = {int(each) % whole for each in axes.reshape(-1)}
        place = whole + axis
        if place in new:
            return 0
        return place - sum(each < place for each in new) - rank

    def _is_always_true(self, value: ir.Value) -> bool:
        """Numbers that count up from 0 compared with 0."""
        node = maker(value, "GreaterOrEqual")
        if node is None or (bound := number(node.inputs[1])) is None or bound > 0:
            return False
        return any(self._counts(node.inputs[0], axis) for axis in (-1, -2, -3, -4))

    def _is_triangle(self, value: ir.Value) -> bool:
        """Key number <= query number, or the same as a constant from its corner on."""
        node = maker(value, "LessOrEqual", "GreaterOrEqual")
        if node is not None:
            keys, queries = node.inputs
            if node.op_type == "GreaterOrEqual":
                keys, queries = queries, keys
            return self._counts(keys, _KEYS) and self._counts(queries, _QUERIES)
        return _is_constant_triangle(value)

    def _counts(self, value: ir.Value | None, axis: int) -> bool:
        """0, 1, 2 ... along one axis and the same along all others."""
        for _ in range(_MOST_STEPS):
            node = maker(value, "Range", "Unsqueeze", "Cast", "Identity")
            if node is None:
                return False
            if node.op_type == "Range":
                start, step = number(node.inputs[0]), number(node.inputs[2])
                return axis == -1 and start == 0 and step == 1
            if node.op_type == "Cast" and not _to_wide_integer(node):
                return False
            if node.op_type == "Unsqueeze":
                before = self._before_unsqueeze(node, axis)
                if not before:
                    return False
                axis = before
            value = node.inputs[0]
        return False


def _to_wide_integer(node: ir.Node) -> bool:
    """Casts that keep every number that a sequence can have."""
    return node.attributes["to"].as_int() in (int(ir.DataType.INT64), int(ir.DataType.INT32))


def _conjuncts(value: ir.Value | None) -> list[ir.Value]:
    """The conditions of which And makes one, each as it is broadcast to the last axes."""
    if value is None:
        return []
    node = maker(value, "And", "Cast", "Expand", "Identity")
    if node is None:
        return [value]
    if node.op_type == "And":
        return [part for operand in node.inputs for part in _conjuncts(operand)]
    source = node.inputs[0]
    if node.op_type == "Cast" and (source is None or source.dtype != ir.DataType.BOOL):
        return [value]
    return _conjuncts(source)


def _is_constant_triangle(value: ir.Value) -> bool:
    """A constant lower triangle, cut to length from its first row and column."""
    source: ir.Value | None = value
    while (node := maker(source, "Slice", "Cast")) is not None:
        if node.op_type == "Slice" and not _is_from_start(node):
            return False
        source = node.inputs[0]
    array = qdq.constant(source)
    if array is None or array.ndim < 2 or array.shape[-1] != array.shape[-2]:
        return False
    return bool(np.all((array != 0) == np.tri(array.shape[-1], dtype=bool)))


def _is_from_start(node: ir.Node) -> bool:
    starts = qdq.constant(node.inputs[1])
    steps = qdq.constant(node.inputs[4]) if len(node.inputs) > 4 else np.ones(1)
    return (
        starts is not None and steps is not None and not starts.any() and bool((steps == 1).all())
    )
