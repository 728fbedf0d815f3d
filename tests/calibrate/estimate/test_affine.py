from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support.collected import collected
from trt_int8.calibrate.estimate.affine import (
    affine_current,
    affine_minmax,
    affine_mse,
    affine_noise,
)
from trt_int8.calibrate.estimate.kept import kept_histogram
from trt_int8.spec.ranges import AffineRange

Array = NDArray[np.float32]

moderate = st.floats(-8, 8, width=32, allow_subnormal=False).filter(bool)


def brute_noise(x: Array, low: float, high: float) -> float:
    """Bondarenko 2021: codes 0 to 255 around a rounded zero point, on the values themselves."""
    step = (high - low) / 255
    zero_point = np.clip(np.rint(-low / step), 0, 255)
    codes = np.clip(np.rint(x.astype(np.float64) / step) + zero_point, 0, 255)
    return float(np.mean((step * (codes - zero_point) - x) ** 2))


def gelu_like(size: int, seed: int) -> Array:
    x = np.random.default_rng(seed).standard_t(4, size)
    return np.asarray(np.where(x > 0, x, -0.17 * np.tanh(-x)), dtype=np.float32)


DATA = {
    "normal": np.random.default_rng(1).standard_normal(30_011).astype(np.float32),
    "almost one sign": gelu_like(30_011, 2),
    "heavy tails": np.random.default_rng(3).standard_t(3, 30_011).astype(np.float32),
    "one sign": np.random.default_rng(4).random(30_011).astype(np.float32),
    "one outlier": np.append(gelu_like(30_011, 5), np.float32(-40)),
}


@pytest.mark.parametrize(
    ("numbers", "low", "high"),
    [
        ([-2.0, 5.0], -2.0, 5.0),
        ([2.0, 5.0], 0.0, 5.0),
        ([-2.0, -5.0], -5.0, 1e-8),
        ([-2.0, 0.0], -2.0, 1e-8),
    ],
)
def test_minmax_always_holds_zero(numbers: list[float], low: float, high: float) -> None:
    assert affine_minmax(collected(numbers)) == AffineRange(low=low, high=high)


def test_minmax_is_that_of_all_batches_and_current_of_the_last() -> None:
    seen = collected([-7.0, 1.0], [9.0, 2.0], [-1.0, 3.0])
    assert affine_minmax(seen) == AffineRange(low=-7.0, high=9.0)
    assert affine_current(seen) == AffineRange(low=-1.0, high=3.0)


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("share", [1.0, 0.4])
def test_the_noise_of_a_range_is_that_of_the_values(name: str, share: float) -> None:
    x, seen = DATA[name], collected(DATA[name])
    ends = affine_minmax(seen)
    found = affine_noise(kept_histogram(seen), AffineRange(low=ends.low, high=share * ends.high))
    assert abs(10 * np.log10(found / brute_noise(x, ends.low, share * ends.high))) < 0.05


@pytest.mark.parametrize("name", DATA)
def test_the_range_is_as_good_as_that_of_a_search_over_the_values(name: str) -> None:
    x, seen = DATA[name], collected(DATA[name])
    ends, found = affine_minmax(seen), affine_mse(seen)
    shares = np.exp2(-np.arange(0, 6 * 5) / 5)
    best = min(brute_noise(x, ends.low * a, ends.high * b) for a in shares for b in shares)
    assert brute_noise(x, found.low, found.high) <= 1.02 * best


def test_an_outlier_on_one_side_leaves_the_other_side_alone() -> None:
    x = np.random.default_rng(7).uniform(-1, 1, 999_983).astype(np.float32)
    x[0] = -20
    found = affine_mse(collected(x))
    assert found.low > -10
    assert found.high == pytest.approx(1.0, rel=0.05)


@settings(max_examples=25)
@given(st.lists(moderate, min_size=1, max_size=40))
def test_the_ends_lie_within_minmax_and_give_no_more_noise(numbers: list[float]) -> None:
    seen = collected(numbers)
    ends, found = affine_minmax(seen), affine_mse(seen)
    histogram = kept_histogram(seen)
    assert ends.low <= found.low <= 0 < found.high <= ends.high
    assert affine_noise(histogram, found) <= affine_noise(histogram, ends)


@settings(max_examples=25)
@given(st.lists(moderate, min_size=2, max_size=40), st.integers(-60, 60))
def test_a_power_of_two_scales_both_ends_of_mixed_signs_exactly(
    numbers: list[float], power: int
) -> None:
    numbers = [*numbers, -0.5, 0.5]
    found, scaled = affine_mse(collected(numbers)), affine_mse(collected(np.ldexp(numbers, power)))
    # The least upper end, 1e-8, is in tensor units and must not be met.
    if np.ldexp(max(numbers), power) > 1e-6:
        assert scaled.low == np.ldexp(found.low, power)
        assert scaled.high == np.ldexp(found.high, power)
