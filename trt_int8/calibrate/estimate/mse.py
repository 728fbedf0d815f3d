"""Mean squared quantization error from a histogram, and the range that makes it least."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from trt_int8.calibrate.estimate.kept import kept_histogram
from trt_int8.calibrate.histogram import BINS, Counts, Histogram
from trt_int8.calibrate.statistics import TensorStatistics
from trt_int8.numerics import QMAX, QMIN

Array = NDArray[np.float64]

# Thresholds tried, as shares of the largest |x|: eighths of an octave down to 1/256 of it, then
# 64ths of an octave around the best.
_COARSE = np.exp2(-np.arange(0, 65) / 8)
_FINE = np.exp2(np.arange(-7, 8) / 64)


def amax_mse(statistics: TensorStatistics) -> float:
    """The threshold with the least mean squared error of the tensor.

    The error is `expected_noise`, searched from the largest |x| down to 1/256 of it.

    Args:
        statistics: of the tensor, with a histogram.
    """
    histogram = kept_histogram(statistics)
    best = statistics.peak
    for grid in (_COARSE, _FINE):
        tried = np.minimum(best * grid, statistics.peak)
        best = float(tried[np.argmin(_noises(histogram, tried))])
    return best


def expected_noise(histogram: Histogram, amax: float) -> float:
    """Mean of (Q(x) - x)^2, in squared tensor units.

    Q is the INT8 contract: scale amax / 127, rounding to the nearest code, codes -128 to 127. The
    values of a bin count as spread evenly over it, and those of the middle bin evenly over both
    signs.
    """
    return float(_noises(histogram, np.array([amax]))[0])


def sqnr_db(statistics: TensorStatistics, amax: float) -> float:
    """Signal to quantization noise ratio of a range: 10 log10(mean x^2 / mean (Q(x) - x)^2), in dB.

    Args:
        statistics: of the tensor, with a histogram.
        amax: any range > 0.
    """
    histogram = kept_histogram(statistics)
    edges = np.arange(BINS + 1.0)
    signal = float((np.diff(edges**3) / 3 * histogram.magnitudes()).sum()) / statistics.count
    noise = expected_noise(Histogram(0, histogram.counts), amax / histogram.width)
    return 10 * math.log10(signal / noise)


def grid_noise(histogram: Histogram, scale: Array, below: Array, above: Array) -> Array:
    """Mean squared error of rounding to each of several grids of equally spaced values.

    With n(x) = round(x / scale), cut off at the last code, the error integrated from 0 to x >= 0
    is F(x) = n scale^3 / 12 + (x - n scale)^3 / 3: every whole step gives scale^3 / 12. It holds
    beyond the last code as well, where n stays what it is. A bin from a to b gives
    (F(b) - F(a)) / (b - a) per value. Negative values are the mirror image.

    Args:
        histogram: of the values.
        scale: step of each grid, in tensor units; float64 [J], all > 0.
        below: number of steps of each grid below 0; [J].
        above: number of steps of each grid above 0; [J].

    Returns:
        float64 [J], in squared tensor units.
    """
    positive = _side_noise(histogram.positive(), scale / histogram.width, above)
    negative = _side_noise(histogram.negative(), scale / histogram.width, below)
    result: Array = (positive + negative) * (histogram.width**2 / histogram.counts.sum())
    return result


def _side_noise(counts: Counts, scale: Array, last: Array) -> Array:
    """Sum of the squared errors of one side, for bins of width 1; float64 [J]."""
    filled = int(np.max(np.flatnonzero(counts), initial=0)) + 1
    weights = counts[:filled].astype(np.float64)
    weights[0] /= 2  # the middle bin is in both sides
    edges, step = np.arange(filled + 1.0), scale[:, None]
    code = np.minimum(np.rint(edges / step), last[:, None])
    rest = edges - code * step
    integral = code * (step**3 / 12) + rest * rest * rest / 3
    result: Array = (np.diff(integral, axis=1) * weights).sum(axis=1)
    return result


def _noises(histogram: Histogram, amax: Array) -> Array:
    below, above = np.full(amax.shape, -float(QMIN)), np.full(amax.shape, float(QMAX))
    return grid_noise(histogram, amax / QMAX, below, above)
