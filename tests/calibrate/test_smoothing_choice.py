"""Which activations are smoothed: those whose INT8 error on data not seen falls."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.calibrate.test_smoothing import HALF_STEP, K, N, paper
from tests.support.collected import one_batch
from tests.support.onnx_tiny import noise
from trt_int8.calibrate.smoothing import choose_factors, peaks_of, smoothing_factors
from trt_int8.calibrate.statistics import Needs, TensorStatistics, statistics_of
from trt_int8.calibrate.values import Values

Floats = NDArray[np.float32]


def activation(rows: int, seed: int, outliers: tuple[int, ...] = (3, 20)) -> Floats:
    """Normal rows; channels of outliers are 40 times as large."""
    x = noise(rows, K, seed=seed)
    x[:, list(outliers)] *= 40
    return x


def int8_error(x: Floats, weights: Floats, factors: Floats | None, peaks: Floats) -> float:
    """Mean relative error of the rows of x @ W with both in INT8, in float64.

    The range of x is the largest of the peaks, that of W the largest of each column.
    """
    divisor = np.ones(len(weights)) if factors is None else factors.astype(np.float64)
    left, right = x.astype(np.float64) / divisor, weights.astype(np.float64) * divisor[:, None]
    step, steps = (peaks / divisor).max() / 127, np.abs(right).max(axis=0) / 127
    left = np.clip(np.rint(left / step), -128, 127) * step
    right = np.clip(np.rint(right / steps), -128, 127) * steps
    exact = x.astype(np.float64) @ weights
    return float((((left @ right - exact) ** 2).sum(1) / (exact**2).sum(1)).mean())


def halves_of(rows: int, outliers: tuple[int, ...] = (3, 20)) -> list[TensorStatistics]:
    return [one_batch(activation(rows, seed, outliers), seed) for seed in (1, 2)]


def test_outlier_channels_get_factors_that_lessen_the_error_of_fresh_rows() -> None:
    first, second = halves_of(150)
    weights = noise(K, N, seed=7)
    factors = choose_factors((first, second), weights)
    assert factors is not None
    assert set(np.argsort(factors)[-2:]) == {3, 20}
    peaks = peaks_of(first.merge(second), K)
    assert peaks is not None
    fresh = activation(400, 11)
    before, after = (int8_error(fresh, weights, f, peaks) for f in (None, factors))
    assert after < 0.6 * before


def test_the_factors_have_one_of_the_alphas_tried_and_are_those_of_all_data() -> None:
    first, second = halves_of(150)
    weights = noise(K, N, seed=7)
    factors = choose_factors((first, second), weights)
    assert factors is not None
    peaks = np.abs(np.concatenate([activation(150, 1), activation(150, 2)])).max(axis=0)
    wanted = [paper(peaks, weights, alpha) for alpha in (0.5, 0.6, 0.7, 0.8, 0.9)]
    fits = [np.allclose(factors, each, rtol=1.01 * HALF_STEP, atol=0) for each in wanted]
    assert fits.count(True) == 1


def test_an_activation_without_outliers_is_left_alone() -> None:
    first, second = halves_of(150, outliers=())
    assert choose_factors((first, second), noise(K, N, seed=7)) is None


def test_factors_that_only_fit_the_few_rows_they_were_found_with_are_not_taken() -> None:
    """In 20 rows the peaks of channels differ by chance, and what they say is wrong for others."""
    rows, weights = activation(20, 1, outliers=()), noise(K, N, seed=7)
    seen = one_batch(rows)
    peaks = peaks_of(seen, K)
    assert peaks is not None
    factors, fresh = smoothing_factors(peaks, weights, 0.9), activation(400, 11, outliers=())
    for x, gains in ((rows, True), (fresh, False)):
        before, after = (int8_error(x, weights, f, peaks) for f in (None, factors))
        assert (after < before) == gains
    halves = (one_batch(rows[:10]), one_batch(rows[10:], 1))
    assert choose_factors(halves, weights) is None


def test_outliers_of_one_half_alone_are_no_reason_to_smooth() -> None:
    calm, wild = one_batch(activation(60, 1, ())), one_batch(activation(60, 2), 1)
    weights = noise(K, N, seed=7)
    assert choose_factors((calm, wild), weights) is None
    assert choose_factors((one_batch(activation(60, 1)), wild), weights) is not None


def test_which_half_comes_first_changes_no_bit() -> None:
    first, second = halves_of(31)
    weights = noise(K, N, seed=7)
    one, other = (choose_factors(h, weights) for h in ((first, second), (second, first)))
    assert one is not None
    assert other is not None
    assert one.tobytes() == other.tobytes()


def test_of_many_output_channels_a_sample_is_tried_but_all_count_for_the_factors() -> None:
    first, second = halves_of(40)
    weights = noise(K, 301, seed=7)
    weights[7, 1] = 30  # not among 64 evenly spaced ones, of which the second is 4
    factors = choose_factors((first, second), weights)
    peaks = peaks_of(first.merge(second), K)
    assert factors is not None
    assert peaks is not None
    wanted = [paper(peaks, weights, alpha) for alpha in (0.5, 0.6, 0.7, 0.8, 0.9)]
    assert any(np.allclose(factors, each, rtol=1.01 * HALF_STEP, atol=0) for each in wanted)


def test_weights_of_zeros_gain_nothing() -> None:
    first, second = halves_of(9)
    assert choose_factors((first, second), np.zeros((K, N), np.float32)) is None


def test_a_half_of_other_channels_gains_nothing() -> None:
    first, _ = halves_of(9)
    narrow = one_batch(noise(9, K - 1), 1)
    for halves in ((first, narrow), (narrow, first)):
        assert choose_factors(halves, noise(K, N)) is None


def test_a_half_of_zeros_gains_nothing() -> None:
    first, _ = halves_of(9)
    assert choose_factors((first, one_batch(np.zeros((3, K)), 1)), noise(K, N)) is None


def test_halves_without_rows_to_try_factors_on_are_a_mistake_of_the_caller() -> None:
    values = Values(torch.from_numpy(activation(9, 1)))
    bare = statistics_of("x", values, Needs(histogram=False), 0)
    assert bare is not None
    with pytest.raises(ValueError, match="no sample of rows"):
        choose_factors((bare, bare), noise(K, N))
