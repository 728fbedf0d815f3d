"""The NumPy model equals big-integer arithmetic, and stays within the errors of the paper."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import erf

from tests.plugins import integer_oracle as oracle
from trt_int8.plugins import integer_ops_model as model
from trt_int8.plugins.integer_ops import IntegerGelu, IntegerLayerNorm, IntegerSoftmax

INT32 = st.integers(-(2**31), 2**31 - 1)
# Dense where scores and accumulators are, and at the ends.
VALUES = st.one_of(st.integers(-300, 300), st.integers(-(10**6), 10**6), INT32)
ROWS = st.lists(VALUES, min_size=1, max_size=33)
WEIGHTS = st.floats(0.01, 8.0).flatmap(lambda size: st.sampled_from([size, -size]))


def array(values: list[int]) -> NDArray[np.int32]:
    return np.array(values, dtype=np.int32)


def exact_gelu(x: NDArray[Any]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = x / 2 * (1 + erf(x / np.sqrt(2)))
    return result


def exact_softmax(x: NDArray[Any]) -> NDArray[np.float64]:
    powers = np.exp(x - x.max(-1, keepdims=True))
    result: NDArray[np.float64] = powers / powers.sum(-1, keepdims=True)
    return result


@given(ROWS, st.floats(1e-7, 10.0), st.booleans())
@settings(max_examples=200, deadline=None)
def test_softmax_equals_the_big_integers(row: list[int], scale: float, signed: bool) -> None:
    found = model.softmax(IntegerSoftmax(scale, signed), array(row))
    assert found.tolist() == oracle.softmax(row, scale, signed=signed)


@given(ROWS, st.floats(6e-5, 1 / 256), st.floats(0.001, 0.2))
@settings(max_examples=200, deadline=None)
def test_gelu_equals_the_big_integers(row: list[int], scale: float, output: float) -> None:
    found = model.gelu(IntegerGelu(scale, output), array(row))
    assert found.tolist() == oracle.gelu(row, scale, output)


@given(st.lists(st.tuples(VALUES, WEIGHTS, st.floats(-4, 4)), min_size=1, max_size=33))
@settings(max_examples=200, deadline=None)
def test_layernorm_equals_the_big_integers(columns: list[tuple[int, float, float]]) -> None:
    row, gamma, beta = (list(part) for part in zip(*columns, strict=True))
    found = model.layernorm(IntegerLayerNorm(tuple(gamma), tuple(beta), 0.05), array(row))
    assert found.tolist() == oracle.layernorm(row, gamma, beta, 0.05)


@given(ROWS)
@settings(max_examples=200, deadline=None)
def test_every_bit_of_the_norm_equals_the_big_integers(row: list[int]) -> None:
    assert model.normalised(array(row)).tolist() == oracle.normalised(row)


@given(st.integers(-(2**62) + 1, 2**62 - 1), st.integers(1, 62))
@settings(max_examples=300, deadline=None)
def test_requantization_is_rounding_of_the_exact_quotient(value: int, shift: int) -> None:
    found = model.rounded(np.array([value], dtype=np.int64), shift)
    assert found.tolist() == [round(Fraction(value, 2**shift))]


@pytest.mark.parametrize("value", [-5, -3, -1, 1, 3, 5, 7])
def test_halves_go_to_the_even_neighbour(value: int) -> None:
    assert model.rounded(np.array([value]), 1).tolist() == [round(value / 2)]


@pytest.mark.parametrize("scale", [1e-6, 3.7e-5, 1e-4, 1e-3, 0.01, 0.1])
def test_the_exponential_is_as_close_as_the_paper_says(scale: float) -> None:
    distance = np.unique(np.linspace(0, 12 / scale, 20001).astype(np.int64))
    found = model.exponential(IntegerSoftmax(scale), distance) / 32767
    # Scores finer than 7.3e-5 are rounded to that first.
    finer = 7.3e-5 if scale < 3.6e-5 else 0.0
    assert np.abs(found - np.exp(-distance * scale)).max() <= 1.95e-3 + finer


@pytest.mark.parametrize("scale", [3.7e-5, 1e-3, 0.01, 0.1])
@pytest.mark.parametrize("signed", [False, True])
def test_softmax_is_within_one_step_and_the_polynomial(scale: float, signed: bool) -> None:
    rng = np.random.default_rng(7)
    scores = np.rint(rng.normal(0, 1, (301, 127)) / scale).astype(np.int32)
    scores[::3] *= 4
    op = IntegerSoftmax(scale, signed)
    error = model.softmax(op, scores) * op.output_scale - exact_softmax(scores * scale)
    step = 0.5 / 127 if signed else 1 / 256
    assert np.abs(error).max() <= step + 0.002


def test_row_sums_of_unsigned_codes_are_those_of_the_paper() -> None:
    rng = np.random.default_rng(3)
    scores = np.rint(rng.normal(0, 1, (500, 128)) / 1e-3).astype(np.int32)
    sums = model.softmax(IntegerSoftmax(1e-3), scores).sum(-1, dtype=np.int64)
    assert sums.min() >= 170
    assert sums.max() <= 256


def test_unsigned_codes_round_down_and_signed_ones_do_not() -> None:
    even = array([0] * 3)
    assert model.softmax(IntegerSoftmax(1e-3), even).tolist() == [256 // 3] * 3
    assert model.softmax(IntegerSoftmax(1e-3, signed=True), even).tolist() == [42] * 3


@pytest.mark.parametrize(("signed", "one"), [(False, 255), (True, 127)])
@pytest.mark.parametrize("value", [-(2**31), -1, 0, 2**31 - 1])
def test_a_row_of_one_score_is_all_of_it(signed: bool, one: int, value: int) -> None:
    assert model.softmax(IntegerSoftmax(1e-3, signed), array([value])).tolist() == [one]


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e-3, 100.0])
def test_scores_at_the_ends_of_int32_do_not_wrap(scale: float) -> None:
    found = model.softmax(IntegerSoftmax(scale), array([-(2**31), 2**31 - 1]))
    wanted = exact_softmax(np.array([-(2**31), 2**31 - 1]) * scale)
    assert np.abs(found / 256 - wanted).max() <= 1 / 256 + 0.002


def test_without_16_bit_codes_a_row_would_be_lost() -> None:
    """The reason for them: sums of the 31-bit polynomial leave 32 bits, and the factor is 0."""
    made = IntegerSoftmax(5e-5).constants
    assert 2**32 // (100 * made.constant) == 0
    assert model.softmax(IntegerSoftmax(5e-5), array([0] * 100)).tolist() == [2] * 100


# Scales at which 32 bits hold everything with shifts from 20 to 0.
@pytest.mark.parametrize("scale", [3e-5, 1e-4, 2e-4, 5e-4, 1e-3, 3e-3, 1 / 256])
def test_gelu_is_as_close_as_the_paper_says(scale: float) -> None:
    op = IntegerGelu(scale, 0.04)
    q = np.unique(np.rint(np.linspace(-5, 5, 20001) / scale)).astype(np.int32)
    made = op.constants
    unit = made.to_codes.multiplier / 2.0**made.to_codes.shift * 0.04
    error = np.abs(model.gelu_product(op, q) * unit - exact_gelu(q * scale))
    assert (error <= 0.0182 + scale + np.abs(q * scale) / -made.one).all()
    # Negative control: the polynomial's own error shows, so the bound is not idle.
    assert error.max() > 0.017


def test_the_mean_error_of_gelu_is_that_of_the_paper() -> None:
    op = IntegerGelu(5e-4, 0.04)
    q = np.arange(-8000, 8001, dtype=np.int32)
    made = op.constants
    unit = made.to_codes.multiplier / 2.0**made.to_codes.shift * 0.04
    error = model.gelu_product(op, q) * unit - exact_gelu(q * 5e-4)
    assert np.sqrt((error**2).mean()) <= 0.0083


@given(VALUES, st.floats(6e-5, 1 / 256), st.floats(0.001, 0.2))
@settings(max_examples=200, deadline=None)
def test_the_product_of_gelu_fits_31_bits(value: int, scale: float, output: float) -> None:
    product = model.gelu_product(IntegerGelu(scale, output), array([value]))
    assert np.abs(product).max() < 2**31


def test_clamping_of_gelu_inputs_changes_no_code() -> None:
    op = IntegerGelu(1e-3, 0.02)
    ends = array([-(2**31), -(10**6), -op.constants.clamp, op.constants.clamp, 10**6, 2**31 - 1])
    assert model.gelu(op, ends).tolist() == [0, 0, 0, 127, 127, 127]


def norm_error(values: NDArray[np.int32], found: Any) -> float:
    """Largest error of fractions of the row's length, over the largest true one."""
    y = values - values.mean(-1, keepdims=True)
    wanted = y / np.sqrt((y**2).sum(-1, keepdims=True))
    return float(np.abs(np.array(found) / 2**30 - wanted).max() / np.abs(wanted).max())


