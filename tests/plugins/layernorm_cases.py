"""Tensors for SkipLayerNormQuant, what they must give in float64, and the kernel's arguments."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_int8.plugins.kernel import Argument, Input, Output
from trt_int8.plugins.layernorm import LayerNormForm, LayerNormScalars, scalar_arguments
from trt_int8.plugins.layernorm_model import (
    LayerNormResults,
    LayerNormTensors,
    skip_layernorm_quant,
)

DoubleArray = NDArray[np.float64]

# Normalised rows of deviation 1 to 2 use most of INT8 and saturate now and then.
SCALARS = LayerNormScalars(output_scale=0.031, epsilon=1e-12, x_scale=0.02, residual_scale=0.0313)


@dataclass(frozen=True)
class Exact:
    """What the formula gives in float64.

    Attributes:
        steps: normalised rows over the output scale, not rounded [rows, H].
        normalised: the same times the output scale.
        sum: x + bias + residual [rows, H].
    """

    steps: DoubleArray
    normalised: DoubleArray
    sum: DoubleArray


def random_tensors(form: LayerNormForm, rows: int, seed: int = 0) -> LayerNormTensors:
    """Tensors of the form: halves of deviation 1.5 around a mean of 0.4, codes over all of INT8."""
    rng = np.random.default_rng([seed, rows, form.hidden])

    def halves(*shape: int) -> NDArray[np.float16]:
        return (0.4 + 1.5 * rng.standard_normal(shape)).astype(np.float16)

    def of_kind(kind: str) -> NDArray[Any]:
        if kind == "float16":
            return halves(rows, form.hidden)
        return rng.integers(-128, 128, (rows, form.hidden)).astype(np.int8)

    return LayerNormTensors(
        x=of_kind(form.x),
        gamma=halves(form.hidden),
        bias=halves(form.hidden) if form.bias else None,
        residual=None if form.residual is None else of_kind(form.residual),
        beta=None if form.rms else halves(form.hidden),
    )


def exact(form: LayerNormForm, scalars: LayerNormScalars, tensors: LayerNormTensors) -> Exact:
    """The formula in float64, with NumPy's own mean and variance."""
    summed = _real(tensors.x, scalars.x_scale)
    if tensors.bias is not None:
        summed = summed + tensors.bias.astype(np.float64)
    if tensors.residual is not None:
        summed = summed + _real(tensors.residual, scalars.residual_scale)
    if form.rms:
        spread = np.sqrt((summed**2).mean(axis=1, keepdims=True) + scalars.epsilon)
        unit = summed / spread
    else:
        spread = np.sqrt(summed.var(axis=1, keepdims=True) + scalars.epsilon)
        unit = (summed - summed.mean(axis=1, keepdims=True)) / spread
    shift = 0.0 if tensors.beta is None else tensors.beta.astype(np.float64)
    normalised = unit * tensors.gamma.astype(np.float64) + shift
    return Exact(normalised / scalars.output_scale, normalised, summed)


def codes(steps: DoubleArray) -> NDArray[np.int8]:
    """INT8 codes of real steps: half to even, clamped."""
    return np.clip(np.rint(steps), -128, 127).astype(np.int8)


def kernel_arguments(
    form: LayerNormForm, scalars: LayerNormScalars, tensors: LayerNormTensors
) -> tuple[list[Argument], LayerNormResults]:
    """The kernel's arguments, and the arrays behind its outputs."""
    shape = tensors.x.shape
    results = LayerNormResults(
        y=np.zeros(shape, np.int8),
        y_half=np.zeros(shape, np.float16) if form.half else None,
        sum=np.zeros(shape, np.float16) if form.sum else None,
    )
    inputs = (tensors.x, tensors.bias, tensors.residual, tensors.gamma, tensors.beta)
    outputs = (results.y, results.y_half, results.sum)
    arguments: list[Argument] = [Input(array) for array in inputs if array is not None]
    arguments += scalar_arguments(scalars, shape[0])
    arguments += [Output(array) for array in outputs if array is not None]
    return arguments, results


def same_bits(left: LayerNormResults, right: LayerNormResults) -> bool:
    """Whether all outputs agree bit for bit; NaN counts as NaN, whatever its payload."""
    pairs = ((left.y, right.y), (left.y_half, right.y_half), (left.sum, right.sum))
    return all(_same(a, b) for a, b in pairs)


def run_model(form: LayerNormForm, tensors: LayerNormTensors, **scalars: float) -> LayerNormResults:
    """The model with `SCALARS`, some of them replaced."""
    return skip_layernorm_quant(form, replace(SCALARS, **scalars), tensors)


def _real(tensor: NDArray[Any], scale: float) -> DoubleArray:
    # The kernel gets the scale as float32.
    step = np.float64(np.float32(scale)) if tensor.dtype == np.int8 else 1.0
    return tensor.astype(np.float64) * step


def _same(a: NDArray[Any] | None, b: NDArray[Any] | None) -> bool:
    if a is None or b is None:
        return a is b
    if a.dtype == np.int8:
        return bool(np.array_equal(a, b))
    both_nan = np.isnan(a) & np.isnan(b)
    return bool((both_nan | (a.view(np.uint16) == b.view(np.uint16))).all())
