"""SkipLayerNormQuant in NumPy: the contract of `cuda/skip_layernorm_quant.cu`, bit for bit.

Float32 in the kernel's own order: the chains of a thread, the shuffles of a warp, the warps of a
row. So the bits depend on the layout that `LayerNormForm.layout` chooses for H.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trt_int8.errors import PluginError
from trt_int8.plugins.float32 import (
    FloatArray,
    HalfArray,
    Int8Array,
    fused_multiply_add,
    to_half,
    to_int8,
)
from trt_int8.plugins.layernorm import WARP, LayerNormForm, LayerNormScalars, RowLayout
from trt_int8.plugins.scales import inverse_scale

_ONE: Final = np.float32(1.0)
_HALF: Final = np.float32(0.5)


@dataclass(frozen=True)
class LayerNormTensors:
    """What a node reads.

    Attributes:
        x: float16 or int8 [rows, H].
        gamma: float16 [H].
        bias: float16 [H], or None.
        residual: float16 or int8 [rows, H], or None.
        beta: float16 [H]; None for RMSNorm.
    """

    x: NDArray[np.float16] | Int8Array
    gamma: HalfArray
    bias: HalfArray | None = None
    residual: NDArray[np.float16] | Int8Array | None = None
    beta: HalfArray | None = None


@dataclass(frozen=True)
class LayerNormResults:
    """What a node writes.

    Attributes:
        y: int8 [rows, H].
        y_half: the normalised rows, float16 [rows, H]; None where the form has no such output.
        sum: x + bias + residual, float16 [rows, H]; None likewise.
    """

    y: Int8Array
    y_half: HalfArray | None
    sum: HalfArray | None


def skip_layernorm_quant(
    form: LayerNormForm, scalars: LayerNormScalars, tensors: LayerNormTensors
) -> LayerNormResults:
    """What the kernel writes, with the same bits.

    Raises:
        PluginError: a tensor's type or shape is not what the form says.
    """
    _check(form, tensors)
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        summed = _summed(scalars, tensors)
        normalise = _rms if form.rms else _layer
        normalised = _affine(normalise(form, scalars, summed), tensors)
        steps = normalised * np.float32(inverse_scale(scalars.output_scale))
    return LayerNormResults(
        y=to_int8(steps),
        y_half=to_half(normalised) if form.half else None,
        sum=to_half(summed) if form.sum else None,
    )


def inverse_square_root(v: FloatArray) -> FloatArray:
    """1 / sqrt(v) as the kernel computes it: NaN for NaN and Inf, relative error at most 2e-7.

    A guess from the bits, then three steps of Newton's method (`inverse_square_root` of the .cu).
    """
    y: FloatArray = (np.int32(0x5F3759DF) - (v.view(np.int32) >> 1)).view(np.float32)
    half_v = _HALF * v
    for _ in range(3):
        y = y * fused_multiply_add(-(half_v * y), y, np.float32(1.5))
    return np.where(np.isfinite(v), y, np.float32(np.nan))


def _summed(scalars: LayerNormScalars, tensors: LayerNormTensors) -> FloatArray:
    """The sum of x, bias and residual, float32 [rows, H]: bias first, one rounding per tensor."""
    bias = None if tensors.bias is None else tensors.bias.astype(np.float32)
    summed = _plus(bias, tensors.x, scalars.x_scale)
    if tensors.residual is None:
        return summed
    return _plus(summed, tensors.residual, scalars.residual_scale)


def _plus(
    addend: FloatArray | None, tensor: NDArray[np.float16] | Int8Array, scale: float
) -> FloatArray:
    values: FloatArray = tensor.astype(np.float32)
    if tensor.dtype == np.int8:
        step = np.float32(scale)
        return values * step if addend is None else fused_multiply_add(values, step, addend)
    return values if addend is None else values + addend


def _rms(form: LayerNormForm, scalars: LayerNormScalars, summed: FloatArray) -> FloatArray:
    parts = _split(form, summed)
    squares = _row_sum(form.layout, parts, lambda total, s: fused_multiply_add(s, s, total))
    mean = fused_multiply_add(squares, _ONE / np.float32(form.hidden), np.float32(scalars.epsilon))
    return summed * inverse_square_root(mean)


def _layer(form: LayerNormForm, scalars: LayerNormScalars, summed: FloatArray) -> FloatArray:
    layout, inverse_hidden = form.layout, _ONE / np.float32(form.hidden)
    mean = _row_sum(layout, _split(form, summed), np.add) * inverse_hidden
    centred = summed - mean
    parts = _split(form, centred)
    rests = _row_sum(layout, parts, np.add)
    squares = _row_sum(layout, parts, lambda total, d: fused_multiply_add(d, d, total))
    rest = rests * inverse_hidden
    variance = fused_multiply_add(-rests, rest, squares) * inverse_hidden
    # fmax takes the number where the other is NaN, as PTX max does; `centred` keeps the NaN.
    factor = inverse_square_root(np.fmax(variance, np.float32(0)) + np.float32(scalars.epsilon))
    return fused_multiply_add(centred, factor, -rest * factor)


def _affine(normalised: FloatArray, tensors: LayerNormTensors) -> FloatArray:
    gamma = tensors.gamma.astype(np.float32)
    if tensors.beta is None:
        return normalised * gamma
    return fused_multiply_add(normalised, gamma, tensors.beta.astype(np.float32))


def _split(form: LayerNormForm, rows: FloatArray) -> FloatArray:
    """[rows, H] -> [rows, vectors, lanes, width], zeros beyond H."""
    layout = form.layout
    size = layout.vectors * layout.lanes * layout.width
    padded = np.pad(rows, ((0, 0), (0, size - form.hidden)))
    return padded.reshape(-1, layout.vectors, layout.lanes, layout.width)


def _row_sum(
    layout: RowLayout,
    parts: FloatArray,
    accumulate: Callable[[FloatArray, FloatArray], FloatArray],
) -> FloatArray:
    """Sum of a row in the kernel's order: [rows, vectors, lanes, width] -> [rows, 1]."""
    count = min(layout.width, 4)
    chains = [np.zeros((parts.shape[0], layout.lanes), np.float32) for _ in range(count)]
    for vector in range(layout.vectors):
        for i in range(layout.width):
            chains[i % count] = accumulate(chains[i % count], parts[:, vector, :, i])
    while len(chains) > 1:
        chains = [a + b for a, b in zip(chains[::2], chains[1::2], strict=True)]
    lanes = min(layout.lanes, WARP)
    sums = chains[0].reshape(parts.shape[0], -1, lanes)  # [rows, warps, lanes]
    distance = lanes // 2
    while distance:
        sums = sums + sums[:, :, np.arange(lanes) ^ distance]
        distance //= 2
    total = sums[:, 0, :1]
    for warp in range(1, sums.shape[1]):
        total = total + sums[:, warp, :1]
    return total


def _check(form: LayerNormForm, tensors: LayerNormTensors) -> None:
    rows = tensors.x.shape[0] if tensors.x.ndim == 2 else 0
    wanted: dict[str, tuple[str | None, tuple[int, ...]]] = {
        "x": (form.x, (rows, form.hidden)),
        "bias": ("float16" if form.bias else None, (form.hidden,)),
        "residual": (form.residual, (rows, form.hidden)),
        "gamma": ("float16", (form.hidden,)),
        "beta": (None if form.rms else "float16", (form.hidden,)),
    }
    for name, (kind, shape) in wanted.items():
        tensor = getattr(tensors, name)
        came = None if tensor is None else (str(tensor.dtype), tensor.shape)
        if came != (None if kind is None else (kind, shape)):
            raise PluginError(
                f"SkipLayerNormQuant got {name} = {came or 'nothing'}",
                wanted="nothing" if kind is None else f"{kind} {list(shape)}",
                todo="give the tensors that the form names",
            )
