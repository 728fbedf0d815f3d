"""An exact histogram of one tensor, in constant memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BITS = 12
BINS = 1 << BITS
# Smallest exponent whose power of two, and its inverse, are normal float32 numbers (IEEE 754).
MIN_EXPONENT = -126
# Values counted at a time: the buffers of one piece stay in a core's L2 cache.
_PIECE = 1 << 18

Counts = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of a tensor's values in equal bins of both signs.

    `counts[BINS - 1 + k]` holds the values with k * width <= x < (k + 1) * width for k > 0, their
    mirror image for k < 0, and all |x| < width for k = 0. The width is the smallest power of two
    with which the largest |x| fits: 2,048 to 4,096 bins lie below it. Dividing by a power of two
    and merging 2^k neighbours are exact, so the counts, and with them every result, are the same
    bit for bit however the values are ordered, split into batches or shared out to machines.

    Attributes:
        exponent: the width is 2 ** exponent.
        counts: int64 [2 * BINS - 1].
    """

    exponent: int
    counts: Counts

    @property
    def width(self) -> float:
        """Width of a bin, in tensor units."""
        return math.ldexp(1.0, self.exponent)

    def magnitudes(self) -> Counts:
        """Counts of |x|, int64 [BINS]: bin i holds i * width <= |x| < (i + 1) * width."""
        both = self.positive() + self.negative()
        both[0] = self.counts[BINS - 1]
        return both

    def positive(self) -> Counts:
        """Counts of x >= 0, int64 [BINS]; bin 0 holds all |x| < width."""
        return self.counts[BINS - 1 :].copy()

    def negative(self) -> Counts:
        """Counts of -x for x <= 0, int64 [BINS]; bin 0 holds all |x| < width."""
        return self.counts[BINS - 1 :: -1].copy()

    def without_zeros(self, zeros: int) -> Histogram:
        """The histogram of the other values, where so many of those counted are 0."""
        counts = self.counts.copy()
        counts[BINS - 1] -= zeros
        return Histogram(self.exponent, counts)

    def merge(self, other: Histogram) -> Histogram:
        """The histogram of the values of both; equal to that of one run over both."""
        exponent = max(self.exponent, other.exponent)
        counts = _widened(self, exponent) + _widened(other, exponent)
        return Histogram(exponent, counts)


def exponent_for(peak: float) -> int:
    """That of the smallest width with which `peak`, the largest |x|, fits."""
    # frexp gives the smallest e with peak < 2 ** e; of 0 it gives 0, where any width would do.
    return max(MIN_EXPONENT, math.frexp(peak)[1] - BITS) if peak else MIN_EXPONENT


def histogram_of(values: Tensor, peak: float, exponent: int = MIN_EXPONENT) -> Histogram:
    """Count values.

    Args:
        values: float32, any shape, finite.
        peak: their largest |x|.
        exponent: of the smallest width to count with.
    """
    exponent = max(exponent, exponent_for(peak))
    flat, factor = values.reshape(-1), 2.0**-exponent
    counts = np.zeros(2 * BINS - 1, dtype=np.int64)
    size = min(flat.numel(), _PIECE)
    scaled = torch.empty(size, dtype=torch.float32, device=flat.device)
    bins = torch.empty(size, dtype=torch.int16, device=flat.device)
    for piece in flat.split(_PIECE) if size else ():
        part, some = scaled[: piece.numel()], bins[: piece.numel()]
        torch.mul(piece, factor, out=part)
        # Conversion cuts towards zero, so both signs have bins of one width. The offset is added
        # after it: before it, the sum would be rounded. int16 halves the traffic of bincount,
        # which is exact (int64) and 2 to 3 times as fast as histc or np.histogram.
        some.copy_(part).add_(BINS - 1)
        counts += torch.bincount(some, minlength=2 * BINS - 1).cpu().numpy()
    return Histogram(exponent, counts)


def _widened(histogram: Histogram, exponent: int) -> Counts:
    """Its counts with bins of width 2 ** exponent, which is at least its own."""
    step = min(exponent - histogram.exponent, BITS)
    if step == 0:
        return histogram.counts
    middle = histogram.counts[BINS - 1]
    sides = []
    for side in (histogram.negative(), histogram.positive()):
        side[0] = 0
        wide = np.zeros(BINS, dtype=np.int64)
        wide[: BINS >> step] = side.reshape(-1, 1 << step).sum(axis=1)
        sides.append(wide)
    merged = np.concatenate([sides[0][:0:-1], [0], sides[1][1:]])
    merged[BINS - 1] = middle + sides[0][0] + sides[1][0]
    return merged
