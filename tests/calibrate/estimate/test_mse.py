from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support.collected import collected
from trt_int8.calibrate.estimate.kept import kept_histogram
from trt_int8.calibrate.estimate.mse import amax_mse, expected_noise, sqnr_db

Array = NDArray[np.float32]

moderate = st.floats(-8, 8, width=32, allow_subnormal=False).filter(bool)


def brute_noise(x: Array, amax: float) -> float:
    """Mean squared error of the values themselves, in float64."""
    step = amax / 127
    codes = np.clip(np.rint(x.astype(np.float64) / step), -128, 127)
    return float(np.mean((codes * step - x) ** 2))


def student(size: int, freedom: float, seed: int) -> Array:
    return np.random.default_rng(seed).standard_t(freedom, size).astype(np.float32)


DATA = {
    "normal": np.random.default_rng(1).standard_normal(60_013).astype(np.float32),
    "heavy tails": student(60_013, 3, 2),
    "one sign": np.abs(student(60_013, 5, 3)),
    "mostly negative": -np.abs(student(60_013, 5, 4)) + np.float32(0.1),
    "far outliers": np.append(student(60_013, 30, 5), np.array([90, -120], np.float32)),
}


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("share", [1.0, 0.5, 0.1, 0.02])
def test_the_expected_noise_is_that_of_the_values(name: str, share: float) -> None:
    x, seen = DATA[name], collected(DATA[name])
    expected = brute_noise(x, share * seen.peak)
    found = expected_noise(kept_histogram(seen), share * seen.peak)
    assert abs(10 * np.log10(found / expected)) < 0.05


@pytest.mark.parametrize("sign", [1, -1])
def test_the_noise_of_one_bin_is_the_integral_by_hand(sign: int) -> None:
    # Values spread over [4094, 4095): steps of 100 bins, so all become 4100 or, clipped, 3000.
    seen = collected([sign * 4094.5])
    histogram = kept_histogram(seen)
    unclipped = (6**3 - 5**3) / 3
    assert expected_noise(histogram, 12_700.0) == pytest.approx(unclipped, rel=1e-9)
    last = 127 * 20 if sign > 0 else 128 * 20
    clipped = ((4095 - last) ** 3 - (4094 - last) ** 3) / 3
    assert expected_noise(histogram, 127 * 20.0) == pytest.approx(clipped, rel=1e-9)


def test_the_values_of_the_middle_bin_count_once() -> None:
    # 999 values spread over (-1, 1) become 0, and one of [4095, 4096) becomes 4100.
    seen = collected(np.linspace(-0.99, 0.99, 999), [4095.5])
    expected = (999 * 1 / 3 + (5**3 - 4**3) / 3) / 1000
    assert expected_noise(kept_histogram(seen), 12_700.0) == pytest.approx(expected, rel=1e-9)


def test_values_spread_evenly_over_the_range_have_the_noise_of_rounding() -> None:
    spread = collected(np.arange(-4000, 4000, dtype=np.float32) + np.float32(0.5), [4095.0])
    step = 4096 / 127
    found = expected_noise(kept_histogram(spread), 4096.0)
    assert found == pytest.approx(step**2 / 12, rel=0.02)


@pytest.mark.parametrize("name", DATA)
def test_the_range_is_as_good_as_that_of_a_search_over_the_values(name: str) -> None:
    x, seen = DATA[name], collected(DATA[name])
    tried = seen.peak * np.exp2(-np.arange(0, 8 * 40) / 40)
    best = min(brute_noise(x, float(amax)) for amax in tried)
    assert brute_noise(x, amax_mse(seen)) <= 1.005 * best


def test_far_outliers_are_clipped_and_uniform_values_are_not() -> None:
    assert amax_mse(collected(DATA["far outliers"])) < 100
    uniform = np.random.default_rng(6).uniform(-3, 3, 50_021).astype(np.float32)
    assert amax_mse(collected(uniform)) == pytest.approx(3.0, rel=0.01)


@settings(max_examples=40)
@given(st.lists(moderate, min_size=1, max_size=40))
def test_the_noise_is_at_most_that_of_the_largest_magnitude(numbers: list[float]) -> None:
    seen = collected(numbers)
    amax, histogram = amax_mse(seen), kept_histogram(seen)
    assert 0 < amax <= seen.peak
    assert expected_noise(histogram, amax) <= expected_noise(histogram, seen.peak)


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("share", [1.0, 0.25])
def test_the_sqnr_is_that_of_the_values_in_db(name: str, share: float) -> None:
    x, seen = DATA[name], collected(DATA[name])
    signal = np.mean(x.astype(np.float64) ** 2)
    expected = 10 * np.log10(signal / brute_noise(x, share * seen.peak))
    assert sqnr_db(seen, share * seen.peak) == pytest.approx(expected, abs=0.05)


def test_half_the_range_of_uniform_values_costs_more_than_it_gains() -> None:
    seen = collected(np.random.default_rng(7).uniform(-1, 1, 9_973))
    # Rounding alone: steps of 1/127, so 10 log10(1/3 * 12 * 127^2) dB.
    assert sqnr_db(seen, seen.peak) == pytest.approx(10 * np.log10(4 * 127**2), abs=0.1)
    assert sqnr_db(seen, seen.peak / 2) < 15


@pytest.mark.parametrize("power", [-100, 100])
def test_the_sqnr_does_not_depend_on_the_unit(power: int) -> None:
    x = DATA["heavy tails"][:5_003]
    seen, other = collected(x), collected(np.ldexp(x, power))
    assert sqnr_db(other, np.ldexp(seen.peak, power) / 3) == sqnr_db(seen, seen.peak / 3)
