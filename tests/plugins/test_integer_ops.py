"""Sizes and scales that the integer-only kernels take, and what they say to others."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trt_int8.errors import PluginError
from trt_int8.plugins.integer_constants import dyadic
from trt_int8.plugins.integer_ops import IntegerGelu, IntegerLayerNorm, IntegerSoftmax

NAN, INFINITY = math.nan, math.inf


def layernorm(gamma: list[float], beta: list[float] | None = None) -> IntegerLayerNorm:
    return IntegerLayerNorm(tuple(gamma), tuple(beta or [0.0] * len(gamma)), 0.05)


@given(st.floats(1e-12, 1e6))
def test_a_ratio_has_31_bits_and_their_precision(ratio: float) -> None:
    found = dyadic(Fraction(ratio))
    assert 2**30 <= found.multiplier < 2**31 or found.shift == 62
    error = abs(Fraction(found.multiplier, 2**found.shift) / Fraction(ratio) - 1)
    assert error <= max(Fraction(1, 2**31), Fraction(1, 2**63) / Fraction(ratio))


@pytest.mark.parametrize("ratio", [2.0**k for k in (-40, -1, 0, 7)])
def test_a_power_of_two_is_exact(ratio: float) -> None:
    found = dyadic(Fraction(ratio))
    assert Fraction(found.multiplier, 2**found.shift) == Fraction(ratio)


def test_a_ratio_that_rounds_up_to_a_power_of_two_keeps_31_bits() -> None:
    found = dyadic(1 - Fraction(1, 2**40))
    assert (found.multiplier, found.shift) == (2**30, 30)


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_ratio_beyond_31_bits_is_refused(sign: int) -> None:
    with pytest.raises(PluginError, match=r"ratio of two scales is -?2\.15e\+09; wanted at most"):
        dyadic(Fraction(sign * 2**31))


@given(st.floats(2e-14, 1e5))
@settings(deadline=None)
def test_the_shift_of_softmax_is_the_smallest_with_31_bits(scale: float) -> None:
    made = IntegerSoftmax(scale).constants
    assert made.constant.bit_length() <= 31
    # One shift less makes the constant four times as large.
    assert (4 * made.constant + 3).bit_length() > 31


@given(st.floats(2e-14, 1e5), st.floats(0, 1))
@settings(deadline=None)
def test_the_multiplication_divides_by_ln2(scale: float, share: float) -> None:
    made = IntegerSoftmax(scale).constants
    for d in {0, made.ln2 - 1, made.ln2, int(share * made.limit), made.limit - 1, made.limit}:
        assert d * made.reciprocal >> 40 == d // made.ln2
    # For all others too (Granlund and Montgomery 1994, theorem 4.2).
    assert made.limit * (made.reciprocal * made.ln2 - 2**40) < 2**40


@given(st.floats(6e-5, 1 / 256), st.floats(0.001, 0.2))
@settings(deadline=None)
def test_the_shift_of_gelu_is_the_smallest_with_31_bits(scale: float, output: float) -> None:
    made = IntegerGelu(scale, output).constants
    largest = made.clamp * -((made.constant >> made.shift) + made.one)
    assert largest.bit_length() <= 31
    assert made.shift == 0 or 2 * largest + 4 * made.clamp >= 2**31


def test_constants_fit_the_32_bit_arguments_of_a_kernel() -> None:
    found = [
        *IntegerSoftmax(1e-3).arguments(3, 5),
        *IntegerGelu(2e-5, 0.08).arguments(7),
        *IntegerGelu(1e-3, 0.08).arguments(7),
        *layernorm([1.0, -2.0]).arguments(3),
    ]
    assert all(-(2**31) <= value < 2**31 for value in found)


def test_a_constant_of_gelu_crosses_in_two_halves() -> None:
    op = IntegerGelu(2e-5, 0.08)
    low, high = op.arguments(7)[3:5]
    assert high * 2**32 + low % 2**32 == op.constants.constant < -(2**32)


@pytest.mark.parametrize("scale", [0.0, -1.0, NAN, INFINITY])
def test_a_scale_that_is_none_is_refused(scale: float) -> None:
    for op in (IntegerSoftmax(scale), IntegerGelu(scale, 0.1), IntegerGelu(1e-3, scale)):
        with pytest.raises(PluginError, match=r"got the scale .*wanted a finite number > 0"):
            _ = op.constants


@pytest.mark.parametrize("scale", [1.6e-14, 1.6e5, 5e-324, 1e300])
def test_softmax_names_the_scales_it_takes(scale: float) -> None:
    with pytest.raises(PluginError, match=r"scale .*wanted 1\.7e-14 to 1\.5e5"):
        _ = IntegerSoftmax(scale).constants


@pytest.mark.parametrize("scale", [1.7e-14, 1.5e5])
def test_softmax_takes_the_scales_it_names(scale: float) -> None:
    assert IntegerSoftmax(scale).constants.ln2 > 9000


@pytest.mark.parametrize(
    ("scale", "output", "least"),
    [(1e-5, 0.08, "1.968e-05"), (0.004, 0.08, "1.968e-05"), (4.7e-6, 0.001, "4.772e-06")],
)
def test_gelu_names_the_scales_it_takes(scale: float, output: float, least: str) -> None:
    with pytest.raises(PluginError, match=f"wanted an input scale from {least} to 1/256"):
        _ = IntegerGelu(scale, output).constants


@pytest.mark.parametrize(("scale", "output"), [(1.969e-5, 0.08), (1 / 256, 0.08), (4.8e-6, 0.001)])
def test_gelu_takes_the_scales_it_names_with_steps_enough(scale: float, output: float) -> None:
    assert -IntegerGelu(scale, output).constants.one >= 1024


@pytest.mark.parametrize(
    ("gamma", "beta", "channels"),
    [
        ([1.0, 0.0, 2.0], [0.0] * 3, r"\[1\]"),
        ([1.0, 1e-7, -1e-8], [0.0] * 3, r"\[1, 2\]"),
        ([1.0, 1e-3], [0.0, 1e6], r"\[1\]"),
    ],
)
def test_a_gamma_of_nothing_is_named(gamma: list[float], beta: list[float], channels: str) -> None:
    with pytest.raises(PluginError, match=rf"gamma that is 0, or nearly so in channels {channels}"):
        _ = layernorm(gamma, beta).constants


@pytest.mark.parametrize("value", [NAN, INFINITY, -INFINITY])
def test_weights_that_are_no_numbers_are_named(value: float) -> None:
    for op in (layernorm([1.0, value]), layernorm([1.0, 1.0], [0.0, value])):
        with pytest.raises(PluginError, match=r"NaN or infinite in channels \[1\] \(1 in all\)"):
            _ = op.constants


def test_weights_of_different_lengths_are_refused() -> None:
    with pytest.raises(PluginError, match="got 2 values of gamma and 1 of beta"):
        _ = IntegerLayerNorm((1.0, 1.0), (0.0,), 0.05).constants


def test_channel_inputs_have_the_types_the_kernel_reads() -> None:
    multipliers, biases = layernorm([1.0, -2.0], [3.0, 4.0]).channel_inputs()
    assert [multipliers.dtype.str, biases.dtype.str] == ["<i4", "<i8"]
    assert multipliers[1] == -2 * multipliers[0]


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (1, 65537), (2**20, 2**12)])
def test_sizes_out_of_reach_are_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(PluginError, match=r"i_softmax got \d+ rows of \d+ elements; wanted"):
        IntegerSoftmax(1e-3).launch(*shape, 75)
    with pytest.raises(PluginError, match="i_gelu got 1 rows"):
        IntegerGelu(1e-3, 0.1).launch(0, 75)


def test_an_old_architecture_is_refused() -> None:
    with pytest.raises(PluginError, match=r"i_gelu was asked for sm_70; wanted sm_75 or later"):
        IntegerGelu(1e-3, 0.1).launch(5, 70)


@pytest.mark.parametrize(("rows", "blocks"), [(1, 1), (4, 1), (5, 2), (401, 101)])
def test_a_warp_has_a_row(rows: int, blocks: int) -> None:
    assert IntegerSoftmax(1e-3).launch(rows, 7, 75).grid == (blocks, 1, 1)
    assert layernorm([1.0] * 7).launch(rows, 75).grid == (blocks, 1, 1)


@pytest.mark.parametrize(("length", "width"), [(1, 1), (4, 4), (6, 1), (128, 4), (131, 1)])
def test_four_elements_go_together_where_rows_allow_it(length: int, width: int) -> None:
    assert ("WIDTH", width) in IntegerSoftmax(1e-3).launch(1, length, 80).variant.defines
