from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trt_int8.calibrate.estimate.weights import weight_amax
from trt_int8.errors import RangeError

Array = NDArray[np.float32]


def matrix(rows: int, columns: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_t(4, (rows, columns)).astype(np.float32)


def noise(weight: Array, amax: Array) -> NDArray[np.float64]:
    """Squared error of each weight, in float64 but for the scale."""
    step = (np.asarray(amax, np.float32) / np.float32(127)).astype(np.float64)
    codes = np.clip(np.rint(weight.astype(np.float64) / step), -128, 127)
    return np.asarray((codes * step - weight) ** 2)


def test_max_is_the_largest_magnitude_of_each_channel_or_of_all() -> None:
    weight = np.array([[1, -5, 0.5], [-2, 3, 0.25]], np.float32)
    assert weight_amax(weight, 1, "max").tolist() == [2, 5, 0.5]
    assert weight_amax(weight, 0, "max").tolist() == [5, 3]
    assert weight_amax(weight, None, "max").tolist() == 5


@pytest.mark.parametrize("method", ["max", "mse"])
def test_a_channel_of_zeros_gets_the_smallest_range_of_the_others(method: str) -> None:
    weight = np.array([[0, 1.0, -4.0], [0, 0.0, 0.0]], np.float32)
    found = weight_amax(weight, 1, "mse" if method == "mse" else "max")
    assert found[0] == 1.0
    assert (found > 0).all()


@pytest.mark.parametrize("axis", [0, 1, None])
def test_a_weight_of_zeros_has_the_range_one(axis: int | None) -> None:
    for method in ("max", "mse"):
        found = weight_amax(np.zeros((3, 5), np.float32), axis, "mse" if method == "mse" else "max")
        assert found.shape == (() if axis is None else (np.zeros((3, 5)).shape[axis],))
        assert (found == 1).all()


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shape", [(301, 113), (113, 301), (1, 40), (40_009, 2)])
def test_mse_of_a_channel_is_the_best_share_of_a_search_over_the_weights(
    axis: int, shape: tuple[int, int]
) -> None:
    weight = matrix(*shape)
    largest = np.abs(weight).max(axis=1 - axis)
    shares = np.linspace(0.5, 1, 51)
    errors = np.stack(
        [
            noise(weight, np.expand_dims(largest * np.float32(share), 1 - axis)).sum(axis=1 - axis)
            for share in shares
        ]
    )
    found = np.expand_dims(weight_amax(weight, axis, "mse"), 1 - axis)
    mine = noise(weight, found).sum(axis=1 - axis)
    np.testing.assert_allclose(mine, errors.min(axis=0), rtol=1e-3, atol=1e-9)


def test_mse_of_a_tensor_is_the_best_share_of_a_search_over_the_weights() -> None:
    weight = matrix(301, 113)
    largest = np.abs(weight).max()
    best = min(noise(weight, largest * np.float32(s)).sum() for s in np.linspace(0.5, 1, 51))
    assert noise(weight, weight_amax(weight, None, "mse")).sum() == pytest.approx(best, rel=1e-4)


def test_mse_clips_an_outlier_and_keeps_what_fits_exactly() -> None:
    # Integers up to 127 have no error at amax 127; 100 of 0.3 and one 1.0 gain from less.
    exact = np.arange(-127, 128, dtype=np.float32)[None]
    outlier = np.append(np.random.default_rng(1).uniform(-0.3, 0.3, 99_999), 1.0)
    assert weight_amax(exact, 0, "mse").tolist() == [127]
    assert weight_amax(outlier.astype(np.float32)[None], 0, "mse")[0] < 0.8


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 30), st.sampled_from([0, 1]))
def test_mse_of_a_channel_is_never_worse_than_max(
    seed: int, rows: int, columns: int, axis: int
) -> None:
    weight = matrix(rows, columns, seed)
    errors = [
        noise(weight, np.expand_dims(weight_amax(weight, axis, m), 1 - axis)).sum(axis=1 - axis)
        for m in ("mse", "max")
    ]
    assert (errors[0] <= errors[1] * (1 + 1e-5)).all()


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(-60, 60), st.sampled_from([0, 1, None]))
def test_a_power_of_two_scales_the_range_exactly(seed: int, power: int, axis: int | None) -> None:
    weight = matrix(17, 9, seed)
    scaled = weight_amax(np.ldexp(weight, power).astype(np.float32), axis, "mse")
    assert np.array_equal(scaled, np.ldexp(weight_amax(weight, axis, "mse"), power))


@pytest.mark.parametrize("method", ["max", "mse"])
def test_ranges_are_float32_and_the_weight_stays_as_it_is(method: str) -> None:
    weight = matrix(19, 23)
    before = weight.copy()
    for axis in (0, 1, None):
        assert weight_amax(weight, axis, "mse" if method == "mse" else "max").dtype == np.float32
    assert np.array_equal(weight, before)


def test_a_transposed_view_gives_the_ranges_of_the_matrix() -> None:
    weight = matrix(19, 23)
    assert np.array_equal(weight_amax(weight.T, 1, "mse"), weight_amax(weight, 0, "mse"))


def test_weights_too_small_for_a_scale_are_refused() -> None:
    with pytest.raises(RangeError, match=r"amax is .* wanted finite values > 0 and above 1e-43"):
        weight_amax(np.full((2, 2), 1e-44, np.float32), 0, "mse")
