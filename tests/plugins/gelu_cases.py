"""Tensors for BiasGeluQuant, what they must give in float64, and the kernel's arguments."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from trt_int8.plugins.gelu import GeluForm, GeluScalars, scalar_arguments
from trt_int8.plugins.kernel import Argument, Input, Output

DoubleArray = NDArray[np.float64]

# Inputs up to about 6, outputs that saturate above 5.1.
SCALARS = GeluScalars(output_scale=0.0401, x_scale=0.047)


def exact_gelu(v: DoubleArray, *, tanh: bool) -> DoubleArray:
    """The textbook formula in float64; the limits at infinity."""
    with np.errstate(invalid="ignore", over="ignore"):
        if tanh:
            inner = np.tanh(np.sqrt(2 / np.pi) * (v + 0.044715 * v**3))
        else:
            inner = erf(v / np.sqrt(2))
        result: DoubleArray = np.where(np.isneginf(v), 0.0, 0.5 * v * (1 + inner))
    return result


def random_tensors(
    form: GeluForm, rows: int, seed: int = 0
) -> tuple[NDArray[Any], NDArray[np.float16] | None]:
    """Halves of deviation 2 or codes over all of INT8; a bias of deviation 1 if there is one."""
    rng = np.random.default_rng([seed, rows, form.hidden])
    shape = (rows, form.hidden)
    x: NDArray[Any]
    if form.x == "int8":
        x = rng.integers(-128, 128, shape).astype(np.int8)
    else:
        x = (2 * rng.standard_normal(shape)).astype(np.float16)
    bias = rng.standard_normal(form.hidden).astype(np.float16) if form.bias else None
    return x, bias


def exact_steps(
    form: GeluForm, scalars: GeluScalars, x: NDArray[Any], bias: NDArray[np.float16] | None
) -> DoubleArray:
    """What the formula gives in float64 over the output scale, not rounded [rows, H]."""
    v = x.astype(np.float64)
    if x.dtype == np.int8:
        v = v * np.float64(np.float32(scalars.x_scale))
    if bias is not None:
        v = v + bias.astype(np.float64)
    return exact_gelu(v, tanh=form.tanh) / scalars.output_scale


def codes(steps: DoubleArray) -> NDArray[np.int8]:
    """INT8 codes of real steps: half to even, clamped."""
    return np.clip(np.rint(steps), -128, 127).astype(np.int8)


def kernel_arguments(
    scalars: GeluScalars, x: NDArray[Any], bias: NDArray[np.float16] | None
) -> tuple[list[Argument], NDArray[np.int8]]:
    """The kernel's arguments, and the array behind its output."""
    y = np.zeros(x.shape, np.int8)
    inputs: list[Argument] = [Input(x)] if bias is None else [Input(x), Input(bias)]
    return [*inputs, *scalar_arguments(scalars, x.shape[0]), Output(y)], y
