"""Checks of the scales of Q and DQ."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from trt_int8.graph.lint.check import Check, Hit
from trt_int8.graph.lint.view import (
    DEQUANTIZE,
    MATMULS,
    QDQ,
    QUANTIZE,
    GraphView,
    activation_source,
    array_of,
    dequantizer_behind,
    dtype_of,
    integer,
    is_kind,
    maker,
    name_of,
    same_scale,
    scale_of,
    shape_of,
    source,
    weight_behind,
)
from trt_int8.spec.lint import CheckInfo, Severity

TYPES = ir.DataType
_HALVES = (TYPES.FLOAT16, TYPES.BFLOAT16)
# Smallest normal and half of the smallest subnormal float16 (IEEE 754 binary16).
_SMALLEST_NORMAL, _ROUNDS_TO_ZERO = 2.0**-14, 2.0**-25


def _bad_values(view: GraphView) -> Iterator[Hit]:
    for node in view.of(*QDQ):
        scale = scale_of(node)
        if scale is None:
            continue
        values = scale.astype(np.float64).reshape(-1)
        bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
        if bad.size:
            share = f" ({bad.size} of {values.size} scales)" if values.size > 1 else ""
            yield Hit(name_of(node), f"its scale is {values[bad[0]]:g}{share}")
        elif values.size == 0:
            yield Hit(name_of(node), "its scale is an empty tensor")


def _half_scales(view: GraphView) -> Iterator[Hit]:
    for node in view.of(*QDQ):
        kind = dtype_of(source(node, 1))
        if kind in _HALVES:
            fixable = scale_of(node) is not None and kind == TYPES.FLOAT16
            yield Hit(name_of(node), f"its scale is {kind.name.lower()}", fixable=fixable)


def _tiny_products(view: GraphView) -> Iterator[Hit]:
    for node in view.of(*MATMULS):
        pair = [dequantizer_behind(source(node, index)) for index in (0, 1)]
        if pair[0] is None or pair[1] is None:
            continue
        if all(dtype_of(source(dq, 1)) not in _HALVES for dq in pair if dq is not None):
            continue
        scales = [scale_of(dq) for dq in pair if dq is not None]
        if any(s is None or s.size == 0 for s in scales):
            continue
        least = float(np.prod([np.abs(np.asarray(s, np.float64)).min() for s in scales]))
        if 0.0 < least < _SMALLEST_NORMAL:
            grave: Severity = "error" if least <= _ROUNDS_TO_ZERO else "warning"
            yield Hit(name_of(node), f"its smallest scale product is {least:.2g}", grave)


def _run_time_scales(view: GraphView) -> Iterator[Hit]:
    for node in view.of(*QDQ):
        scale = source(node, 1)
        if scale_of(node) is None:
            made_by = maker(scale)
            by = f"by {name_of(made_by)} ({made_by.op_type})" if made_by else "outside the graph"
            yield Hit(name_of(node), f"its scale is computed {by}")


def _per_channel_activations(view: GraphView) -> Iterator[Hit]:
    for node in view.of(QUANTIZE):
        value, scale = source(node, 0), scale_of(node)
        if scale is not None and scale.size > 1 and array_of(value) is None:
            yield Hit(name_of(node), f"{scale.size} scales on an activation")


def _along_k(view: GraphView) -> Iterator[Hit]:
    for node in view.of(*MATMULS):
        behind = weight_behind(source(node, 1))
        if behind is None:
            continue
        dequantizer, path = behind
        scale, shape = scale_of(dequantizer), shape_of(source(dequantizer, 0))
        if scale is None or scale.ndim != 1 or scale.size < 2 or shape is None or len(shape) != 2:
            continue
        swaps = sum(n.op_type == "Transpose" for n in path[: path.index(dequantizer)])
        swaps += node.op_type == "Gemm" and integer(node, "transB", 0) != 0
        if integer(dequantizer, "axis", 1) % 2 == swaps % 2:
            yield Hit(name_of(node), f"{scale.size} weight scales along K, the summed axis")


def _wrong_count(view: GraphView) -> Iterator[Hit]:
    for node in view.of(*QDQ):
        scale, shape = scale_of(node), shape_of(source(node, 0))
        if scale is None or scale.ndim != 1 or scale.size < 2 or not shape:
            continue
        axis = integer(node, "axis", 1)
        if not -len(shape) <= axis < len(shape):
            yield Hit(name_of(node), f"axis {axis} of a tensor of {len(shape)} axes")
        elif isinstance(shape[axis], int) and shape[axis] != scale.size:
            yield Hit(name_of(node), f"{scale.size} scales for {shape[axis]} channels")


def _unequal_pairs(view: GraphView) -> Iterator[Hit]:
    for node in view.of(DEQUANTIZE):
        quantizer = maker(source(node, 0))
        if quantizer is None or not is_kind(quantizer, QUANTIZE):
            continue
        if scale_of(node) is None or scale_of(quantizer) is None:
            continue
        if not same_scale(node, quantizer):
            kind = "activation" if activation_source(node) is not None else "weight"
            yield Hit(name_of(node), f"Q and DQ of this {kind} have other scales")


CHECKS = (
    Check(
        CheckInfo(
            id="scale-value",
            severity="error",
            what="a scale that is zero, negative, NaN or infinite",
            reason="the parser asserts `Scale coefficients must all be positive`; an infinite one "
            "builds, and makes every value 0 or NaN (seen with TensorRT-RTX 1.7)",
            mend="calibrate again: the range of this tensor is damaged or was never seen",
        ),
        _bad_values,
    ),
    Check(
        CheckInfo(
            id="scale-count",
            severity="error",
            what="as many scales as the axis has no channels, or an axis the tensor does not have",
            reason="ONNX wants one scale per channel of `axis` (QuantizeLinear)",
            mend="correct the axis or the scales",
        ),
        _wrong_count,
    ),
    Check(
        CheckInfo(
            id="half-scale",
            severity="warning",
            what="float16 or bfloat16 scales",
            reason="the GEMM is emitted as int8 x int8 -> Half with the raw accumulator in half: "
            "5 of 36 Linears of MiniLM pass 65504 (TensorRT-RTX plans)",
            mend="keep scales float32, with a Cast in front of each Q and behind each DQ",
            fixable=True,
        ),
        _half_scales,
    ),
    Check(
        CheckInfo(
            id="tiny-scale",
            severity="warning",
            what="half scales whose product over both operands is subnormal in half",
            reason="TensorRT-RTX folds the product to a half constant: up to 10.7 % error at 6e-7, "
            "0 below 3e-8 (read from plans)",
            mend="keep scales float32, with a Cast in front of each Q and behind each DQ",
            fixable=True,
        ),
        _tiny_products,
    ),
    Check(
        CheckInfo(
            id="run-time-scale",
            severity="warning",
            what="a scale that is computed at run time",
            reason="TensorRT-RTX parses it and multiplies in half; TensorRT wants a constant "
            "(seen in the plan)",
            mend="calibrate: the scale must be a constant",
        ),
        _run_time_scales,
    ),
    Check(
        CheckInfo(
            id="channel-activation",
            severity="warning",
            what="one scale per channel on an activation",
            reason="the scale varies along the summed axis, so no int8 GEMM fits: TensorRT-RTX "
            "multiplies in half (seen in the plan), TensorRT wants one scale per activation",
            mend="one scale per activation; SmoothQuant moves the spread to the weight",
        ),
        _per_channel_activations,
    ),
    Check(
        CheckInfo(
            id="weight-scale-axis",
            severity="warning",
            what="weight scales along K, the summed axis",
            reason="a sum over K cannot be scaled afterwards: TensorRT-RTX multiplies in half "
            "(seen in the plan)",
            mend="quantize the weight per output channel (axis N)",
        ),
        _along_k,
    ),
    Check(
        CheckInfo(
            id="unequal-pair",
            severity="warning",
            what="a DQ whose scale is not that of its Q",
            reason="every value is multiplied by the ratio of the two scales: most likely damage "
            "of the export",
            mend="give both the scale of the calibration",
        ),
        _unequal_pairs,
    ),
)
