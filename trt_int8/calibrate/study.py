"""From the statistics of a tensor to what people look at: outliers, clipping, noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from trt_int8.calibrate.estimate.affine import affine_noise
from trt_int8.calibrate.estimate.kept import kept_histogram
from trt_int8.calibrate.estimate.mse import sqnr_db
from trt_int8.calibrate.histogram import BINS
from trt_int8.calibrate.statistics import TensorStatistics
from trt_int8.spec.methods import Method
from trt_int8.spec.ranges import AffineRange, TensorRange
from trt_int8.spec.study import (
    CoarseHistogram,
    MethodResult,
    OutlierChannel,
    TensorStudy,
    TensorThreshold,
)

# Values beyond this many standard deviations from the mean are outliers (Y. Bondarenko, M. Nagel,
# T. Blankevoort, "Understanding and Overcoming the Challenges of Efficient Transformer
# Quantization", 2021).
OUTLIER_SIGMAS = 6.0
# An outlier channel also leaves the median channel less than a quarter of the codes, 2 of its 8
# bits, if the range holds it. Without this rule a heavy-tailed tensor, such as the output of GELU,
# would flag half of its channels, each with a few values beyond 6 standard deviations.
OUTLIER_RATIO = 4.0
# A LayerNorm computed in float16 (largest number 65504) overflows in its sums and squares long
# before its inputs do; a factor of 8 is the margin that field reports on TensorRT suggest.
FP16_MARGIN_PEAK = 65504 / 8
# One picture shows no more bins than this.
DRAWN_BINS = 256

Floats = NDArray[np.float64]


def study_tensor(
    name: str, statistics: TensorStatistics, ranges: Mapping[str, TensorRange | AffineRange]
) -> TensorStudy:
    """Everything the study shows of one tensor.

    Args:
        name: the tensor.
        statistics: of it, with a histogram.
        ranges: by label of the method.
    """
    thresholds = []
    for method, chosen in ranges.items():
        if isinstance(chosen, AffineRange):
            low, high, sqnr = chosen.low, chosen.high, affine_sqnr_db(statistics, chosen)
        else:
            low, high, sqnr = -chosen.amax, chosen.amax, sqnr_db(statistics, chosen.amax)
        share = clipped_share(statistics, low, high)
        thresholds.append(
            TensorThreshold(method=method, low=low, high=high, sqnr_db=sqnr, clipped_share=share)
        )
    return TensorStudy(
        name=name,
        count=statistics.count,
        low=statistics.low,
        high=statistics.high,
        histogram=coarse_histogram(statistics, DRAWN_BINS),
        channels=0 if statistics.channels is None else statistics.channels.shape[1],
        outlier_channels=outlier_channels(statistics),
        near_fp16_overflow=near_fp16_overflow(statistics),
        thresholds=tuple(thresholds),
    )


def method_result(
    method: Method, tensors: Sequence[TensorStudy], seconds: float, failure: str | None = None
) -> MethodResult:
    """Sum up a method; its output is not measured yet.

    Args:
        method: the method.
        tensors: at least one; each holds the method's threshold, unless it failed.
        seconds: time to find the ranges.
        failure: why the method gave no ranges.
    """
    found = [tensor.of(method.label) for tensor in tensors] if failure is None else []
    chosen = [threshold for threshold in found if threshold is not None]
    decibels = [threshold.sqnr_db for threshold in chosen]
    return MethodResult(
        method=method.label,
        about=method.kind.about,
        symmetric=method.kind.symmetric,
        seconds=seconds,
        mean_sqnr_db=fmean(decibels) if decibels else None,
        min_sqnr_db=min(decibels, default=None),
        clipped_tensors=sum(threshold.clipped_share > 0 for threshold in chosen),
        failure=failure,
    )


def outlier_channels(statistics: TensorStatistics) -> tuple[OutlierChannel, ...]:
    """Channels with values far beyond those of the others, largest peak first.

    A channel counts if its values reach beyond `OUTLIER_SIGMAS` standard deviations from the
    tensor's mean, and its largest |x| exceeds `OUTLIER_RATIO` times that of the median channel
    (channels of zeros left out). Mean and deviation are those of the histogram's bin centres.
    """
    if statistics.channels is None or statistics.peak == 0:
        return ()
    lower, upper, counts = _bins(statistics)
    centres = (lower + upper) / 2
    mean = float(counts @ centres) / statistics.count
    sigma = float(np.sqrt(counts @ (centres - mean) ** 2 / statistics.count))
    low, high = statistics.channels.astype(np.float64)
    peaks, distances = np.maximum(-low, high), np.maximum(high - mean, mean - low)
    median = np.median(peaks[peaks > 0])
    far = (distances > OUTLIER_SIGMAS * sigma) & (peaks > OUTLIER_RATIO * median)
    return tuple(
        OutlierChannel(channel=int(c), peak=peaks[c], sigmas=distances[c] / sigma)
        for c in sorted(np.flatnonzero(far), key=lambda c: -peaks[c])
    )


def near_fp16_overflow(statistics: TensorStatistics) -> bool:
    """Whether the largest |x| exceeds an eighth of the largest float16 number."""
    return statistics.peak > FP16_MARGIN_PEAK


def coarse_histogram(statistics: TensorStatistics, bins: int) -> CoarseHistogram:
    """Merge neighbouring bins, exactly, to at most `bins` that hold all values."""
    histogram = kept_histogram(statistics)
    numbers = np.flatnonzero(histogram.counts) - (BINS - 1)
    counts = histogram.counts[numbers + BINS - 1]
    span = int(numbers[-1] - numbers[0]) + 1
    factor = max(1, span // bins)
    # Cut towards zero: the bin around zero is the only one that grows on both sides.
    while (merged := _towards_zero(numbers, factor))[-1] - merged[0] >= bins:
        factor += 1
    coarse = np.zeros(merged[-1] - merged[0] + 1, dtype=np.int64)
    np.add.at(coarse, merged - merged[0], counts)
    return CoarseHistogram(
        width=factor * histogram.width, first=int(merged[0]), counts=tuple(coarse.tolist())
    )


def clipped_share(statistics: TensorStatistics, low: float, high: float) -> float:
    """Share of the values below `low` or above `high`, 0 to 1.

    A bin that an end of the range cuts counts by the part beyond it, as if its values were spread
    evenly; so the share is off by at most the two bins cut, and is 0 if nothing is clipped.
    """
    lower, upper, counts = _bins(statistics)
    widths = upper - lower
    beyond = np.clip(upper - high, 0, widths) + np.clip(low - lower, 0, widths)
    single = (lower < low) | (lower > high)  # of a bin whose values are all equal
    share = np.divide(beyond, widths, out=single.astype(np.float64), where=widths > 0)
    return float(counts @ share) / statistics.count


def affine_sqnr_db(statistics: TensorStatistics, chosen: AffineRange) -> float:
    """SQNR of affine quantization to the codes 0 to 255, in dB.

    10 log10(mean x^2 / mean squared error); values count as spread evenly over their bin.
    """
    lower, upper, counts = _bins(statistics)
    squares = (lower * lower + lower * upper + upper * upper) / 3  # mean of x^2 over a bin
    signal = float(counts @ squares) / statistics.count
    return 10 * math.log10(signal / affine_noise(kept_histogram(statistics), chosen))


def _bins(statistics: TensorStatistics) -> tuple[Floats, Floats, Floats]:
    """Lower ends, upper ends and counts of the bins that hold values.

    No bin reaches further than the smallest and the largest value.
    """
    histogram = kept_histogram(statistics)
    occupied = np.flatnonzero(histogram.counts)
    numbers = occupied - (BINS - 1)
    lower = np.where(numbers > 0, numbers, numbers - 1) * histogram.width
    upper = np.where(numbers < 0, numbers, numbers + 1) * histogram.width
    return (
        np.maximum(lower, statistics.low),
        np.minimum(upper, statistics.high),
        histogram.counts[occupied].astype(np.float64),
    )


def _towards_zero(numbers: NDArray[np.int64], factor: int) -> NDArray[np.int64]:
    merged: NDArray[np.int64] = np.sign(numbers) * (np.abs(numbers) // factor)
    return merged
