"""The three KL threshold modes of Bhandare et al. 2019.

"Efficient 8-Bit Quantization of Transformer Neural Machine Language Translation Model", arXiv
1906.00532. All run the search of `kl.best_bin`: once on |x|, or on each side of zero alone. Bin 0
of a histogram holds small values of both signs, but the search never reads it.
"""

from __future__ import annotations

from trt_int8.calibrate.estimate.kept import kept_histogram
from trt_int8.calibrate.estimate.kl import (
    SearchOptions,
    Ties,
    amax_entropy,
    best_bin,
    without_empty_end,
)
from trt_int8.calibrate.histogram import Counts
from trt_int8.calibrate.statistics import TensorStatistics
from trt_int8.spec.ranges import AffineRange


def kl_symmetric(
    statistics: TensorStatistics, stride: int = 1, start: int = 128, ties: Ties = "largest"
) -> float:
    """The threshold of one search on |x|: the mode that the paper ships, for its zero point is 0.

    Args:
        statistics: of the tensor, with a histogram.
        stride: as in `kl.SearchOptions`.
        start: as in `kl.SearchOptions`.
        ties: as in `kl.SearchOptions`.

    Returns:
        amax in tensor units; 0 if all values are 0.
    """
    return amax_entropy(statistics, stride, start, ties)


def kl_conjugate(
    statistics: TensorStatistics, stride: int = 1, start: int = 128, ties: Ties = "largest"
) -> float:
    """The larger threshold of two searches, one per side; the zero point is 0.

    Args:
        statistics: of the tensor, with a histogram.
        stride: as in `kl.SearchOptions`.
        start: as in `kl.SearchOptions`.
        ties: as in `kl.SearchOptions`.

    Returns:
        amax in tensor units; 0 if all values are 0.
    """
    both = kl_independent(statistics, stride, start, ties)
    return max(-both.low, both.high)


def kl_independent(
    statistics: TensorStatistics, stride: int = 1, start: int = 128, ties: Ties = "largest"
) -> AffineRange:
    """The thresholds of two searches, one per side, so a zero point other than 0.

    TensorRT and TensorRT-RTX refuse such a zero point; OpenVINO and ONNX Runtime take it.

    Args:
        statistics: of the tensor, with a histogram.
        stride: as in `kl.SearchOptions`.
        start: as in `kl.SearchOptions`.
        ties: as in `kl.SearchOptions`.

    Returns:
        low <= 0 <= high in tensor units. A side that reaches no farther than bin 0 keeps its exact
        end, which is 0 for a side without values.
    """
    histogram, options = kept_histogram(statistics), SearchOptions(stride, start, ties)

    def threshold(counts: Counts, end: float) -> float:
        return min(best_bin(without_empty_end(counts), options) * histogram.width, end)

    low = threshold(histogram.negative(), max(-statistics.low, 0.0))
    high = threshold(histogram.positive(), max(statistics.high, 0.0))
    return AffineRange(low=0.0 - low, high=high)  # a unary minus would make -0.0 of 0.0
