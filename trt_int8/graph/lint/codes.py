"""Checks of what Q and DQ make: the type of the codes, zero points, blocks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from trt_int8.graph.lint.check import Check, Hit
from trt_int8.graph.lint.view import (
    DEQUANTIZE,
    QDQ,
    QUANTIZE,
    GraphView,
    array_of,
    dtype_of,
    integer,
    is_kind,
    maker,
    name_of,
    shape_of,
    source,
)
from trt_int8.spec.lint import CheckInfo, Severity

TYPES = ir.DataType
_ADA = 89
_ZERO_POINT_128 = 128


def quantized_type(node: ir.Node) -> ir.DataType | None:
    """The type of the codes of a Q or DQ; None if it is not known."""
    if is_kind(node, DEQUANTIZE):
        codes = source(node, 0)
        made_by = maker(codes)
        if made_by is not None and is_kind(made_by, QUANTIZE):
            return quantized_type(made_by)
        return dtype_of(codes) or dtype_of(source(node, 2))
    zero_point = source(node, 2)
    if zero_point is not None:
        return dtype_of(zero_point)
    given = integer(node, "output_dtype", 0)
    # Without both, ONNX says uint8 (QuantizeLinear, `y_zero_point`).
    return TYPES(given) if given in set(map(int, TYPES)) and given else TYPES.UINT8


def _zero_points(view: GraphView) -> Iterator[Hit]:
    for node in view.of(*QDQ):
        given = source(node, 2)
        values = array_of(given)
        if given is not None and values is None:
            yield Hit(name_of(node), "its zero point is computed at run time", fixable=False)
        elif values is not None and np.asarray(values).astype(np.float64).any():
            first = values.reshape(-1)[np.flatnonzero(values.reshape(-1))[0]]
            shifts = quantized_type(node) == TYPES.UINT8 and bool((values == _ZERO_POINT_128).all())
            yield Hit(name_of(node), f"its zero point is {first}", fixable=shifts)


def _unsigned(view: GraphView) -> Iterator[Hit]:
    for node in view.of(*QDQ):
        if quantized_type(node) != TYPES.UINT8:
            continue
        zero = array_of(source(node, 2))
        if zero is not None and zero.any():
            continue  # rejected for its zero point
        codes = array_of(source(node, 0))
        fits = codes is not None and not (codes > np.iinfo(np.int8).max).any()
        missing = "no zero point, which means uint8" if source(node, 2) is None else "uint8 codes"
        yield Hit(name_of(node), f"{missing}", fixable=fits)


def _other_types(view: GraphView) -> Iterator[Hit]:
    for node in view.of(*QDQ):
        kind = quantized_type(node)
        if kind is None or kind in (TYPES.INT8, TYPES.UINT8, TYPES.INT32):
            continue
        grave: Severity = "error"
        if kind in (TYPES.INT4, TYPES.FLOAT4E2M1) or (
            kind in (TYPES.FLOAT8E4M3FN,) and min(view.goal.sms) >= _ADA
        ):
            grave = "warning"
        yield Hit(name_of(node), f"its codes are {kind.name.lower()}", grave)


def _blocked(view: GraphView) -> Iterator[Hit]:
    for node in view.of(*QDQ):
        shape = shape_of(source(node, 1))
        block = integer(node, "block_size", 0)
        if block > 0 or (shape is not None and len(shape) > 1 and shape != (1,) * len(shape)):
            yield Hit(name_of(node), f"scales of shape {list(shape or ())}, block_size {block}")


_AGAIN = "quantize the float model again with symmetric int8: trt-int8 build does"

CHECKS = (
    Check(
        CheckInfo(
            id="zero-point",
            severity="error",
            what="a zero point that is not 0, or not a constant",
            reason="TensorRT's parser asserts shiftIsAllZeros: `Non-zero zero point is not "
            "supported`, on every version (seen with TensorRT-RTX 1.7)",
            mend=f"{_AGAIN}; --fix shifts uint8 codes of zero point 128 to int8 exactly",
            fixable=True,
        ),
        _zero_points,
    ),
    Check(
        CheckInfo(
            id="uint8",
            severity="error",
            what="uint8 codes with zero point 0, said or left out",
            reason="TensorRT-RTX parses them without a word and builds int8 in [-128, 127]: all "
            "values above 127 steps are cut off (plan source)",
            mend=f"{_AGAIN}; --fix retypes weights whose codes all fit",
        ),
        _unsigned,
    ),
    Check(
        CheckInfo(
            id="quantized-type",
            severity="error",
            what="codes that are not int8: int4, fp8, fp4, int16",
            reason="no INT8 tensor cores take them: int4 is stored small and multiplied in half, "
            "fp8 needs SM89, 16 bits have no kernel (TensorRT explicit-quantization guide)",
            mend=_AGAIN,
        ),
        _other_types,
    ),
    Check(
        CheckInfo(
            id="blocked-scale",
            severity="error",
            what="several scales along one channel (block quantization)",
            reason="an int8 GEMM has one scale per output channel; blocks exist for int4 and fp4 "
            "weights only (TensorRT explicit-quantization guide)",
            mend="quantize the weight per output channel",
        ),
        _blocked,
    ),
)
