"""The KL threshold search against pytorch-quantization and against published numbers."""

from __future__ import annotations

import tracemalloc
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pytorch_quantization.calib.histogram import _compute_amax_entropy
from scipy.stats import norm

from trt_int8.calibrate.estimate.kl import SearchOptions, Ties, amax_entropy, best_bin, divergences
from trt_int8.calibrate.histogram import BINS, Histogram
from trt_int8.calibrate.statistics import Needs, TensorStatistics, statistics_of
from trt_int8.calibrate.values import Values
from trt_int8.errors import RecipeError

Counts = NDArray[np.int64]
Compat = Literal["", "pytorch-quantization"]
COMPAT: Compat = "pytorch-quantization"
BOTH: list[Compat] = ["", COMPAT]


def pytorch_quantization(counts: Counts, stride: int = 1, start: int = 128, bits: int = 8) -> int:
    edges = np.arange(counts.size + 1.0)
    with np.errstate(all="ignore"):
        amax = _compute_amax_entropy(counts.copy(), edges, bits, False, stride, start)
    return int(amax)


def slow_divergence(counts: Counts, kept: int) -> float:
    """The formula, bin by bin; bin 0 is already as it should be."""
    groups: dict[int, list[int]] = {}
    for j in range(kept):
        if counts[j]:
            groups.setdefault(j * 128 // kept, []).append(j)
    inside = counts[:kept].sum()
    if inside == 0:
        return np.nan
    p, q = counts[:kept] / counts.sum(), np.zeros(kept)
    p[-1] += counts[kept:].sum() / counts.sum()
    for members in groups.values():
        q[members] = counts[members].mean() / inside
    if p[-1] > 0 and q[-1] == 0:
        return np.inf
    used = p > 0
    return float(np.sum(p[used] * np.log(p[used] / q[used])))


def half_normal(top: float) -> Counts:
    return exact_counts(2 * norm.cdf(np.linspace(0, top, 2049)))


def exact_counts(cumulative: NDArray[Any]) -> Counts:
    return np.floor(1e7 * np.diff(cumulative)).astype(np.int64)


def gap() -> Counts:
    counts = half_normal(60)
    counts[-1] += 500
    return counts


EXPONENTIAL = -np.exp(-np.linspace(0, 16, 2049))
PUBLISHED = [
    *((half_normal(6), 1, 1531), (half_normal(6), 8, 1528), (half_normal(6), 128, 1536)),
    *((exact_counts(EXPONENTIAL), 1, 1353), (exact_counts(EXPONENTIAL), 8, 1352)),
    (exact_counts(EXPONENTIAL), 128, 1408),
    *((exact_counts(np.linspace(0, 1, 2049)), 1, 2048), (gap(), 1, 145)),
]


@st.composite
def histograms(draw: st.DrawFn) -> Counts:
    """Dense, sparse, with empty ends, with few different counts (so with many near ties)."""
    size = draw(st.integers(129, 170))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    counts = rng.integers(0, draw(st.sampled_from([2, 3, 50, 10**6])), size)
    counts[rng.random(size) < draw(st.sampled_from([0.0, 0.5, 0.97]))] = 0
    if draw(st.booleans()):
        counts[: draw(st.integers(0, size))] = 0
    if draw(st.booleans()):
        counts[draw(st.integers(0, size)) :] = 0
    return counts


def statistics_from(counts: Counts, peak: float) -> TensorStatistics:
    """Of values > 0, in bins of width 1/8."""
    both = np.zeros(2 * BINS - 1, dtype=np.int64)
    both[BINS - 1 : BINS - 1 + counts.size] = counts
    return TensorStatistics(int(counts.sum()), 0.0, peak, {}, None, Histogram(-3, both), None)


def statistics_of_values(values: NDArray[Any]) -> TensorStatistics:
    rows = Values(torch.from_numpy(values.astype(np.float32)).reshape(-1, 1))
    found = statistics_of("x", rows, Needs(), 0)
    assert found is not None
    return found


@pytest.mark.parametrize(("counts", "stride", "winner"), PUBLISHED)
@pytest.mark.parametrize("compat", BOTH)
def test_published_histograms_give_the_published_winner(
    counts: Counts, stride: int, winner: int, compat: Compat
) -> None:
    assert best_bin(counts, SearchOptions(stride=stride, compat=compat)) == winner


@settings(max_examples=100, deadline=None)
@given(counts=histograms(), stride=st.integers(1, 9), start=st.sampled_from([1, 40, 127, 128]))
def test_compat_gives_the_winner_of_pytorch_quantization(
    counts: Counts, stride: int, start: int
) -> None:
    options = SearchOptions(stride=stride, start=start, compat=COMPAT)
    assert best_bin(counts, options) == pytorch_quantization(counts, stride, start)


@pytest.mark.parametrize("seed", range(12))
def test_equal_candidates_are_told_apart_by_the_rounding_of_pytorch_quantization(seed: int) -> None:
    # One value per group and nothing to clip: every divergence is 0 but for rounding.
    counts = np.zeros(230, dtype=np.int64)
    counts[1:130:3] = np.random.default_rng(seed).integers(1, 10**6, 43)
    assert best_bin(counts, SearchOptions(start=131)) == pytorch_quantization(counts, start=131)


@settings(max_examples=30, deadline=None)
@given(counts=histograms(), start=st.integers(1, 128))
def test_every_divergence_is_that_of_the_formula(counts: Counts, start: int) -> None:
    candidates, values = divergences(counts, SearchOptions(start=start, stride=3))
    counts[0] = counts[1]
    expected = [slow_divergence(counts, int(kept)) for kept in candidates]
    assert candidates.tolist() == list(range(start, counts.size + 1, 3))
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-11)


