"""Reading and writing QuantizeLinear and DequantizeLinear nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trt_int8.errors import GraphError
from trt_int8.numerics import FloatArray, Int8Array, dequantize, quantize

_REFUSED_OPS = {
    "DynamicQuantizeLinear": "static ranges (calibrate the model)",
    "MatMulInteger": "Q/DQ around a float MatMul",
    "QLinearMatMul": "Q/DQ around a float MatMul (QDQ format)",
    "ConvInteger": "Q/DQ around a float Conv",
    "QLinearConv": "Q/DQ around a float Conv (QDQ format)",
    "DynamicQuantizeMatMul": "static ranges (calibrate the model)",
    "MatMulIntegerToFloat": "Q/DQ around a float MatMul",
    "QAttention": "primitive attention operators with Q/DQ",
    "QGemm": "Q/DQ around a float Gemm",
    "MatMulNBits": "8-bit Q/DQ around a float MatMul",
    "MatMulBnb4": "8-bit Q/DQ around a float MatMul",
}
# Operators of NVIDIA's tools for other number formats: TRT_FP8QuantizeLinear, TRT_FP4QDQ, …
_OTHER_FORMATS = ("TRT_FP8", "TRT_FP4", "TRT_MXFP8", "TRT_INT4")
_QOPERATOR = "QLinear"
_SYMMETRIC = (
    "quantize again with symmetric int8 activations and weights (in ONNX Runtime QInt8 and"
    " extra_options ActivationSymmetric and WeightSymmetric), or pass --requantize to do it here"
)
_AGAIN = "quantize the float model again as symmetric INT8 Q/DQ, or pass the float ONNX"
_PER_TENSOR = "calibrate activations per tensor (axis None), or pass --requantize to do it here"
_RANGES = "calibrate on data that reaches this tensor, or pass --requantize to do it here"


@dataclass(frozen=True)
class QuantizedConstant:
    """A constant operand in INT8.

    Attributes:
        name: the initializer it comes from.
        codes: int8, as the consumer sees it (a Transpose in between is applied).
        scale: float32, [] or [C].
        axis: axis of `codes` that `scale` runs along; None for one scale.
        in_normal_form: the graph holds exactly these codes, behind a DQ on axis 1.
    """

    name: str
    codes: Int8Array
    scale: FloatArray
    axis: int | None
    in_normal_form: bool = False

    def transposed(self) -> QuantizedConstant:
        """The same with its two axes swapped."""
        axis = None if self.axis is None else 1 - self.axis
        return QuantizedConstant(self.name, self.codes.T, self.scale, axis)


@dataclass(frozen=True)
class ActivationPair:
    """A Q -> DQ pair on an activation: `source` is the tensor in front of it."""

    source: ir.Value
    scale: FloatArray


def constant(value: ir.Value | None) -> NDArray[Any] | None:
    """The array behind an initializer; None for anything else."""
    if value is None or not value.is_initializer() or value.const_value is None:
        return None
    return value.const_value.numpy()


def add_initializer(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    """Register `array` as a new initializer called `name`."""
    tensor = ir.tensor(array, name=name)
    value = ir.Value(
        name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def scale_of_node(node: ir.Node) -> FloatArray | None:
    """The constant scale of a Q or DQ node, [] or [C]; None if it is computed at run time."""
    array = constant(node.inputs[1])
    if array is None:
        return None
    return array.reshape(()) if array.size == 1 else array


def axis_of_node(node: ir.Node) -> int:
    """The `axis` attribute of a Q or DQ node (ONNX default: 1)."""
    return node.attributes["axis"].as_int() if "axis" in node.attributes else 1


def activation_pair(node: ir.Node) -> ActivationPair | None:
    """The Q -> DQ pair that ends in `node`, if its Q reads a tensor made at run time."""
    codes = node.inputs[0]
    producer = codes.producer() if codes is not None else None
    if producer is None or producer.op_type != "QuantizeLinear":
        return None
    source, scale = producer.inputs[0], scale_of_node(node)
    if source is None or source.is_initializer() or scale is None:
        return None
    first = scale_of_node(producer)
    if first is None or not np.array_equal(first, scale):
        return None
    return ActivationPair(source, scale)


def quantized_constant(value: ir.Value | None) -> QuantizedConstant | None:
    """Read `initializer (-> Q) -> DQ (-> Transpose)` in front of an operand; None if it is not."""
    producer = value.producer() if value is not None else None
    transposed = False
    if producer is not None and producer.op_type == "Transpose" and _swaps_two_axes(producer):
        transposed = True
        producer = producer.inputs[0].producer() if producer.inputs[0] is not None else None
    if producer is None or producer.op_type != "DequantizeLinear":
        return None
    found = codes_behind(producer)
    return found.transposed() if found is not None and transposed else found


def _swaps_two_axes(transpose: ir.Node) -> bool:
    perm = transpose.attributes["perm"].as_ints() if "perm" in transpose.attributes else (1, 0)
    return tuple(perm) == (1, 0)


def dequantized(found: QuantizedConstant) -> FloatArray:
    """The real values of a quantized constant: codes * scale."""
    return dequantize(found.codes, found.scale, found.axis)


def codes_behind(node: ir.Node) -> QuantizedConstant | None:
    """Codes and scale of a DQ over a constant (int8, or float behind a Q); None otherwise."""
    scale, source = scale_of_node(node), node.inputs[0]
    quantizer = source.producer() if source is not None else None
    if quantizer is not None and quantizer.op_type == "QuantizeLinear":
        source = quantizer.inputs[0]
    array = constant(source)
    if array is None or scale is None or source is None:
        return None
    axis = _axis(node, scale, array.ndim)
    if quantizer is not None:
        # The scale of Q may be another than that of DQ.
        first = scale_of_node(quantizer)
        if first is None:
            return None
        array = quantize(array, first, _axis(quantizer, first, array.ndim))
    elif array.dtype != np.int8:
        return None
    normal = quantizer is None and axis == 1 and array.ndim == 2 and len(node.inputs) == 3
    return QuantizedConstant(str(source.name), array, scale, axis, in_normal_form=normal)


def _axis(node: ir.Node, scale: FloatArray, ndim: int) -> int | None:
    return axis_of_node(node) % ndim if scale.size > 1 else None


def refuse_unsupported(graph: ir.Graph) -> None:
    """Fail on quantization that TensorRT cannot run as symmetric INT8.

    Raises:
        GraphError: naming the first node and the number of such nodes: a dynamic or integer
            operator, another type than int8, a zero point that is not 0, a scale that is blocked,
            not float32 or computed at run time, or an activation with several scales.
    """
    found: dict[int, GraphError] = {}
    for node in graph:
        behind = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
        error = _problem_of(node)
        # A DQ behind a refused node has the same fault: count it once.
        if error is not None and (behind is None or id(behind) not in found):
            found[id(node)] = error
    if found:
        first = next(iter(found.values()))
        more = f" (and {len(found) - 1} more such nodes)" if len(found) > 1 else ""
        raise GraphError(f"{first.came}{more}", wanted=first.wanted, todo=first.todo)


def _problem_of(node: ir.Node) -> GraphError | None:
    kind = node.op_type
    if kind in _REFUSED_OPS:
        return _refusal(node, f"is a {kind}", _REFUSED_OPS[kind])
    if kind.startswith(_QOPERATOR):
        return _refusal(node, f"is a {kind}", "Q/DQ around a float operator (QDQ format)")
    if kind.startswith(_OTHER_FORMATS):
        return _refusal(node, f"is a {kind}", "int8 QuantizeLinear and DequantizeLinear")
    if kind in ("QuantizeLinear", "DequantizeLinear"):
        return _problem_of_scale(node) or _problem_of_type(node)
    return None


def _problem_of_scale(node: ir.Node) -> GraphError | None:
    scale = constant(node.inputs[1])
    if scale is None:
        return _refusal(node, "has a scale computed at run time", "a constant scale")
    if scale.dtype != np.float32:
        return _refusal(node, f"has {scale.dtype} scales", "float32 (TensorRT overflows on others)")
    if not (np.isfinite(scale) & (scale > 0)).all():
        return _refusal(
            node, "has a scale that is zero, negative or not finite", "scales > 0", _RANGES
        )
    if scale.ndim > 1:
        return _refusal(
            node, "is blocked (several scales along one channel)", "a scale per channel"
        )
    if scale.size > 1 and not _has_constant_source(node):
        return _refusal(
            node, f"has {scale.size} scales on an activation", "one scale per tensor", _PER_TENSOR
        )
    return None


def _problem_of_type(node: ir.Node) -> GraphError | None:
    given = node.inputs[2] if len(node.inputs) > 2 else None
    zero_point, codes = constant(given), None
    if node.op_type == "DequantizeLinear":
        codes = constant(node.inputs[0])
    if zero_point is None and (given is not None or (codes is None and not _reads_codes(node))):
        what = "has no constant zero point (so it means uint8)"
        return _refusal(node, what, "an int8 zero point", _SYMMETRIC)
    # Constants of int32 are biases; the normal form has them as float32.
    allowed = ("int8",) if codes is None else ("int8", "int32")
    typed = codes if zero_point is None else zero_point
    if typed is not None and typed.dtype.name not in allowed:
        wanted = "int8 (TensorRT builds uint8 as int8)" if typed.dtype == np.uint8 else "int8"
        return _refusal(node, f"is {typed.dtype}", wanted, _SYMMETRIC)
    if zero_point is not None and zero_point.any():
        what = f"has a zero point that is not 0 ({zero_point.reshape(-1)[0]})"
        return _refusal(node, what, "symmetric quantization", _SYMMETRIC)
    return None


def _reads_codes(node: ir.Node) -> bool:
    """Tell whether it is a DQ behind a Q, whose type is checked there."""
    producer = node.inputs[0].producer() if node.inputs[0] is not None else None
    behind = producer is not None and producer.op_type == "QuantizeLinear"
    return behind and node.op_type == "DequantizeLinear"


def _has_constant_source(node: ir.Node) -> bool:
    source = node.inputs[0]
    producer = source.producer() if source is not None else None
    if producer is not None and producer.op_type == "QuantizeLinear":
        source = producer.inputs[0]
    return constant(source) is not None


def _refusal(node: ir.Node, what: str, wanted: str, todo: str = _AGAIN) -> GraphError:
    return GraphError(f"node {node.name!r} ({node.op_type}) {what}", wanted=wanted, todo=todo)
