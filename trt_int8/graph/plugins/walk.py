"""Small steps through a graph that all plugin families take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from trt_int8.errors import TrtInt8Error
from trt_int8.graph import qdq
from trt_int8.model.onnx_shapes import Dims, infer_trial_dims

# A constant of a formula may have been rounded to float16 (2^-11) and multiplied on.
FORMULA_TOLERANCE = 2e-3


class NoPluginError(TrtInt8Error):
    """A part of a graph looks like what a plugin computes, and is not."""

    def __init__(self, why: str) -> None:
        """Say why, in words that can follow the name of a node."""
        super().__init__(why, wanted="what a plugin computes", todo="leave it to TensorRT")


@dataclass(frozen=True)
class Shapes:
    """Shapes of the same tensors for two sizes of every dynamic axis.

    Attributes:
        one: dimensions by tensor name.
        two: the same for the other sizes.
    """

    one: Mapping[str, Dims]
    two: Mapping[str, Dims]

    @classmethod
    def of(cls, model: onnx.ModelProto) -> Shapes:
        """By shape inference."""
        return cls(*infer_trial_dims(model))

    def trials(self, value: ir.Value | None) -> tuple[Dims, Dims] | None:
        """Both, if every dimension of both is known."""
        name = str(value.name) if value is not None else ""
        first, second = self.one.get(name), self.two.get(name)
        if first is None or second is None or None in (*first, *second):
            return None
        return first, second

    def rank(self, value: ir.Value | None) -> int | None:
        """The number of dimensions; None if it is not known."""
        name = str(value.name) if value is not None else ""
        return len(self.one[name]) if name in self.one else None

    def fixed(self, value: ir.Value | None, axis: int) -> int | None:
        """A dimension that does not depend on the sizes of the inputs."""
        name = str(value.name) if value is not None else ""
        ends = [d[axis] for d in (self.one.get(name), self.two.get(name)) if d and len(d) >= -axis]
        return ends[0] if len(ends) == 2 and ends[0] == ends[1] else None

    def are_equal(self, *values: ir.Value | None) -> bool:
        """All have one shape, whatever the sizes of the inputs."""
        found = {self.trials(value) for value in values}
        return len(found) == 1 and None not in found


def maker(value: ir.Value | None, *kinds: str) -> ir.Node | None:
    """The node that makes a value, if it is of one of these kinds of standard operators."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type in kinds and not node.domain else None


def behind_casts(value: ir.Value | None) -> ir.Value | None:
    """What Casts between float types only pass on."""
    while True:
        cast = maker(value, "Cast")
        source = cast.inputs[0] if cast is not None else None
        if source is None or source.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
            return value
        value = source


def number(value: ir.Value | None) -> float | None:
    """The one element of a constant."""
    array = qdq.constant(behind_casts(value))
    return float(array.reshape(())) if array is not None and array.size == 1 else None


def is_near(value: float | None, wanted: float) -> bool:
    """Equal, but for the rounding of constants."""
    return value is not None and abs(value - wanted) <= FORMULA_TOLERANCE * abs(wanted)


def scale_of(node: ir.Node | None) -> float | None:
    """The one scale of a Q or DQ of symmetric int8; None if there are several."""
    scale = qdq.scale_of_node(node) if node is not None else None
    zero = qdq.constant(node.inputs[2]) if node is not None and len(node.inputs) > 2 else None
    if scale is None or scale.ndim or zero is None or zero.dtype != np.int8 or zero.any():
        return None
    return float(scale)


def factors(value: ir.Value | None) -> tuple[float, list[ir.Value]]:
    """A product as the product of its constant numbers, and its other factors."""
    node = maker(behind_casts(value), "Mul", "Div")
    if node is None or value is None:
        return 1.0, [] if value is None else [value]
    if node.op_type == "Div":
        divisor = number(node.inputs[1])
        if not divisor:
            return 1.0, [value]
        constant, others = factors(node.inputs[0])
        return constant / divisor, others
    constant, others = 1.0, []
    for operand in node.inputs:
        known = number(operand)
        if known is not None:
            constant *= known
            continue
        more, rest = factors(operand)
        constant, others = constant * more, others + rest
    return constant, others


def is_gone(value: ir.Value | None) -> bool:
    """Tell whether a value was never made, or its node is in no graph any more."""
    node = value.producer() if value is not None else None
    return value is None or (node is not None and node.graph is None)


def vector(value: ir.Value | None) -> bool:
    """Tell whether it is a constant with one axis."""
    array = qdq.constant(value)
    return array is not None and array.ndim == 1


def check_vectors(hidden: int, *values: ir.Value | None) -> None:
    """Refuse vectors that do not have one element per column.

    Raises:
        NoPluginError: naming one.
    """
    for value in values:
        array = qdq.constant(value)
        if value is not None and (array is None or array.shape != (hidden,)):
            raise NoPluginError(f"{value.name!r} has not one element for each of {hidden} columns")


def is_used_once(value: ir.Value) -> bool:
    """Tell whether one operand of one node is all that reads it."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def codes_or_value(value: ir.Value) -> tuple[ir.Value, float]:
    """The int8 codes behind a DQ with their scale; any other value as it is, with 1."""
    dequantize = maker(behind_casts(value), "DequantizeLinear")
    scale = scale_of(dequantize)
    if dequantize is None or scale is None or dequantize.inputs[0] is None:
        return value, 1.0
    if dequantize.inputs[0].is_initializer():
        return value, 1.0
    return dequantize.inputs[0], scale


def quantizer_before(value: ir.Value | None) -> tuple[ir.Node, ir.Node] | None:
    """The Q and the DQ that a value comes through, Casts aside, if they have one scale."""
    dequantize = maker(behind_casts(value), "DequantizeLinear")
    quantize = maker(dequantize.inputs[0], "QuantizeLinear") if dequantize is not None else None
    if dequantize is None or quantize is None or scale_of(quantize) is None:
        return None
    return (quantize, dequantize) if scale_of(quantize) == scale_of(dequantize) else None
