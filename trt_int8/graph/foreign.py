"""What other tools write, rewritten as float32 with symmetric int8 where no value changes.

* Q and DQ of the domains `com.microsoft` and `trt` become those of ONNX.
* float16 and bfloat16 tensors become float32: scales in half precision overflow in TensorRT.
  (Only here values change, by the half-precision rounding that is no longer done.)
* uint8 with zero point 128 becomes int8 with zero point 0: the same 256 real values.
* Codes that pass layout operators, or are picked by a Gather, are dequantized in front of them.
* Constant codes of any zero point become int8 with zero point 0 where they fit; dequantized
  constants that no matmul, convolution or Gather reads become float32.

What cannot be rewritten is left for `qdq.refuse_unsupported`, which names it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trt_int8.graph import qdq
from trt_int8.graph.names import TensorNames
from trt_int8.graph.widen import drop_idle_casts, widen
from trt_int8.numerics import QMAX, QMIN

_STANDARD = {
    "TRT_INT8QuantizeLinear": "QuantizeLinear",
    "TRT_INT8DequantizeLinear": "DequantizeLinear",
    "QuantizeLinear": "QuantizeLinear",
    "DequantizeLinear": "DequantizeLinear",
}
_FOREIGN_DOMAINS = ("com.microsoft", "trt", "tensorrt")
# With operand 0 as data: each result value is one of the data values.
_MOVERS = frozenset(
    {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity"}
    | {"Gather", "Slice", "Expand", "Tile", "Relu"}
)
# Operators with a kernel that reads int8 weights or tables.
_WEIGHT_READERS = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose", "Gather"})
_LAYOUT = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity"})
_CODES = (np.dtype(np.int8), np.dtype(np.uint8))
_CENTER = 128


def adopt(model: ir.Model, *, keep_floats: bool = False) -> None:
    """Rewrite foreign forms, in place; constants are initializers already.

    Args:
        model: any graph.
        keep_floats: for whoever wants the float graph: float constants stay in front of their Q,
            and weights that do not fit int8 become float32.
    """
    graph = model.graph
    _standardize(graph)
    widen(model)
    drop_idle_casts(graph)
    _name_zero_points(graph)
    _dequantize_early(graph)
    _recenter(graph)
    names = TensorNames(graph)
    # In order: what one of them makes a constant, another may read.
    for node in list(graph):
        if node.op_type == "QuantizeLinear" and not keep_floats:
            _quantize_constant(graph, names, node)
        elif node.op_type == "DequantizeLinear":
            _settle_constant(graph, names, node, floats=keep_floats)


def _standardize(graph: ir.Graph) -> None:
    for node in graph:
        if node.domain in _FOREIGN_DOMAINS and node.op_type in _STANDARD:
            node.domain, node.op_type = "", _STANDARD[node.op_type]


def _name_zero_points(graph: ir.Graph) -> None:
    """Give each Q that says int8 by `output_dtype` alone, and each DQ behind it, a zero point."""
    names = TensorNames(graph)
    for node in graph:
        if node.op_type != "QuantizeLinear" or len(node.inputs) > 2:
            continue
        kind = node.attributes.get("output_dtype")
        scale = qdq.scale_of_node(node)
        if scale is not None and kind is not None and kind.as_int() == int(ir.DataType.INT8):
            zero = _zeros(graph, names, scale.shape)
            _set_zero_point(node, zero)
            for user, _ in node.outputs[0].uses():
                if user.op_type == "DequantizeLinear" and len(user.inputs) == 2:
                    _set_zero_point(user, zero)


def _dequantize_early(graph: ir.Graph) -> None:
    """Put each DQ right behind its Q or constant: int8 codes never pass another operator."""
    names = TensorNames(graph)
    for node in list(graph):
        if node.op_type != "DequantizeLinear" or not _has_one_scale(node):
            continue
        path, root = _movers_above(node)
        if not path or root is None:
            continue
        first = _clone(graph, names, node, [root, *node.inputs[1:]], before=node)
        for mover in reversed(path):
            first = _clone(graph, names, mover, [first, *mover.inputs[1:]], before=node)
        _take_over(names, node.outputs[0], first)


def _take_over(names: TensorNames, old: ir.Value, new: ir.Value) -> None:
    """Let `new` stand for `old`, under its name if it is an output of the graph."""
    if old.is_graph_output():
        name, old.name = str(old.name), names.fresh(f"{old.name}_codes")
        new.name, new.type, new.shape = name, old.type, old.shape
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def _has_one_scale(node: ir.Node) -> bool:
    scale = qdq.scale_of_node(node)
    return scale is not None and scale.size == 1


def _movers_above(node: ir.Node) -> tuple[list[ir.Node], ir.Value | None]:
    """Layout operators above a DQ, nearest first, and the codes they start from."""
    path: list[ir.Node] = []
    zero = qdq.constant(node.inputs[2]) if len(node.inputs) > 2 else None
    value = node.inputs[0]
    while value is not None:
        producer = value.producer()
        array = qdq.constant(value)
        if producer is None:
            return path, value if array is not None and array.dtype in _CODES else None
        if producer.op_type == "QuantizeLinear":
            return path, value
        # Relu moves no code to another only where code 0 is the value 0.
        shifted = zero is not None and bool(zero.any())
        if producer.op_type not in _MOVERS or (producer.op_type == "Relu" and shifted):
            return path, None
        path.append(producer)
        value = producer.inputs[0]
    return path, None


def _clone(
    graph: ir.Graph,
    names: TensorNames,
    node: ir.Node,
    inputs: list[ir.Value | None],
    *,
    before: ir.Node,
) -> ir.Value:
    copy = ir.Node(node.domain, node.op_type, inputs, list(node.attributes.values()))
    copy.name = f"{node.name}_float"
    graph.insert_before(before, copy)
    copy.outputs[0].name = names.fresh(f"{node.outputs[0].name}_float")
    return copy.outputs[0]


def _recenter(graph: ir.Graph) -> None:
    """Turn uint8 with zero point 128 to int8 with zero point 0, where Q and all its DQ agree."""
    names = TensorNames(graph)
    for node in graph:
        if node.op_type != "QuantizeLinear" or not _is_centered(node):
            continue
        users = [user for user, _ in node.outputs[0].uses()]
        if node.outputs[0].is_graph_output() or not all(
            user.op_type == "DequantizeLinear" and _is_centered(user) for user in users
        ):
            continue
        for each in (node, *users):
            given = qdq.constant(each.inputs[2])
            assert given is not None
            _set_zero_point(each, _zeros(graph, names, given.shape))


def _is_centered(node: ir.Node) -> bool:
    zero = qdq.constant(node.inputs[2]) if len(node.inputs) > 2 else None
    return zero is not None and zero.dtype == np.uint8 and bool((zero == _CENTER).all())


def _quantize_constant(graph: ir.Graph, names: TensorNames, node: ir.Node) -> None:
    """Store the codes of a quantized float constant in its place.

    Not those of a symmetric int8 weight of a matmul: it gets its layout [K, N] at the same time.
    """
    array, scale = qdq.constant(node.inputs[0]), qdq.scale_of_node(node)
    zero = qdq.constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if array is None or array.dtype != np.float32 or scale is None or scale.ndim > 1:
        return
    if zero is None or zero.dtype not in _CODES or node.outputs[0].is_graph_output():
        return
    readers = {reader for user, _ in node.outputs[0].uses() for reader in _readers(user.outputs[0])}
    if zero.dtype == np.int8 and not zero.any() and readers & {"MatMul", "Gemm"}:
        return
    with np.errstate(divide="ignore", invalid="ignore"):
        # As ONNX has it: saturate(round_half_even(x / scale) + zero point).
        steps = np.nan_to_num(np.rint(array / _along(node, scale, array.ndim)))
    limits = np.iinfo(zero.dtype)
    shifted = steps + _along(node, zero, array.ndim)
    codes = np.clip(shifted, limits.min, limits.max).astype(zero.dtype)
    name = names.fresh(f"{node.inputs[0].name if node.inputs[0] is not None else ''}_codes")
    node.outputs[0].replace_all_uses_with(qdq.add_initializer(graph, name, codes))


def _settle_constant(graph: ir.Graph, names: TensorNames, node: ir.Node, *, floats: bool) -> None:
    """Constant codes: int8 with zero point 0 for weights and tables, float32 for the rest.

    With `floats`, weights that do not fit int8 become float32 too, for a float graph is wanted.
    """
    codes, scale = qdq.constant(node.inputs[0]), qdq.scale_of_node(node)
    if codes is None or codes.dtype not in _CODES or scale is None or scale.ndim > 1:
        return
    zero = qdq.constant(node.inputs[2]) if len(node.inputs) > 2 else None
    shift = np.int32(0) if zero is None else _along(node, zero.astype(np.int32), codes.ndim)
    centered = codes.astype(np.int32) - shift
    fits = centered.min(initial=0) >= QMIN and centered.max(initial=0) <= QMAX
    readers = _readers(node.outputs[0])
    name = str(node.inputs[0].name) if node.inputs[0] is not None else ""
    loose = not fits and (floats or readers == {"Gather"})
    if codes.ndim < 2 or not readers & _WEIGHT_READERS or loose:
        if not node.outputs[0].is_graph_output():
            real = (centered.astype(np.float32) * _along(node, scale, codes.ndim)).astype("f4")
            constant = qdq.add_initializer(graph, names.fresh(f"{name}_float"), real)
            node.outputs[0].replace_all_uses_with(constant)
    elif fits and (codes.dtype != np.int8 or (zero is not None and zero.any())):
        made = qdq.add_initializer(graph, names.fresh(f"{name}_int8"), centered.astype(np.int8))
        node.replace_input_with(0, made)
        shape = scale.shape if zero is None else zero.shape
        _set_zero_point(node, _zeros(graph, names, shape))


def _readers(value: ir.Value) -> set[str]:
    """Operators that read a constant, directly or behind layout operators."""
    found: set[str] = set()
    for user, _ in value.uses():
        found |= _readers(user.outputs[0]) if user.op_type in _LAYOUT else {user.op_type}
    return found


def _along(node: ir.Node, array: NDArray[Any], ndim: int) -> NDArray[Any]:
    """Shape scales or zero points so that they run along the axis of their node."""
    if array.size == 1:
        return array.reshape(())
    shape = [1] * ndim
    shape[qdq.axis_of_node(node) % ndim] = array.size
    return array.reshape(shape)


def _zeros(graph: ir.Graph, names: TensorNames, shape: tuple[int, ...]) -> ir.Value:
    return qdq.add_initializer(graph, names.fresh("zero_point_int8"), np.zeros(shape, np.int8))


def _set_zero_point(node: ir.Node, zero: ir.Value) -> None:
    if len(node.inputs) < 3:
        node.resize_inputs(3)
    node.replace_input_with(2, zero)
    node.attributes.pop("output_dtype", None)
