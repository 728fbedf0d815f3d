"""The laws of Bhandare's three KL modes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trt_int8.calibrate.estimate.bhandare import kl_conjugate, kl_independent, kl_symmetric
from trt_int8.calibrate.histogram import BINS, Histogram
from trt_int8.calibrate.statistics import Needs, TensorStatistics, statistics_of
from trt_int8.calibrate.values import Values

SEEDS = st.integers(0, 2**32 - 1)


def statistics(values: NDArray[Any]) -> TensorStatistics:
    rows = Values(torch.from_numpy(values.astype(np.float32)).reshape(-1, 1))
    found = statistics_of("x", rows, Needs(), 0)
    assert found is not None
    return found


def skewed(seed: int) -> NDArray[Any]:
    """Two sides of different shape and width, 2,003 values."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.standard_exponential(1500), -0.3 * rng.random(503)])


def two_sides() -> TensorStatistics:
    """128 uneven bins of width 1/8 below and above 0; an outlier in bin 3,000 above alone."""
    counts = np.zeros(2 * BINS - 1, dtype=np.int64)
    middle = BINS - 1
    counts[middle - 127 : middle + 128] = 10**6 * (1 + np.arange(255) % 2)
    counts[middle + 3000] = 1
    return TensorStatistics(int(counts.sum()), -15.9, 375.06, {}, None, Histogram(-3, counts), None)


def test_each_side_has_a_threshold_of_its_own() -> None:
    # Bins 0 to 127 end at 128 / 8 = 16; the negative side ends before that, at its lowest value.
    found = kl_independent(two_sides())
    assert (found.low, found.high) == (-15.9, 16.0)


def test_conjugate_takes_the_larger_side() -> None:
    assert kl_conjugate(two_sides()) == 16.0


def test_symmetric_searches_both_sides_together() -> None:
    assert kl_symmetric(two_sides()) == 16.0
    assert kl_symmetric(two_sides(), start=129) == 375.06


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS)
def test_conjugate_is_the_larger_of_the_independent_sides(seed: int) -> None:
    found = kl_independent(statistics(skewed(seed)))
    assert kl_conjugate(statistics(skewed(seed))) == max(-found.low, found.high)


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS)
def test_mirrored_data_make_all_modes_agree(seed: int) -> None:
    half = np.random.default_rng(seed).standard_normal(1501)
    mirrored = statistics(np.concatenate([half, -half]))
    amax, both = kl_symmetric(mirrored), kl_independent(mirrored)
    assert kl_conjugate(mirrored) == amax
    assert (both.low, both.high) == (-amax, amax)


def test_sides_of_different_shape_make_the_modes_differ() -> None:
    skew = statistics(skewed(1))
    both = kl_independent(skew)
    assert -both.low < both.high / 2
    assert kl_symmetric(skew, start=64) != kl_independent(skew, start=64).high


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS)
def test_changing_all_signs_swaps_the_ends(seed: int) -> None:
    one, other = (kl_independent(statistics(sign * skewed(seed))) for sign in (1, -1))
    assert (one.low, one.high) == (-other.high, -other.low)


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS)
def test_no_end_lies_beyond_the_data(seed: int) -> None:
    data = statistics(skewed(seed))
    found = kl_independent(data)
    assert data.low <= found.low <= 0 <= found.high <= data.high


def test_data_without_negative_values_have_the_low_end_zero() -> None:
    low = kl_independent(statistics(np.random.default_rng(2).random(999) + 1)).low
    assert low == 0.0
    assert math.copysign(1, low) == 1


def test_data_without_positive_values_have_the_high_end_zero() -> None:
    assert kl_independent(statistics(-1 - np.random.default_rng(2).random(999))).high == 0.0


def test_a_side_within_bin_0_keeps_its_exact_end() -> None:
    values = np.append(np.random.default_rng(2).random(999), np.float32(-1e-5))
    assert kl_independent(statistics(values)).low == float(np.float32(-1e-5))


def test_values_that_are_all_zero_give_zero() -> None:
    zeros = statistics(np.zeros(7))
    both = kl_independent(zeros)
    assert (both.low, both.high, kl_conjugate(zeros), kl_symmetric(zeros)) == (0, 0, 0, 0)
