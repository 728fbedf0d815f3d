"""Range estimators that need no search: extremes, percentiles and analytic clipping."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from trt_int8.calibrate.estimate.kept import kept_histogram
from trt_int8.calibrate.histogram import BINS
from trt_int8.calibrate.statistics import TensorStatistics

# Clipping values for 8 bits that make the mean squared error of R. Banner, Y. Nahshan, D. Soudry,
# "Post training 4-bit quantization of convolutional networks for rapid-deployment", 2019, least.
# With clipping at a and 2^8 steps of 2a / 2^8, the noise of rounding is a^2 / (3 * 4^8) and
#   Gauss, sigma = 1: mse(a) = (a^2 + 1) erfc(a / sqrt 2) - a sqrt(2 / pi) e^(-a^2 / 2) + rounding
#   Laplace, b = 1:   mse(a) = 2 e^(-a) + rounding, least where a e^a = 3 * 4^8.
# No elementary function gives the two minima; they are found to all digits in the tests.
GAUSS_CLIPPING = 3.924035489880782
LAPLACE_CLIPPING = 9.896759770017528


def amax_max(statistics: TensorStatistics) -> float:
    """The largest |x|: nothing is clipped."""
    return statistics.peak


def amax_moving_average(statistics: TensorStatistics, m: float) -> float:
    """Exponential moving average of the batches' largest |x|.

    The first batch sets it; each later one makes it m * average + (1 - m) * its largest |x|
    (I-BERT, S. Kim et al. 2021; `MovingAverageMinMaxObserver` of PyTorch). The order is that of
    the batch numbers in the data set, so sharing the batches out does not change the result.

    Args:
        statistics: of the tensor.
        m: the momentum, in [0, 1).

    Returns:
        At most the largest |x|; 0 if every batch that counts holds zeros only.
    """
    average: float | None = None
    for _, (low, high) in sorted(statistics.batches.items()):
        largest = max(-low, high)
        average = largest if average is None else m * average + (1 - m) * largest
    # The average of equal numbers may be rounded up.
    return min(statistics.peak if average is None else average, statistics.peak)


def amax_percentile(statistics: TensorStatistics, p: float) -> float:
    """Bound of p % of all |x|.

    The right edge of the first bin at which the bins hold p % of the values, but no more than the
    largest |x|; so at least p % of all |x| are <= amax, and p = 100 clips nothing.

    Args:
        statistics: of the tensor, with a histogram.
        p: in (0, 100].
    """
    histogram = kept_histogram(statistics)
    # The decimal number the user wrote, not its float: 99.9 % of 1,000 is 999.
    needed = math.ceil(Fraction(repr(p)) * statistics.count / 100)
    first = int(np.searchsorted(np.cumsum(histogram.magnitudes()), needed))
    return min(statistics.peak, (first + 1) * histogram.width)


def amax_aciq_gauss(statistics: TensorStatistics) -> float:
    """ACIQ for a normal distribution: GAUSS_CLIPPING * sigma, at most the largest |x|.

    Our zero point is 0, so sigma^2 is the mean of x^2, not of (x - mean)^2. Inside a bin the
    values count as spread evenly.

    Args:
        statistics: of the tensor, with a histogram.
    """
    histogram = kept_histogram(statistics)
    bins = np.arange(BINS)
    squares = bins * (bins + 1) + 1 / 3  # mean of x^2 over [k, k + 1)
    sigma = math.sqrt(float((histogram.magnitudes() * squares).sum()) / statistics.count)
    return min(statistics.peak, GAUSS_CLIPPING * sigma * histogram.width)


def amax_aciq_laplace(statistics: TensorStatistics) -> float:
    """ACIQ for a Laplace distribution: LAPLACE_CLIPPING * b, at most the largest |x|.

    b is the mean of |x| (its maximum-likelihood estimate around the zero point 0). Inside a bin
    the values count as spread evenly.

    Args:
        statistics: of the tensor, with a histogram.
    """
    histogram = kept_histogram(statistics)
    b = float((histogram.magnitudes() * (np.arange(BINS) + 0.5)).sum()) / statistics.count
    return min(statistics.peak, LAPLACE_CLIPPING * b * histogram.width)
