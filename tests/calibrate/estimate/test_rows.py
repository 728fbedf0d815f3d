from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support.collected import collected
from trt_int8.calibrate.estimate import rows as searched
from trt_int8.calibrate.estimate.mse import amax_mse
from trt_int8.calibrate.estimate.rows import _quantize, amax_output, amax_sqnr
from trt_int8.errors import ShapeError
from trt_int8.numerics import dequantize, quantize, scale_of

Array = NDArray[np.float32]


def fake_quantized(x: Array, amax: NDArray[np.float64] | float) -> NDArray[np.float64]:
    step = amax / 127
    return np.asarray(np.clip(np.rint(x.astype(np.float64) / step), -128, 127) * step)


def relative(got: NDArray[np.float64], wanted: NDArray[np.float64]) -> float:
    """Mean over the rows of ||got - wanted||^2 / ||wanted||^2, rows of zeros left out."""
    used = np.any(wanted != 0, axis=1)
    return float(
        np.mean(np.sum((got - wanted)[used] ** 2, axis=1) / np.sum(wanted[used] ** 2, axis=1))
    )


def input_error(x: Array, amax: float) -> float:
    return relative(fake_quantized(x, amax), x.astype(np.float64))


def output_error(x: Array, weight: Array, amax: float) -> float:
    per_channel = np.abs(weight).max(axis=0).astype(np.float64)
    got = fake_quantized(x, amax) @ fake_quantized(weight, per_channel)
    return relative(got, x.astype(np.float64) @ weight.astype(np.float64))


def tokens(rows: int = 251, columns: int = 65, seed: int = 0) -> Array:
    """Rows with heavy tails, of which every fiftieth has one value far outside."""
    random = np.random.default_rng(seed)
    x = random.standard_t(4, (rows, columns))
    x[::50, 3] = 150 + 50 * random.random(x[::50, 3].size)
    return x.astype(np.float32)


def matrix(rows: int = 65, columns: int = 21, seed: int = 1) -> Array:
    weight = np.random.default_rng(seed).standard_normal((rows, columns))
    return (weight * np.geomspace(0.01, 1, columns)).astype(np.float32)


def grid(peak: float) -> list[float]:
    return [float(peak * 2 ** (-k / 24)) for k in range(7 * 24)]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sqnr_is_as_good_as_a_search_over_all_thresholds(seed: int) -> None:
    x = tokens(seed=seed)
    seen = collected(x)
    best = min(input_error(x, amax) for amax in grid(seen.peak))
    assert input_error(x, amax_sqnr(seen)) <= 1.03 * best
    assert input_error(x, seen.peak) > 1.5 * best


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_output_is_as_good_as_a_search_over_all_thresholds(seed: int) -> None:
    x, weight = tokens(seed=seed), matrix(seed=seed + 9)
    seen = collected(x)
    best = min(output_error(x, weight, amax) for amax in grid(seen.peak))
    assert output_error(x, weight, amax_output(seen, weight)) <= 1.03 * best
    assert output_error(x, weight, seen.peak) > 1.5 * best


def test_the_range_is_better_than_any_a_quarter_of_an_octave_apart() -> None:
    x = tokens(seed=2)
    coarse = [float(np.abs(x).max() * 2 ** (-k / 4)) for k in range(29)]
    best = min(input_error(x, amax) for amax in coarse)
    assert input_error(x, amax_sqnr(collected(x))) < 0.998 * best


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 300), st.sampled_from([1, 5, 64]))
def test_looking_at_a_few_rows_first_changes_no_range(seed: int, rows: int, first: int) -> None:
    x, weight = tokens(rows, 33, seed), matrix(33, 17, seed)
    x *= np.exp2(np.random.default_rng(seed).integers(-9, 9, (rows, 1))).astype(np.float32)
    seen = collected(x)
    found = []
    for looked_at in (0, first):  # of no rows the loss is 0, which rules out nothing
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(searched, "_FIRST", looked_at)
            found.append((amax_sqnr(seen), amax_output(seen, weight)))
    assert found[0] == found[1]


@given(
    st.lists(st.tuples(st.integers(0, 9), st.floats(0, 1)), min_size=1, max_size=12),
    st.integers(0, 12),
    st.integers(17, 99),
)
def test_the_first_threshold_of_least_loss_is_found_whatever_the_first_rows_say(
    losses: list[tuple[int, float]], known: int, rows: int
) -> None:
    def loss(amax: float, count: int) -> float:
        whole, share = losses[int(amax)]
        return whole if count == rows else whole * share

    tried = [float(number) for number in range(len(losses))]
    before = {amax: loss(amax, rows) for amax in tried[:known]}
    wholes = [whole for whole, _ in losses]
    assert searched._least(tried, loss, rows, before) == wholes.index(min(wholes))


def test_thresholds_far_from_the_best_are_tried_on_a_few_rows_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[tuple[int, float]] = []

    def counted(rows: Array, amax: float, out: Array) -> None:
        tried.append((len(rows), amax))
        _quantize(rows, amax, out)

    monkeypatch.setattr(searched, "_quantize", counted)
    x = np.random.default_rng(7).standard_normal((251, 65)).astype(np.float32)
    amax_output(collected(x), matrix())
    in_full = [amax for rows, amax in tried if rows == 251]
    assert 3 <= len(in_full) < 0.7 * (len(tried) - len(in_full))
    assert len(set(tried)) == len(tried)


