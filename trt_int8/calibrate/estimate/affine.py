"""Asymmetric ranges, for the CPU and for comparison with the literature.

The quantizer is that of Y. Bondarenko, M. Nagel, T. Blankevoort, "Understanding and Overcoming
the Challenges of Efficient Transformer Quantization", 2021: scale (high - low) / 255, codes 0 to
255, and as the zero point the code nearest to -low / scale, so that 0.0 is represented exactly.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trt_int8.calibrate.estimate.kept import kept_histogram
from trt_int8.calibrate.estimate.mse import grid_noise
from trt_int8.calibrate.histogram import Histogram
from trt_int8.calibrate.statistics import TensorStatistics
from trt_int8.spec.ranges import AffineRange

STEPS = 255
# The upper end is at least this, so that no scale is 0 (quantizers.py of the paper's code).
SMALLEST_HIGH = 1e-8

# Shares of an end tried: half octaves down to 1/64 first; then 5 x 5 pairs around the best pair,
# with the distance halved from a quarter to a 32nd of an octave.
_COARSE = np.exp2(-np.arange(0, 13) / 2)
_DISTANCES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)


def affine_minmax(statistics: TensorStatistics) -> AffineRange:
    """From the smallest to the largest value; 0 is always inside."""
    return _range(statistics.low, statistics.high)


def affine_current(statistics: TensorStatistics) -> AffineRange:
    """From the smallest to the largest value of the last batch, by number; 0 is always inside."""
    return _range(*statistics.batches[max(statistics.batches)])


def affine_mse(statistics: TensorStatistics) -> AffineRange:
    """The pair of ends with the least mean squared error of the tensor.

    Both ends of the min-max range shrink independently, to about 1/64 of themselves: 169 pairs
    half an octave apart, then four times 25 closer ones around the best. Never worse than min-max.
    (The paper's code tries 100 widths, each shifted by up to 64 codes, on the values themselves.)

    Args:
        statistics: of the tensor, with a histogram.
    """
    histogram = kept_histogram(statistics)
    widest = affine_minmax(statistics)
    lows, highs = _pairs(widest.low * _COARSE, widest.high * _COARSE)
    low, high = _best(histogram, lows, highs)
    for distance in _DISTANCES:
        around = np.exp2(np.arange(-2, 3) * distance)
        lows, highs = _pairs(
            np.maximum(low * around, widest.low), np.minimum(high * around, widest.high)
        )
        low, high = _best(histogram, lows, highs)
    return AffineRange(low=low, high=high)


def affine_noise(histogram: Histogram, chosen: AffineRange) -> float:
    """Mean squared error of a range, in squared tensor units; bins as in `expected_noise`."""
    lows, highs = np.array([chosen.low]), np.array([chosen.high])
    return float(_noises(histogram, lows, highs)[0])


def _range(low: float, high: float) -> AffineRange:
    return AffineRange(low=min(low, 0.0), high=max(high, SMALLEST_HIGH))


def _pairs(
    lows: NDArray[np.float64], highs: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """All pairs of two lists, as two lists of equal length; equal ones of a list once."""
    low, high = np.meshgrid(np.unique(lows), np.unique(highs)[::-1], indexing="ij")
    return low.reshape(-1), high.reshape(-1)


def _best(
    histogram: Histogram, lows: NDArray[np.float64], highs: NDArray[np.float64]
) -> tuple[float, float]:
    """The pair with the least error; the widest of equal ones."""
    best = np.argmin(_noises(histogram, lows, highs))
    return float(lows[best]), float(highs[best])


def _noises(
    histogram: Histogram, lows: NDArray[np.float64], highs: NDArray[np.float64]
) -> NDArray[np.float64]:
    scale = (highs - lows) / STEPS
    # Codes below the zero point are the steps below 0.0, the others those above it.
    zero_point = np.clip(np.rint(-lows / scale), 0, STEPS)
    return grid_noise(histogram, scale, below=zero_point, above=STEPS - zero_point)
