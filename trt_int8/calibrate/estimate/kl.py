"""KL divergence ("entropy") threshold search over a histogram, all candidates at once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import entropy

from trt_int8.calibrate.estimate.kept import kept_histogram
from trt_int8.calibrate.histogram import Counts
from trt_int8.calibrate.statistics import TensorStatistics
from trt_int8.errors import RecipeError

Array = NDArray[np.float64]
Integers = NDArray[np.integer[Any]]
Ties = Literal["largest", "smallest"]

# Magnitudes of INT8, its sign left out (Migacz 2017).
_LEVELS = 128
# Candidates at a time: arrays of _BLOCK x (levels + 1) numbers stay in a core's L2 cache.
_BLOCK = 128


@dataclass(frozen=True)
class SearchOptions:
    """Which candidates to try, and how to choose among them.

    Attributes:
        stride: distance of two candidates, in bins.
        start: the smallest candidate, in bins.
        ties: which of several equally good candidates wins.
        compat: "pytorch-quantization" chooses as that package does where a divergence is not
            finite; see `best_bin`.
        levels: number of quantized magnitudes, 256 for unsigned INT8; a power of two.

    Raises:
        RecipeError: stride or start is below 1.
    """

    stride: int = 1
    start: int = _LEVELS
    ties: Ties = "largest"
    compat: Literal["", "pytorch-quantization"] = ""
    levels: int = _LEVELS

    def __post_init__(self) -> None:
        if self.stride < 1 or self.start < 1:
            raise RecipeError(
                f"the entropy search has stride {self.stride} and start {self.start}",
                wanted="both at least 1",
                todo="correct them",
            )


def amax_entropy(
    statistics: TensorStatistics, stride: int = 1, start: int = _LEVELS, ties: Ties = "largest"
) -> float:
    """The threshold that `best_bin` finds in the histogram of |x|, at most the peak.

    Args:
        statistics: of the tensor, with a histogram.
        stride: as in `SearchOptions`.
        start: as in `SearchOptions`.
        ties: as in `SearchOptions`.

    Returns:
        amax in tensor units; 0 if all values are 0.
    """
    histogram = kept_histogram(statistics)
    counts = without_empty_end(histogram.magnitudes())
    best = best_bin(counts, SearchOptions(stride, start, ties))
    return min(best * histogram.width, statistics.peak)


def without_empty_end(counts: Counts) -> Counts:
    """The counts up to the last bin that is not empty; at least one bin.

    A `Histogram` reaches up to a power of two; no bin above the peak should be a candidate.
    """
    return counts[: int(np.max(np.flatnonzero(counts), initial=0)) + 1]


def best_bin(counts: Integers, options: SearchOptions) -> int:
    """How many bins to keep: amax is this many times their width.

    The search of Migacz 2017 ("8-bit inference with TensorRT", as TPU-MLIR's manual retells it
    under "Calibration") in the form of pytorch-quantization 2.1.3 (`calib/histogram.py`). A
    candidate keeps the first i bins. Its reference distribution is their counts, the last one
    increased by all counts beyond. Its quantized distribution is their counts without those
    beyond, in `levels` groups of equal width; each group spreads its counts evenly over its bins
    that are not empty. The least KL(reference || quantized) wins, both sides normalized.

    - First of all bin 0 gets the count of bin 1, on a copy. It holds the zeros, of which a tensor
      may have very many: they are exact at every scale, and must not decide about it.
    - With fewer bins than levels a group has one bin at most, so only clipping costs. Where the
      bulk fills fewer than 128 bins and a few outliers are far above it, the usual start of 128
      finds nothing to clip; a lower one does.
    - If bin i - 1 is empty but values lie beyond, the divergence is infinite; if all bins kept are
      empty, it is 0 / 0; of a single bin it is 0, whatever the data. All three are rejected. If
      nothing is left, the full range is returned.

    With `compat` the last rule is replaced by what `np.argmin` does there: 0 / 0 wins over every
    number, a single bin may win, and if all are infinite one wins as ties do. Where there are
    fewer bins than `start`, which that package does not survive, the full range is returned too.

    Args:
        counts: integers [N], of |x| in bins of equal width from 0 up; fewer than 2^53 in all.
        options: of the search.

    Returns:
        1 to N: the winner that evaluating every candidate with `scipy.stats.entropy` gives, bit
        for bit, so ties that its rounding makes or breaks are the same.
    """
    changed = _second_for_first(counts)
    candidates, values = _divergences(changed, options)
    valid = np.isfinite(values)
    if options.compat:
        undefined = np.isnan(values)
        if undefined.any():
            return _winner(candidates[undefined], options.ties)
        if candidates.size and not valid.any():
            return _winner(candidates, options.ties)
    else:
        valid &= candidates > 1
    if not valid.any():
        return changed.size
    candidates, values = candidates[valid], values[valid]
    near = candidates[values <= values.min() + _rounding(changed)]
    exact = np.array([_divergence(changed, int(kept), options.levels) for kept in near])
    return _winner(near[exact == exact.min()], options.ties)


def divergences(counts: Integers, options: SearchOptions) -> tuple[Counts, Array]:
    """The divergence of every candidate of `best_bin`.

    Args:
        counts: as in `best_bin`.
        options: of the search.

    Returns:
        The candidates, int64 [K], and their divergences in nats, float64 [K]: infinity and NaN as
        told there, the others within about 1e-11 for a few thousand bins.
    """
    return _divergences(_second_for_first(counts), options)


def _second_for_first(counts: Integers) -> Counts:
    changed = counts.astype(np.int64)
    if changed.size > 1:
        changed[0] = changed[1]
    return changed


def _divergences(counts: Counts, options: SearchOptions) -> tuple[Counts, Array]:
    """By prefix sums: `levels` steps per candidate, whatever its number of bins.

    With h the counts, T their sum, C the sum of those kept, l the last bin kept, and H and n the
    counts and the bins that are not empty of one group, whose mean count is m = H / n:

        T D = sum h log h - h_l log h_l + (h_l + T - C) log(h_l + T - C)
              - sum H log m - (T - C) log m_l - T log(T / C)

    The first sum runs over the bins kept, the second one over the groups.
    """
    candidates = np.arange(options.start, counts.size + 1, options.stride)
    values = np.empty(candidates.size)
    mass, filled = _prefix_sums(counts), _prefix_sums(counts > 0)
    logs = _prefix_sums(_times_log(counts))
    for block in _blocks(candidates.size):
        kept = candidates[block]
        total, inside, last = mass[-1], mass[kept], counts[kept - 1]
        beyond = total - inside
        grouped, log_last = _groups(kept, mass, filled, options.levels)
        reference = logs[kept] - _times_log(last) + _times_log(last + beyond)
        with np.errstate(divide="ignore", invalid="ignore"):
            found = (reference - grouped - beyond * log_last) / total - np.log(total / inside)
        found[(last == 0) & (beyond > 0)] = np.inf
        found[inside == 0] = np.nan
        values[block] = found
    return candidates, values


def _groups(kept: Counts, mass: Array, filled: Array, levels: int) -> tuple[Array, Array]:
    """Sum of H log m over the groups of each candidate, and log m of its last bin; float64 [K]."""
    # Bin j is in group floor(j * levels / kept), so group k starts at bin ceil(k * kept / levels):
    # just where np.linspace(0, kept, levels + 1) has its borders, exact for a power of two.
    borders = (kept[:, None] * np.arange(levels + 1) + levels - 1) // levels
    sums, sizes = np.diff(mass[borders], axis=1), np.diff(filled[borders], axis=1)
    # A group that is not empty has a mean of 1 at least; an empty one gets log 1 = 0.
    log_means = np.log(np.maximum(sums / np.maximum(sizes, 1.0), 1.0))
    owner = (kept - 1) * levels // kept
    return np.einsum("kg,kg->k", sums, log_means), log_means[np.arange(kept.size), owner]


def _divergence(counts: Counts, kept: int, levels: int) -> float:
    """One divergence by the very operations of pytorch-quantization, so with its rounding."""
    part = counts[:kept]
    filled = part > 0
    groups = (np.arange(kept) * levels // kept)[filled]
    means = np.bincount(groups, part[filled])[groups] / np.bincount(groups)[groups]
    quantized = np.zeros(kept)
    quantized[filled] = means
    reference = part.copy()
    reference[-1] += counts[kept:].sum()
    return float(entropy(reference, quantized))


def _rounding(counts: Counts) -> float:
    """More than the errors of two values of `_divergences` together.

    A running sum of N numbers x errs by less than N eps sum |x| (Higham 2002, section 4.2); each
    of the sums here is at most T log T.
    """
    return float(8 * counts.size * sys.float_info.epsilon * (1 + np.log(counts.sum())))


def _winner(candidates: Counts, ties: Ties) -> int:
    return int(candidates[-1] if ties == "largest" else candidates[0])


def _prefix_sums(values: NDArray[Any]) -> Array:
    sums = np.zeros(values.size + 1)
    np.cumsum(values, out=sums[1:])
    return sums


def _times_log(counts: NDArray[Any]) -> Array:
    """Each h log h, 0 for h = 0."""
    result: Array = counts * np.log(np.maximum(counts, 1.0))
    return result


def _blocks(size: int) -> Iterator[slice]:
    return (slice(start, start + _BLOCK) for start in range(0, size, _BLOCK))
