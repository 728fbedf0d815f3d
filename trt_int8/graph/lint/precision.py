"""Checks of floating-point types: what a card lacks, and what overflows in half precision."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trt_int8.graph.lint.check import Check, Hit
from trt_int8.graph.lint.view import (
    GraphView,
    array_of,
    dtype_of,
    integer,
    is_kind,
    maker,
    name_of,
    source,
    users,
)
from trt_int8.graph.plugins.masks import MASK
from trt_int8.spec.lint import CheckInfo, Severity

TYPES = ir.DataType
HALF_MAX = 65504.0
_TURING = 75
_PRODUCTS = ("MatMul", "Gemm", "Einsum")
# Operators whose data inputs are all of one type in ONNX (type variable T).
_ONE_TYPE = (
    *("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean", "Concat", "Where"),
    *("MatMul", "Gemm", "Einsum", "Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual"),
)
_SQUARES = ("Pow", "ReduceSumSquare", "ReduceL2", "ReduceSum", "ReduceMean", "CumSum")


def _float_matmuls(view: GraphView) -> Iterator[Hit]:
    if _TURING not in view.goal.sms:
        return
    for node in view.of(*_PRODUCTS):
        kinds = {dtype_of(value) for value in (*node.inputs[:2], *node.outputs)}
        if TYPES.FLOAT in kinds:
            yield Hit(name_of(node), f"{node.op_type} in float32 on SM{_TURING}")


def _bfloat16(view: GraphView) -> Iterator[Hit]:
    if min(view.goal.sms) > _TURING:
        return
    for node in view.nodes:
        if any(dtype_of(value) == TYPES.BFLOAT16 for value in node.outputs):
            yield Hit(name_of(node), f"{node.op_type} gives bfloat16")


def _mixed(view: GraphView) -> Iterator[Hit]:
    for node in view.of(*_ONE_TYPE):
        first = 1 if node.op_type == "Where" else 0
        kinds = [dtype_of(value) for value in node.inputs[first:] if value is not None]
        names = dict.fromkeys(kind.name.lower() for kind in kinds if kind is not None)
        if len(names) > 1:
            yield Hit(name_of(node), f"{node.op_type} of {' and '.join(names)}")


def _half_norms(view: GraphView) -> Iterator[Hit]:
    for node in view.of("ReduceMean"):
        if dtype_of(source(node, 0)) != TYPES.FLOAT16:
            continue
        if any(is_kind(user, "Sub") for user in users(node.outputs[0])):
            yield Hit(name_of(node), "LayerNorm as primitives in float16")


def _half_sums(view: GraphView) -> Iterator[Hit]:
    norms = {hit.node for hit in _half_norms(view)}
    for node in view.of(*_SQUARES):
        if dtype_of(source(node, 0)) == TYPES.FLOAT16 and name_of(node) not in norms:
            yield Hit(name_of(node), f"{node.op_type} in float16")


def _constants(view: GraphView) -> Iterator[tuple[ir.Value, NDArray[Any]]]:
    seen: set[int] = set()
    for node in view.nodes:
        for value in node.inputs:
            if value is None or id(value) in seen or not value.is_initializer():
                continue
            seen.add(id(value))
            array = array_of(value)
            if array is not None and dtype_of(value) in (TYPES.FLOAT, TYPES.FLOAT16):
                yield value, array


def _not_finite(view: GraphView) -> Iterator[Hit]:
    for value, array in _constants(view):
        if np.isnan(array).any():
            yield Hit(str(value.name), f"{int(np.isnan(array).sum())} of its values are NaN")


def _beyond_half(view: GraphView) -> Iterator[Hit]:
    for value, array in _constants(view):
        if array.size == 0 or np.isnan(array).any():
            continue
        low, high = float(array.min()), float(array.max())
        if max(-low, high) <= HALF_MAX:
            continue
        worst = low if low < -HALF_MAX else high
        grave: Severity = "info"
        text = f"it holds {worst:g} in float32"
        if dtype_of(value) == TYPES.FLOAT16:
            grave, text = "warning", f"it holds {worst:g} in float16"
        elif _becomes_half(value):
            grave, text = "warning", f"it holds {worst:g} and is cast to float16"
        if not _is_scale(value) and not _is_read_by_plugin(value):
            yield Hit(str(value.name), text, grave)


def _is_read_by_plugin(value: ir.Value) -> bool:
    """Minus infinity of a mask in float32, which the reference of a plugin reads back as bool."""
    readers = [user for user, _ in value.uses()]
    return bool(readers) and all(
        is_kind(user, "Where", "Equal") and MASK in name_of(user) for user in readers
    )


def _becomes_half(value: ir.Value) -> bool:
    return any(
        is_kind(user, "Cast") and integer(user, "to", 0) == int(TYPES.FLOAT16)
        for user, _ in value.uses()
    )


def _is_scale(value: ir.Value) -> bool:
    kinds = ("QuantizeLinear", "DequantizeLinear")
    return all(is_kind(user, *kinds) and index == 1 for user, index in value.uses())


def _opset21(view: GraphView) -> Iterator[Hit]:
    if view.facts.opset < 21:
        return
    for node in view.of("DequantizeLinear"):
        turned = [user for user, _ in node.outputs[0].uses() if is_kind(user, "Transpose")]
        behind = maker(source(node, 0))
        if turned and is_kind(behind, "QuantizeLinear"):
            yield Hit(name_of(node), f"a pair in front of {name_of(turned[0])} (Transpose)")


CHECKS = (
    Check(
        CheckInfo(
            id="float32-matmul",
            severity="error",
            what="a float32 MatMul, Gemm or Einsum for SM75 (T4), with or without Q/DQ",
            reason="TensorRT-RTX is strongly typed and refuses: `Cannot compile operation for "
            "Turing (SM75): FP32 GEMM is not supported`; TensorRT builds it without tensor cores",
            mend="trt-int8 build makes the float16 twin; or pass a float16 graph with float32 "
            "scales",
        ),
        _float_matmuls,
    ),
    Check(
        CheckInfo(
            id="bfloat16",
            severity="error",
            what="bfloat16 tensors for SM75 (T4)",
            reason="the card has no bfloat16: `the model contains HW-specific datatypes: b16` "
            "(TensorRT-RTX 1.7)",
            mend="export the model in float32 or float16",
        ),
        _bfloat16,
    ),
    Check(
        CheckInfo(
            id="mixed-types",
            severity="error",
            what="an operator whose inputs are of different types",
            reason="TensorRT is strongly typed: `must have same input types. But they are of types "
            "Half and Float` (seen with TensorRT-RTX 1.7); ONNX forbids it too",
            mend="put a Cast on one of them, or convert the float32 export again",
        ),
        _mixed,
    ),
    Check(
        CheckInfo(
            id="nan-constant",
            severity="error",
            what="a constant with NaN",
            reason="whatever it touches is NaN",
            mend="export from an intact checkpoint",
        ),
        _not_finite,
    ),
    Check(
        CheckInfo(
            id="half-layernorm",
            severity="warning",
            what="LayerNorm as ReduceMean, Sub, Pow, … in float16",
            reason="mean and variance are then kept in half and overflow: a common report of NaN "
            "engines; the LayerNormalization operator is computed in float (TensorRT-RTX plans)",
            mend="export with opset 17 (LayerNormalization), or keep these nodes in float32",
        ),
        _half_norms,
    ),
    Check(
        CheckInfo(
            id="half-sum",
            severity="warning",
            what="powers, sums and means in float16",
            reason="a square above 255 or a long sum passes 65504, the largest float16",
            mend="keep these nodes in float32, between two Casts",
        ),
        _half_sums,
    ),
    Check(
        CheckInfo(
            id="beyond-half",
            severity="warning",
            what="a constant beyond 65504 in float16, or one that becomes float16",
            reason="it is infinite there; a row with every key masked by it becomes NaN (masks of "
            "-3.4e38 are the usual case)",
            mend="clamp it to -65504; trt-int8 build does",
        ),
        _beyond_half,
    ),
    Check(
        CheckInfo(
            id="opset21-transpose",
            severity="warning",
            what="opset 21 or newer with a pair in front of a Transpose",
            reason="ONNX Runtime mistypes it at default optimisation: `output_dtype INT8 does not "
            "match y_zero_point type UINT8`, so the file cannot be compared on a CPU",
            mend="export with opset 17, or set session.disable_quant_qdq=1 in ONNX Runtime",
        ),
        _opset21,
    ),
)
