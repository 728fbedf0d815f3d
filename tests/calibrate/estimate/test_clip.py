from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import minimize_scalar

from tests.support.collected import collected
from trt_int8.calibrate.estimate.clip import (
    GAUSS_CLIPPING,
    LAPLACE_CLIPPING,
    amax_aciq_gauss,
    amax_aciq_laplace,
    amax_max,
    amax_moving_average,
    amax_percentile,
)

moderate = st.floats(-8, 8, width=32, allow_subnormal=False).filter(bool)


def test_max_is_the_largest_magnitude_of_all_batches() -> None:
    assert amax_max(collected([1.0, -7.5], [3.0], [-2.0])) == 7.5


def test_the_moving_average_starts_with_the_first_batch() -> None:
    assert amax_moving_average(collected([1.0, -4.0]), 0.9) == 4.0


def test_the_moving_average_is_that_of_the_largest_magnitudes() -> None:
    found = amax_moving_average(collected([1.0, -4.0], [8.0, 0.5], [-2.0]), 0.75)
    assert found == pytest.approx(0.75 * (0.75 * 4 + 0.25 * 8) + 0.25 * 2, rel=1e-15)


def test_the_moving_average_goes_by_the_numbers_of_the_batches() -> None:
    forwards, backwards = [[4.0], [8.0], [1.0]], [[1.0], [8.0], [4.0]]
    assert amax_moving_average(collected(*forwards), 0.5) == 3.5
    assert amax_moving_average(collected(*backwards), 0.5) == 4.25


def test_a_momentum_of_zero_takes_the_last_batch() -> None:
    assert amax_moving_average(collected([9.0], [5.0], [-3.0]), 0.0) == 3.0


@settings(max_examples=40)
@given(st.lists(st.floats(0.125, 8, width=32), min_size=1, max_size=9), st.floats(0, 0.999))
def test_a_moving_average_lies_between_the_batches(peaks: list[float], m: float) -> None:
    found = amax_moving_average(collected(*[[peak] for peak in peaks]), m)
    assert min(peaks) * (1 - 1e-12) <= found <= max(peaks)


@pytest.mark.parametrize("p", [50.0, 90.0, 99.0, 99.9])
def test_a_percentile_is_within_two_bins_of_numpys(p: float) -> None:
    x = np.random.default_rng(3).standard_normal((3, 10_007)).astype(np.float32)
    x *= np.array([[0.5], [1.0], [3.0]], np.float32)
    found = amax_percentile(collected(*x), p)
    assert abs(found - np.percentile(np.abs(x), p)) <= 2 * np.abs(x).max() / 2048


def test_percentile_100_clips_nothing() -> None:
    assert amax_percentile(collected([0.5, 1.0, -3.0]), 100) == 3.0


def test_a_percentile_is_the_right_edge_of_its_bin() -> None:
    assert amax_percentile(collected([4000.5, 7.25, -7.5, 2.0]), 75) == 8.0


@pytest.mark.parametrize(
    ("p", "expected"), [(99.9, 1025 / 1024), (99.91, 2.0), (99.89, 1025 / 1024)]
)
def test_a_percentile_is_the_decimal_number_and_not_its_float(p: float, expected: float) -> None:
    # 99.9 % of 1,000 values are 999; the float 99.9 is a little more.
    assert Fraction(99.9) > Fraction("99.9")
    assert amax_percentile(collected([1.0] * 999 + [2.0]), p) == expected


def test_zeros_count_as_values_wherever_they_stand() -> None:
    zeros, ones = [0.0] * 60, [1.0] * 40
    for batches in ([zeros, ones], [ones, zeros], [zeros + ones]):
        assert amax_percentile(collected(*batches), 60) < 0.001
        assert amax_percentile(collected(*batches), 61) == 1.0