def test_unsigned_int8_has_256_levels() -> None:
    counts = np.random.default_rng(3).integers(0, 1000, 300)
    options = SearchOptions(start=256, levels=256, compat=COMPAT)
    assert best_bin(counts, options) == pytorch_quantization(counts, start=256, bits=9)


@pytest.mark.parametrize("compat", BOTH)
def test_zeros_do_not_decide_about_the_threshold(compat: Compat) -> None:
    many_zeros = half_normal(6)
    many_zeros[0] = 10**9
    assert best_bin(many_zeros, SearchOptions(compat=compat)) == 1531


def test_the_callers_counts_are_left_alone() -> None:
    counts = half_normal(6)
    counts[0] = 10**9
    before = counts.copy()
    best_bin(counts, SearchOptions(compat=COMPAT))
    divergences(counts, SearchOptions())
    np.testing.assert_array_equal(counts, before)


@pytest.mark.parametrize(("ties", "winner"), [("largest", 6), ("smallest", 3)])
def test_ties_go_where_they_are_told_to(ties: Ties, winner: int) -> None:
    assert best_bin(np.array([7, 7, 7, 0, 0, 0]), SearchOptions(start=1, ties=ties)) == winner


def test_a_single_bin_wins_in_compat_only() -> None:
    counts = half_normal(6)
    assert best_bin(counts, SearchOptions(start=1)) == 1531
    assert best_bin(counts, SearchOptions(start=1, compat=COMPAT)) == 1


@pytest.mark.parametrize(("ties", "undefined"), [("largest", 199), ("smallest", 128)])
def test_a_candidate_without_any_count_wins_in_compat_only(ties: Ties, undefined: int) -> None:
    constant = np.zeros(200, dtype=np.int64)
    constant[-1] = 1000
    assert best_bin(constant, SearchOptions(ties=ties)) == 200
    assert best_bin(constant, SearchOptions(ties=ties, compat=COMPAT)) == undefined