def rows_of(bits: int, outlier: float) -> NDArray[np.int32]:
    """Rows of 768 with standard deviation 2, one channel larger, as codes of so many bits."""
    x = np.random.default_rng(bits).normal(0, 2, (16, 768))
    x[:, 5] *= outlier
    codes: NDArray[np.int32] = np.rint(x / np.abs(x).max() * (2 ** (bits - 1) - 1)).astype(np.int32)
    return codes


@pytest.mark.parametrize("bits", range(16, 25))
@pytest.mark.parametrize("outlier", [1.0, 30.0])
def test_the_norm_is_within_a_thousandth_of_the_largest(bits: int, outlier: float) -> None:
    values = rows_of(bits, outlier)
    assert norm_error(values, model.normalised(values)) <= 1e-3


def test_eight_bits_are_too_few_for_a_residual_sum() -> None:
    values = rows_of(8, 30.0)
    assert norm_error(values, model.normalised(values)) > 1e-3


def test_the_norm_has_the_published_bits_where_no_shift_is_needed() -> None:
    values = rows_of(12, 30.0)
    published = [oracle.published_normalised(row) for row in values.tolist()]
    assert model.normalised(values).tolist() == published


def test_the_norm_is_closer_than_the_published_one_where_it_shifts() -> None:
    values = rows_of(22, 1.0)
    published = [oracle.published_normalised(row) for row in values.tolist()]
    ours, theirs = norm_error(values, model.normalised(values)), norm_error(values, published)
    assert ours < theirs / 10


@pytest.mark.parametrize("value", [-(2**31), 0, 7, 2**31 - 1])
@pytest.mark.parametrize("length", [1, 5])
def test_a_row_of_equal_elements_gives_beta(value: int, length: int) -> None:
    op = IntegerLayerNorm((1.0,) * length, (0.5,) * length, 0.05)
    assert model.layernorm(op, array([value] * length)).tolist() == [10] * length


def test_a_negative_gamma_turns_the_sign() -> None:
    row = array([-100, 100, -100, 100])
    op = IntegerLayerNorm((1.0, -1.0, 1.0, -1.0), (0.0,) * 4, 0.01)
    assert model.layernorm(op, row).tolist() == [-100, -100, -100, -100]
