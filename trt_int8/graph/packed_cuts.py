"""Which columns of a Linear's result are cut out, behind Reshape and Transpose."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trt_int8.graph import qdq
from trt_int8.model.onnx_integers import constant_integers
from trt_int8.model.onnx_shapes import Dims

Columns = NDArray[np.int64]


@dataclass(frozen=True)
class View:
    """What has become of the columns of a Linear on the way to a cut.

    Attributes:
        outer: axes in front, of batch and sequence.
        features: sizes that the columns 0 to N-1 are laid out in, row by row.
        order: axes of the tensor now, by their number before any Transpose.
        steps: nodes passed; biases among them.
    """

    outer: int
    features: tuple[int, ...]
    order: tuple[int, ...]
    steps: tuple[ir.Node, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Nothing was transposed."""
        return self.order == tuple(range(self.outer + len(self.features)))

    @property
    def is_unmoved(self) -> bool:
        """Only biases were passed."""
        return all(step.op_type == "Add" for step in self.steps)

    def feature_of(self, axis: int) -> int | None:
        """Which of `features` an axis of the tensor is; None for an outer one."""
        found = self.order[axis % len(self.order)] - self.outer
        return found if found >= 0 else None


@dataclass(frozen=True)
class Part:
    """One tensor cut out.

    Attributes:
        result: the tensor.
        view: of the tensor that was cut.
        feature: which of the view's features was cut.
        taken: places kept along it.
        drops_axis: the cut takes one place and removes the axis.
    """

    result: ir.Value
    view: View
    feature: int
    taken: Columns
    drops_axis: bool = False

    @property
    def columns(self) -> Columns:
        """Columns of the packed weight, in the order of the part's own."""
        every = np.arange(int(np.prod(self.view.features))).reshape(self.view.features)
        return every.take(self.taken, axis=self.feature).reshape(-1)

    @property
    def features(self) -> tuple[int, ...]:
        """The sizes that the part's columns are laid out in."""
        sizes = list(self.view.features)
        sizes[self.feature] = len(self.taken)
        return tuple(sizes)


def plain_view(features: Dims, outer: int) -> View:
    """`outer` axes of batch and sequence, then these sizes."""
    sizes = tuple(size for size in features if size is not None)
    return View(outer, sizes, tuple(range(outer + len(sizes))))


def cuts_of(node: ir.Node, view: View, shapes: dict[str, Dims]) -> Iterator[Part]:
    """The parts that a node takes of a tensor; none if it is no cut of the columns."""
    if node.op_type == "Split":
        yield from _split_parts(node, view, shapes)
    elif node.op_type == "Gather":
        place = qdq.constant(node.inputs[1])
        feature = view.feature_of(_attribute(node, "axis", 0))
        if place is not None and place.ndim <= 1 and feature is not None:
            taken = np.atleast_1d(place).astype(np.int64) % view.features[feature]
            yield Part(node.outputs[0], view, feature, taken, drops_axis=place.ndim == 0)
    elif node.op_type == "Slice":
        given = [constant_integers(value, shapes) for value in node.inputs[1:]]
        if len(given) < 3 or any(array is None or array.size != 1 for array in given):
            return
        start, end, axis, *step = (int(array.item()) for array in given if array is not None)
        feature = view.feature_of(axis)
        if feature is not None:
            every = np.arange(view.features[feature], dtype=np.int64)
            taken = every[slice(start, end, step[0] if step else 1)]
            if taken.size and (not step or step[0] > 0):
                yield Part(node.outputs[0], view, feature, taken)


def _split_parts(node: ir.Node, view: View, shapes: dict[str, Dims]) -> Iterator[Part]:
    feature = view.feature_of(_attribute(node, "axis", 0))
    if feature is None:
        return
    size, count = view.features[feature], len(node.outputs)
    given = node.inputs[1] if len(node.inputs) > 1 else None
    sizes = constant_integers(given, shapes)
    if given is not None and sizes is None:
        return
    if sizes is None:
        # Equal parts, the last one smaller if need be (ONNX, Split-18).
        each = -(-size // count)
        sizes = np.array([min(each, size - each * number) for number in range(count)])
    ends = np.cumsum(sizes)
    for value, end, width in zip(node.outputs, ends, sizes, strict=True):
        if value.uses() or value.is_graph_output():
            yield Part(value, view, feature, np.arange(end - width, end, dtype=np.int64))


def _attribute(node: ir.Node, name: str, default: int) -> int:
    return node.attributes[name].as_int() if name in node.attributes else default