def test_output_counts_the_rounding_of_the_weight() -> None:
    # The second weight is rounded to 0, so the large value reaches the float output only.
    x, weight = np.array([[1, 1000]], np.float32), np.array([[1], [0.4 / 127]], np.float32)
    found = amax_output(collected(x), weight)
    best = min(output_error(x, weight, amax) for amax in grid(1000.0))
    assert output_error(x, weight, found) <= 1.03 * best
    assert found < 500


@pytest.mark.parametrize("amax", [127.0, 0.3, 1e-3])
def test_values_are_quantized_bit_for_bit_as_the_contract_has_it(amax: float) -> None:
    halves = np.arange(-260, 261, dtype=np.float32) / 2  # all ties, and codes beyond both ends
    x = np.concatenate([halves * scale_of(amax), np.random.default_rng(0).standard_t(3, 5_003)])
    x = x.astype(np.float32).reshape(4, -1)
    out = np.empty_like(x)
    _quantize(x, amax, out)
    expected = dequantize(quantize(x, scale_of(amax)), scale_of(amax))
    assert np.array_equal(out, expected)


def test_output_sees_that_an_outlier_meets_a_weight_of_zero() -> None:
    x, weight = tokens(), matrix()
    weight[3] = 0
    assert amax_output(collected(x), weight) < amax_sqnr(collected(x)) / 2


def test_a_token_of_large_values_counts_no_more_than_any_other() -> None:
    x = np.random.default_rng(3).standard_normal((200, 64)).astype(np.float32)
    large = x.copy()
    large[0] *= 50
    # A plain mean squared error keeps almost all of the one large token, at the others' cost.
    assert amax_mse(collected(large)) > 100
    assert amax_sqnr(collected(large)) < 25


def test_a_row_counts_as_often_as_it_was_seen() -> None:
    random = np.random.default_rng(4)
    small, large = random.uniform(-0.01, 0.01, (1, 64)), random.uniform(-1, 1, (1, 64))
    often_small = np.concatenate([np.tile(small, (3_000, 1)), large])
    often_large = np.concatenate([small, np.tile(large, (3_000, 1))])
    for x, low, high in ((often_small, 0, 0.2), (often_large, 0.9, 1)):
        found = amax_sqnr(collected(x))
        assert low < found < high
        best = min(input_error(x.astype(np.float32), amax) for amax in grid(1.0))
        assert input_error(x.astype(np.float32), found) <= 1.03 * best


def test_rows_of_zeros_do_not_matter() -> None:
    x, weight = tokens(), matrix()
    with_zeros = np.concatenate([x, np.zeros((9, x.shape[1]), np.float32)])
    assert amax_sqnr(collected(with_zeros)) == amax_sqnr(collected(x))
    assert amax_output(collected(with_zeros), weight) == amax_output(collected(x), weight)


def test_zeros_at_the_end_of_the_rows_do_not_matter() -> None:
    x = tokens()
    assert amax_sqnr(collected(np.pad(x, ((0, 0), (0, 14))))) == pytest.approx(
        amax_sqnr(collected(x)), rel=1e-6
    )


def test_rows_without_an_output_leave_the_largest_magnitude() -> None:
    assert amax_output(collected(tokens()), np.zeros((65, 4), np.float32)) == np.abs(tokens()).max()


def test_a_sample_of_zeros_leaves_the_largest_magnitude() -> None:
    seen, zeros = collected(tokens()), collected(np.zeros((3, 65)))
    object.__setattr__(seen, "rows", zeros.rows)
    assert amax_sqnr(seen) == amax_output(seen, matrix()) == seen.peak


@pytest.mark.parametrize("shape", [(64, 5), (66, 5), (65,), (5, 65)])
def test_a_weight_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"rows of 65 values meet .*; wanted a weight \[65, N\]"):
        amax_output(collected(tokens()), np.ones(shape, np.float32))


@pytest.mark.parametrize("unit", [1e-30, 1e-12, 1e12, 1e30])
def test_units_far_from_one_give_the_same_share(unit: float) -> None:
    x, weight = tokens(), matrix()
    scaled = collected(x * np.float32(unit))
    assert amax_sqnr(scaled) / scaled.peak == pytest.approx(
        amax_sqnr(collected(x)) / np.abs(x).max(), rel=1e-6
    )
    found = amax_output(scaled, weight * np.float32(unit))
    assert found / scaled.peak == pytest.approx(
        amax_output(collected(x), weight) / np.abs(x).max(), rel=1e-6
    )


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 9))
def test_the_range_is_above_zero_and_never_above_the_peak(
    seed: int, rows: int, columns: int
) -> None:
    x = np.random.default_rng(seed).standard_t(1, (rows, columns)).astype(np.float32)
    seen, weight = collected(x), matrix(columns, 3, seed)
    assert 0 < amax_sqnr(seen) <= seen.peak
    assert 0 < amax_output(seen, weight) <= seen.peak


def test_searching_leaves_rows_and_weight_alone() -> None:
    seen, weight = collected(tokens()), matrix()
    assert seen.rows is not None
    before = seen.rows.rows.copy(), weight.copy()
    amax_output(seen, weight)
    assert np.array_equal(seen.rows.rows, before[0])
    assert np.array_equal(weight, before[1])
