"""The INT8 contract in NumPy. ONNX and CUDA code must match it bit for bit.

Symmetric signed INT8: zero point 0, `scale = amax / 127`, round half to even, saturate to
[-128, 127] (NVIDIA TensorRT, "Explicit quantization"). ONNX QuantizeLinear divides by the scale as
we do; `torch.fake_quantize` multiplies by 1 / scale, so it may differ by one code where x / scale
is within rounding error of a tie (k + 0.5), and nowhere else.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trt_int8.errors import RangeError, ShapeError

QMAX = 127
QMIN = -128

FloatArray = NDArray[np.float32]
Int8Array = NDArray[np.int8]


def scale_of(amax: FloatArray | float) -> FloatArray:
    """Real value of one INT8 step.

    Args:
        amax: largest |x| to represent, in tensor units; float32, shape [] or [C].

    Returns:
        amax / 127, float32, same shape.

    Raises:
        RangeError: some amax is zero, negative, NaN, Inf, or so small that its scale is 0 in
            float32; the message names the channels.
    """
    values = np.asarray(amax, dtype=np.float32)
    scale = (values / np.float32(QMAX)).astype(np.float32)
    bad = ~(np.isfinite(scale) & (scale > 0))
    if bad.any():
        where = np.flatnonzero(bad.reshape(-1))[:8].tolist()
        raise RangeError(
            f"amax is {values.reshape(-1)[where[0]]} in channels {where} of {values.size}",
            wanted="finite values > 0 and above 1e-43",
            todo="add calibration data, or leave this tensor out of the recipe",
        )
    return scale


def channel_amax(weight: FloatArray, axis: int) -> FloatArray:
    """Largest |w| per output channel of a weight matrix.

    A channel of zeros gets the smallest amax of the others (1 if all are zero): its codes are 0 in
    any case, and no scale may be 0.

    Args:
        weight: float32 [K, N] or [N, K].
        axis: where N is.

    Returns:
        float32 [N], all > 0.
    """
    amax: FloatArray = np.abs(weight).max(axis=1 - axis).astype(np.float32)
    positive = amax[amax > 0]
    fill = positive.min() if positive.size else np.float32(1.0)
    return np.where(amax > 0, amax, fill).astype(np.float32)


def _along_axis(scale: FloatArray, ndim: int, axis: int | None) -> FloatArray:
    if scale.ndim == 0 or axis is None:
        return scale.reshape(())
    shape = [1] * ndim
    shape[axis] = scale.size
    return scale.reshape(shape)


def quantize(x: FloatArray, scale: FloatArray, axis: int | None = None) -> Int8Array:
    """Map real values to INT8 codes: clip(rint(x / scale), -128, 127).

    Args:
        x: float32, any shape, no NaN.
        scale: float32, shape [] or [C], all > 0.
        axis: the axis of `x` that `scale` runs along; None for one scale.

    Returns:
        int8 codes, same shape as `x`.
    """
    divided = x.astype(np.float32) / _along_axis(scale, x.ndim, axis)
    codes: Int8Array = np.clip(np.rint(divided), QMIN, QMAX).astype(np.int8)
    return codes


def dequantize(codes: Int8Array, scale: FloatArray, axis: int | None = None) -> FloatArray:
    """Map INT8 codes back to real values: codes * scale, float32, same shape."""
    values = codes.astype(np.float32) * _along_axis(scale, codes.ndim, axis)
    return values.astype(np.float32)


def sqnr_db(reference: FloatArray, measured: FloatArray) -> float:
    """Signal to quantization noise ratio, in dB: 10 log10(sum ref^2 / sum (ref - measured)^2).

    Returns:
        +inf for equal arrays, -inf for a zero reference with noise.

    Raises:
        ShapeError: the arrays differ in shape.
    """
    _check_same_shape(reference, measured)
    ref = reference.astype(np.float64).reshape(-1)
    noise = float(np.sum((ref - measured.astype(np.float64).reshape(-1)) ** 2))
    signal = float(np.sum(ref**2))
    if noise == 0.0:
        return float("inf")
    if signal == 0.0:
        return float("-inf")
    return float(10.0 * (np.log10(signal) - np.log10(noise)))


def cosine(reference: FloatArray, measured: FloatArray) -> float:
    """Cosine of the angle between two arrays seen as vectors, in [-1, 1]; 1 if both are zero.

    NaN if a value is NaN or infinite.

    Raises:
        ShapeError: the arrays differ in shape.
    """
    _check_same_shape(reference, measured)
    ref = reference.astype(np.float64).reshape(-1)
    other = measured.astype(np.float64).reshape(-1)
    norms = float(np.linalg.norm(ref) * np.linalg.norm(other))
    if norms == 0.0:
        return 1.0 if not ref.any() and not other.any() else 0.0
    if not np.isfinite(norms):
        return float("nan")
    return float(np.clip(ref @ other / norms, -1.0, 1.0))


def _check_same_shape(reference: FloatArray, measured: FloatArray) -> None:
    if reference.shape != measured.shape:
        raise ShapeError(
            f"an array of shape {measured.shape} is compared with one of {reference.shape}",
            wanted="equal shapes",
            todo="compare outputs of the same name for the same inputs",
        )
