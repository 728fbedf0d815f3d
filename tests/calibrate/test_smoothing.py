"""Smoothing factors: the formula of the SmoothQuant paper, and when they are worth it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support.collected import collected, one_batch
from tests.support.onnx_tiny import noise
from trt_int8.calibrate.smoothing import (
    MOST_GROWTH,
    peaks_of,
    smoothing_factors,
)
from trt_int8.calibrate.statistics import merged

Floats = NDArray[np.float32]
Exact = NDArray[np.float64]
ALPHAS = st.floats(0, 1)
# float16 has 11 bits, so rounding to it changes a number by up to 1 / 2048 of it.
HALF_STEP = 1 / 2048
K, N = 37, 19


def paper(peaks: Floats, weights: Floats, alpha: float) -> Exact:
    """max|X_k|^alpha / max|W_k|^(1 - alpha), over the geometric mean, in float64."""
    largest = np.abs(weights.astype(np.float64)).max(axis=1)
    raw = peaks.astype(np.float64) ** alpha / largest ** (1 - alpha)
    scaled: Exact = raw / np.prod(raw ** (1 / len(raw)))
    return scaled


def uneven() -> Floats:
    """Peaks [K] from 0.1 to about 3."""
    sizes: Floats = np.abs(noise(K)) + np.float32(0.1)
    return sizes


@st.composite
def operands(draw: st.DrawFn) -> tuple[Floats, Floats]:
    """Peaks [K] and weights [K, N], no channel below 1 / 254 of the largest."""
    channels, columns = draw(st.integers(1, 23)), draw(st.integers(1, 5))
    size = st.floats(1 / 64, 1.875, width=32)
    peaks = draw(st.lists(size, min_size=channels, max_size=channels))
    rows = draw(st.lists(size, min_size=channels, max_size=channels))
    signs = np.random.default_rng(channels).uniform(-1, 1, (channels, columns))
    signs[:, 0] = 1
    return np.array(peaks, np.float32), (np.array(rows)[:, None] * signs).astype(np.float32)


@settings(max_examples=60)
@given(operands(), ALPHAS)
def test_factors_are_those_of_the_paper_over_their_geometric_mean(
    given_: tuple[Floats, Floats], alpha: float
) -> None:
    found = smoothing_factors(*given_, alpha)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, paper(*given_, alpha), rtol=1.01 * HALF_STEP)


@settings(max_examples=40)
@given(operands(), ALPHAS)
def test_the_geometric_mean_is_1_up_to_half_precision(
    given_: tuple[Floats, Floats], alpha: float
) -> None:
    logs = np.log(smoothing_factors(*given_, alpha).astype(np.float64))
    assert abs(logs.mean()) <= 1.01 * HALF_STEP


@settings(max_examples=40)
@given(operands(), ALPHAS)
def test_what_an_fp16_engine_multiplies_by_is_exact(
    given_: tuple[Floats, Floats], alpha: float
) -> None:
    """1 / s is a float16 number, up to the rounding of s itself to float32."""
    inverse = 1 / smoothing_factors(*given_, alpha).astype(np.float64)
    np.testing.assert_allclose(inverse.astype(np.float16), inverse, rtol=2.0**-24)


@settings(max_examples=40)
@given(operands(), ALPHAS, st.integers(-20, 20), st.integers(-20, 20))
def test_the_size_of_all_channels_together_changes_no_bit(
    given_: tuple[Floats, Floats], alpha: float, up: int, wide: int
) -> None:
    peaks, weights = given_
    scaled = smoothing_factors(np.ldexp(peaks, up), np.ldexp(weights, wide), alpha)
    assert scaled.tobytes() == smoothing_factors(peaks, weights, alpha).tobytes()


def test_a_factor_that_is_no_power_of_two_changes_them_by_no_more_than_a_step() -> None:
    peaks, weights = uneven(), noise(K, N, seed=1)
    larger = peaks * np.float32(1234.5)
    one, other = (smoothing_factors(each, weights, 0.5) for each in (peaks, larger))
    np.testing.assert_allclose(one, other, rtol=2.01 * HALF_STEP)


def test_an_outlier_goes_into_the_weights_the_further_the_larger_alpha_is() -> None:
    peaks, weights = np.ones(K, np.float32), np.ones((K, N), np.float32)
    peaks[5] = 50
    found = [smoothing_factors(peaks, weights, a) for a in (0.0, 0.25, 0.5, 0.75, 1.0)]
    shares = [factors[5] / factors[4] for factors in found]
    np.testing.assert_allclose(shares, [50**a for a in (0, 0.25, 0.5, 0.75, 1)], rtol=1e-3)


def test_with_alpha_1_all_channels_become_as_large() -> None:
    peaks, weights = uneven(), noise(K, N, seed=1)
    divided = peaks / smoothing_factors(peaks, weights, 1.0)
    np.testing.assert_allclose(divided, divided[0], rtol=2.01 * HALF_STEP)


def test_with_alpha_0_all_rows_of_the_weights_become_as_large() -> None:
    peaks, weights = uneven(), noise(K, N, seed=1)
    rows = np.abs(weights * smoothing_factors(peaks, weights, 0.0)[:, None]).max(axis=1)
    np.testing.assert_allclose(rows, rows[0], rtol=2.01 * HALF_STEP)


def test_a_dead_channel_counts_as_half_a_step_of_the_range() -> None:
    peaks, weights = np.full(K, 8.0, np.float32), np.ones((K, N), np.float32)
    peaks[3] = 0
    least = np.where(np.arange(K) == 3, np.float32(8 / 254), peaks)
    found = smoothing_factors(peaks, weights, 1.0)
    np.testing.assert_allclose(found, paper(least, weights, 1.0), rtol=1.01 * HALF_STEP)
    assert found[4] / found[3] == pytest.approx(254, rel=1e-3)


def test_a_row_of_zeros_counts_as_half_a_step_of_the_weights() -> None:
    peaks, weights = np.ones(K, np.float32), np.full((K, N), -0.25, np.float32)
    weights[3] = 0
    found = smoothing_factors(peaks, weights, 0.0)
    assert found[3] / found[4] == pytest.approx(254, rel=1e-3)


def test_all_factors_of_the_worst_channels_stay_in_half_precision() -> None:
    peaks, weights = np.zeros(K, np.float32), np.zeros((K, N), np.float32)
    peaks[0], weights[1] = 3e38, 1e-30
    for alpha in (0.0, 0.5, 1.0):
        found = smoothing_factors(peaks, weights, alpha)
        assert (np.abs(np.log(found)) <= np.log(255)).all()


@settings(max_examples=40)
@given(operands(), ALPHAS)
def test_a_divided_tensor_is_not_much_larger_than_it_was(
    given_: tuple[Floats, Floats], alpha: float
) -> None:
    """Half precision has to hold it."""
    divided = given_[0] / smoothing_factors(*given_, alpha)
    assert divided.max() <= MOST_GROWTH * given_[0].max() * (1 + HALF_STEP)


def test_the_bound_of_its_growth_is_nearly_reached() -> None:
    peaks, weights = np.ones(999, np.float32), np.zeros((999, N), np.float32)
    weights[500] = 1
    growth = (peaks / smoothing_factors(peaks, weights, 0.0)).max()
    assert 0.98 * MOST_GROWTH < growth <= MOST_GROWTH


@pytest.mark.parametrize("dead", ["peaks", "weights"])
def test_where_all_is_zero_nothing_is_divided(dead: str) -> None:
    peaks, weights = np.arange(1, K + 1, dtype=np.float32), noise(K, N)
    (peaks if dead == "peaks" else weights)[:] = 0
    assert smoothing_factors(peaks, weights, 0.5).tolist() == [1.0] * K


def test_the_peak_of_a_channel_is_its_largest_size() -> None:
    found = peaks_of(collected([[1, -4, 0]], [[-2, 3, 0.5]]), 3)
    assert found is not None
    assert found.tolist() == [2, 4, 0.5]


@pytest.mark.parametrize(("values", "channels"), [([[1.0, 2.0]], 3), ([[0.0, 0.0]], 2)])
def test_other_channels_or_zeros_only_have_no_peaks(
    values: list[list[float]], channels: int
) -> None:
    assert peaks_of(collected(values), channels) is None


def test_statistics_of_one_tensor_seen_twice_count_once() -> None:
    one, other = one_batch([[1, 2]]), one_batch([[3, -5]], 1)
    both = merged(iter([one, other, one]))
    assert both is not None
    assert (both.count, both.low, both.high) == (4, -5, 3)
    assert merged([]) is None
    assert merged([one, one]) is one