@settings(max_examples=60)
@given(st.lists(moderate, min_size=1, max_size=30), st.floats(1, 100))
def test_at_least_the_asked_share_lies_within_the_range(numbers: list[float], p: float) -> None:
    amax = amax_percentile(collected(numbers), p)
    inside = sum(abs(number) <= amax for number in numbers)
    assert Fraction(inside, len(numbers)) * 100 >= Fraction(repr(p))


@settings(max_examples=60)
@given(st.lists(moderate, min_size=1, max_size=30), st.floats(1, 100), st.floats(1, 100))
def test_a_larger_percentile_never_gives_a_smaller_range(
    numbers: list[float], one: float, other: float
) -> None:
    low, high = sorted((one, other))
    seen = collected(numbers)
    assert amax_percentile(seen, low) <= amax_percentile(seen, high) <= seen.peak


def banner_mse(density: str, clipping: float) -> float:
    """Clipping and rounding noise by their definitions: integrals of squares times the density."""
    if density == "gauss":

        def at(x: float) -> float:
            return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    else:

        def at(x: float) -> float:
            return math.exp(-x) / 2

    clipped = 2 * quad(lambda x: (x - clipping) ** 2 * at(x), clipping, clipping + 40)[0]
    step = 2 * clipping / 2**8
    return float(clipped + step**2 / 12)


@pytest.mark.parametrize(
    ("density", "used", "published"),
    [("gauss", GAUSS_CLIPPING, 3.92403714), ("laplace", LAPLACE_CLIPPING, 9.89675982)],
)
def test_the_clipping_constants_make_the_analytic_error_least(
    density: str, used: float, published: float
) -> None:
    found = minimize_scalar(
        lambda clipping: banner_mse(density, clipping), bounds=(1, 20), method="bounded"
    )
    assert used == pytest.approx(found.x, rel=1e-4)
    # The numbers in the authors' code, themselves found by a search.
    assert used == pytest.approx(published, rel=1e-6)


def test_the_clipping_constants_are_roots_of_the_derivatives() -> None:
    a = GAUSS_CLIPPING
    slope = math.erfc(a / math.sqrt(2)) * a - math.sqrt(2 / math.pi) * math.exp(-a * a / 2)
    assert slope + a / (3 * 4**8) == pytest.approx(0, abs=1e-18)
    assert LAPLACE_CLIPPING * math.exp(LAPLACE_CLIPPING) == pytest.approx(3 * 4**8, rel=1e-14)


@pytest.mark.parametrize("mean", [0.0, 0.5])
def test_aciq_of_normal_values_is_a_multiple_of_the_root_mean_square(mean: float) -> None:
    x = np.random.default_rng(1).normal(mean, 0.3, (9, 40_009)).astype(np.float32)
    x[0, 0] = 50.0  # so that the largest value is no limit
    expected = GAUSS_CLIPPING * math.sqrt(np.mean(x.astype(np.float64) ** 2))
    assert amax_aciq_gauss(collected(x)) == pytest.approx(expected, rel=1e-3)


def test_aciq_of_laplace_values_is_a_multiple_of_the_mean_magnitude() -> None:
    x = np.random.default_rng(2).laplace(0, 0.3, (9, 40_009)).astype(np.float32)
    x[0, 0] = 50.0
    expected = LAPLACE_CLIPPING * np.abs(x.astype(np.float64)).mean()
    assert amax_aciq_laplace(collected(x)) == pytest.approx(expected, rel=1e-3)


def test_aciq_of_uniform_values_clips_nothing() -> None:
    seen = collected(np.random.default_rng(3).uniform(-2, 2, 9_973))
    assert amax_aciq_gauss(seen) == amax_aciq_laplace(seen) == seen.peak


@settings(max_examples=40)
@given(st.lists(moderate, min_size=1, max_size=40))
def test_aciq_is_above_zero_and_never_above_the_peak(numbers: list[float]) -> None:
    assume(any(numbers))
    seen = collected(numbers)
    for amax in (amax_aciq_gauss(seen), amax_aciq_laplace(seen)):
        assert 0 < amax <= seen.peak