@pytest.mark.parametrize(("ties", "last"), [("largest", 198), ("smallest", 128)])
def test_an_infinite_divergence_wins_in_compat_only(ties: Ties, last: int) -> None:
    outlier = np.zeros(200, dtype=np.int64)
    outlier[:100] = 10
    outlier[-1] = 1
    options = SearchOptions(stride=10, start=128, ties=ties)  # no candidate ends on the last bin
    assert np.isinf(divergences(outlier, options)[1]).all()
    assert best_bin(outlier, options) == 200
    assert best_bin(outlier, SearchOptions(10, 128, ties, COMPAT)) == last


@pytest.mark.parametrize("compat", BOTH)
def test_fewer_bins_than_the_start_give_the_full_range(compat: Compat) -> None:
    assert best_bin(np.full(50, 9), SearchOptions(compat=compat)) == 50


def test_a_bulk_below_a_gap_is_clipped_only_by_a_start_below_its_end() -> None:
    counts = np.zeros(2048, dtype=np.int64)
    counts[:100] = 100_000 * (1 + np.arange(100) % 2)  # wide groups would level them
    counts[-1] = 5
    assert best_bin(counts, SearchOptions()) == 2048
    assert best_bin(counts, SearchOptions(start=32)) == 100


def test_memory_is_bounded_however_many_bins_there_are() -> None:
    counts = np.random.default_rng(5).integers(0, 1000, 20_000)
    tracemalloc.start()
    divergences(counts, SearchOptions())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6  # one number per candidate and level would be 20 MB


@pytest.mark.parametrize(("stride", "start"), [(0, 128), (1, 0)])
def test_a_stride_or_start_below_1_is_refused(stride: int, start: int) -> None:
    with pytest.raises(RecipeError) as caught:
        SearchOptions(stride, start)
    assert str(caught.value) == (
        f"the entropy search has stride {stride} and start {start}; wanted both at least 1;"
        " correct them."
    )


def test_amax_is_the_winner_times_the_width() -> None:
    assert amax_entropy(statistics_from(gap(), peak=255.9)) == 145 / 8


def test_amax_is_at_most_the_peak() -> None:
    uniform = np.full(2048, 1000)
    assert amax_entropy(statistics_from(uniform, peak=255.9)) == 255.9


def test_empty_bins_above_the_peak_are_no_candidates() -> None:
    # All of 1,100 bins are equal: nothing is clipped. Up to bin 2,048 a candidate of 1,152 bins
    # would be as good (nine bins per group), and with ties to the largest it would win.
    assert amax_entropy(statistics_from(np.full(1100, 50), peak=137.4)) == 137.4
    stretched = np.concatenate([np.full(1100, 50), np.zeros(948, dtype=np.int64)])
    assert best_bin(stretched, SearchOptions()) > 1100


def test_amax_passes_its_settings_on() -> None:
    statistics = statistics_from(gap(), peak=255.9)
    assert amax_entropy(statistics, stride=8) == 144 / 8
    assert amax_entropy(statistics, start=150) == 151 / 8
    assert amax_entropy(statistics_from(np.array([7, 7, 7]), 0.3), start=1, ties="smallest") == 0.3


def test_values_that_are_all_zero_give_zero() -> None:
    assert amax_entropy(statistics_of_values(np.zeros(9))) == 0.0


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), power=st.integers(-20, 20))
def test_a_power_of_two_scales_amax_exactly(seed: int, power: int) -> None:
    values = np.random.default_rng(seed).standard_t(3, 3001)
    one, other = statistics_of_values(values), statistics_of_values(np.ldexp(values, power))
    assert amax_entropy(other) == np.ldexp(amax_entropy(one), power)


def test_statistics_without_a_histogram_are_refused() -> None:
    bare = TensorStatistics(1, 0.0, 1.0, {}, None, None, None)
    with pytest.raises(ValueError, match="these statistics hold no histogram"):
        amax_entropy(bare)
