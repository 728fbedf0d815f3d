"""SmoothQuant: how far to divide each channel of an activation (Xiao et al. 2023)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from trt_int8.calibrate.estimate.kept import kept_rows
from trt_int8.calibrate.estimate.rows import amax_output
from trt_int8.calibrate.row_sample import RowSample
from trt_int8.calibrate.statistics import TensorStatistics
from trt_int8.numerics import FloatArray, channel_amax, dequantize, quantize, scale_of

Factors = NDArray[np.float32]

# A channel below half an INT8 step of its tensor (1 / 254 of the largest) is all zeros without
# smoothing. It is taken for as large as that: what calibration saw of it is no measure of what
# comes later, and enlarging it without bound would clip it.
_LEAST = 1 / 254
# So a divided activation is at most this many times as large as it was: x_k / s_k is largest, over
# the largest x, where both x_k and w_k are, and the mean exponent is below -ln(_LEAST).
MOST_GROWTH = 254
# SmoothQuant's authors found the best alpha between 0.5 and 0.9, model by model.
_TRIED = (0.5, 0.6, 0.7, 0.8, 0.9)
# A Mul that leaves more of the error than this is not worth its place in the graph.
_WORTH = 0.95
# Rows and, evenly spaced, output channels to look at: they tell one alpha from another, no more.
_ROWS, _COLUMNS = 128, 64


def choose_factors(
    halves: tuple[TensorStatistics, TensorStatistics], weights: NDArray[np.float32]
) -> Factors | None:
    """The factors with the alpha that serves data best which had no part in finding them.

    Factors and range from one half of the data are tried on the rows of the other half, and the
    reverse. Smoothing makes all channels as large as the range, so those of a few texts are
    clipped in others, and no error on the texts themselves shows it. The error is that of
    `estimate.rows.amax_output`, of both operands in INT8. An activation without outliers is
    better left alone: its weights would get some.

    Args:
        halves: of the activation, each from a part of the data; with a sample of rows.
        weights: float32 [K, N], of all Linears that read it, side by side.

    Returns:
        float32 [K]; None if dividing it gains nothing.
    """
    peaks = [found for half in halves if (found := peaks_of(half, len(weights))) is not None]
    if len(peaks) < len(halves):
        return None
    chosen = weights[:, np.unique(np.linspace(0, weights.shape[1] - 1, _COLUMNS).astype(int))]
    pairs = (halves, halves[::-1])
    best, least = None, _WORTH * sum(_error(seen, new, chosen, None) for seen, new in pairs)
    for alpha in _TRIED:
        error = sum(_error(seen, new, chosen, alpha) for seen, new in pairs)
        if error < least:
            best, least = alpha, error
    return None if best is None else smoothing_factors(np.maximum(*peaks), weights, best)


def peaks_of(statistics: TensorStatistics, channels: int) -> NDArray[np.float32] | None:
    """Largest |x| of each channel, float32 [K]; None if it has other channels, or only zeros."""
    found = statistics.channels
    if found is None or found.shape[1] != channels or not statistics.peak > 0:
        return None
    peaks: NDArray[np.float32] = np.abs(found).max(axis=0)
    return peaks


def smoothing_factors(
    peaks: NDArray[np.float32], weights: NDArray[np.float32], alpha: float
) -> Factors:
    """What to divide the channels of an activation by, and multiply the rows of its weights by.

    s_k = max|X_k|^alpha / max|W_k|^(1 - alpha) (SmoothQuant, equation 4), over their geometric
    mean: one factor for all channels changes nothing in INT8, and so FP16 keeps its range. 1 / s_k
    is a float16 number, but for the rounding of s_k to float32, so that an FP16 engine multiplies
    by what the weights make up for.

    Args:
        peaks: float32 [K], largest |x| of each channel.
        weights: float32 [K, N], of all Linears that read it, side by side.
        alpha: share of the outliers that goes into the weights, 0 to 1.

    Returns:
        float32 [K], all finite and above 0; all 1 where weights or activation are all zeros, or a
        weight is infinite.
    """
    largest = np.abs(weights).max(axis=1)
    if not peaks.max() > 0 or not 0 < largest.max() < np.inf:
        return np.ones(len(peaks), np.float32)
    inputs = np.maximum(peaks / peaks.max(), _LEAST).astype(np.float64)
    outputs = np.maximum(largest / largest.max(), _LEAST).astype(np.float64)
    exponents = alpha * np.log(inputs) - (1 - alpha) * np.log(outputs)
    inverse = np.exp(exponents.mean() - exponents).astype(np.float16)
    factors: Factors = (1 / inverse.astype(np.float64)).astype(np.float32)
    return factors


def _error(
    seen: TensorStatistics, new: TensorStatistics, weights: FloatArray, alpha: float | None
) -> float:
    """Mean relative error of the outputs of new rows, with what was chosen by those seen."""
    peaks = peaks_of(seen, len(weights))
    assert peaks is not None
    factors = np.ones(len(weights), np.float32)
    if alpha is not None:
        factors = smoothing_factors(peaks, weights, alpha)
    peak, kept = float((peaks / factors).max()), kept_rows(seen)
    rows = RowSample.of(kept.keys[:_ROWS], kept.repeats[:_ROWS], kept.rows[:_ROWS] / factors)
    divided = replace(seen, low=-peak, high=peak, rows=rows, histogram=None)
    multiplied = weights * factors[:, np.newaxis]
    step = scale_of(amax_output(divided, multiplied))
    steps = scale_of(channel_amax(multiplied, axis=1))
    tried, repeats = kept_rows(new).rows[:_ROWS], kept_rows(new).repeats[:_ROWS]
    left = dequantize(quantize(tried / factors, step), step)
    right = dequantize(quantize(multiplied, steps, axis=1), steps, axis=1)
    wanted = tried @ weights
    signal = np.square(wanted, dtype=np.float64).sum(axis=1)
    noise = np.square(left @ right - wanted, dtype=np.float64).sum(axis=1)
    usable = signal > 0
    if not usable.any():
        return 0.0
    return float(np.average(noise[usable] / signal[usable], weights=repeats[usable]))
