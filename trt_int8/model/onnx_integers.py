"""Small integer tensors of a graph that are computed from shapes, as far as they are constant."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trt_int8.model.onnx_shapes import Dims

_MAX_DEPTH = 24
# A computed size has this many elements at most: one per axis.
_MAX_SIZE = 64

# NaN stands for what is not known; all sizes are far below 2^53.
_Numbers = NDArray[np.float64]
_ELEMENTWISE: dict[str, Callable[[_Numbers, _Numbers], _Numbers]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    # ONNX divides integers towards zero.
    "Div": lambda a, b: np.trunc(np.divide(a, b)),
}


def constant_integers(value: ir.Value | None, shapes: dict[str, Dims]) -> NDArray[np.int64] | None:
    """The integers a tensor always holds; None if one of them depends on the inputs.

    Exporters write `chunk` and `split` as arithmetic on a Shape, even where the size is fixed.

    Args:
        value: the tensor.
        shapes: dimensions by tensor name, see `infer_dims`.
    """
    found = _evaluate(value, shapes, _MAX_DEPTH)
    if found is None or not np.isfinite(found).all():
        return None
    return found.astype(np.int64)


def _evaluate(value: ir.Value | None, shapes: dict[str, Dims], depth: int) -> _Numbers | None:
    if value is None or depth == 0:
        return None
    if value.is_initializer():
        stored = value.const_value
        if stored is None or stored.size > _MAX_SIZE or not stored.dtype.is_integer():
            return None
        return stored.numpy().astype(np.float64)
    node = value.producer()
    if node is None or not node.inputs:
        return None
    if node.op_type == "Shape":
        dims = shapes.get(str(node.inputs[0].name)) if node.inputs[0] is not None else None
        if dims is None or "start" in node.attributes or "end" in node.attributes:
            return None
        return np.array([np.nan if dim is None else dim for dim in dims])
    return _computed(node, [_evaluate(each, shapes, depth - 1) for each in node.inputs])


def _computed(node: ir.Node, inputs: list[_Numbers | None]) -> _Numbers | None:
    known = [each for each in inputs if each is not None]
    if len(known) != len(inputs):
        return None
    if node.op_type in _ELEMENTWISE and len(known) == 2:
        with np.errstate(invalid="ignore", divide="ignore"):
            return _ELEMENTWISE[node.op_type](*known)
    if node.op_type == "Gather" and known[0].ndim == 1 and np.isfinite(known[1]).all():
        places = known[1].astype(np.int64)
        inside = (places >= -known[0].size) & (places < known[0].size)
        return known[0][places] if inside.all() else None
    if node.op_type == "Concat":
        return np.concatenate([np.atleast_1d(each) for each in known])
    if node.op_type == "Unsqueeze":
        return np.atleast_1d(known[0]) if known[0].size == 1 else None
    if node.op_type == "Squeeze":
        return known[0].reshape(()) if known[0].size == 1 else None
    return known[0] if node.op_type in ("Cast", "Identity") else None
