from __future__ import annotations

import ctypes
import ctypes.util
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_int8.plugins.float32 import fused_multiply_add, to_half, to_int8


def fmaf(a: float, b: float, c: float) -> float:
    """The C library's fused multiply-add: rounded once, by another author."""
    name = ctypes.util.find_library("m")
    if name is None:
        pytest.skip("needs the C library's libm")
    function = ctypes.CDLL(name).fmaf
    function.argtypes = [ctypes.c_float] * 3
    function.restype = ctypes.c_float
    return float(function(a, b, c))


def fused(a: float, b: float, c: float) -> float:
    return float(fused_multiply_add(np.float32(a), np.float32(b), np.float32(c)))


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(a=FLOATS, b=FLOATS, c=FLOATS)
def test_fused_multiply_add_has_the_bits_of_the_c_library(a: float, b: float, c: float) -> None:
    assert fused(a, b, c) == fmaf(a, b, c)


@given(a=FLOATS, b=FLOATS, ulps=st.integers(-4, 4))
def test_fused_multiply_add_is_right_under_cancellation(a: float, b: float, ulps: int) -> None:
    product = np.float32(np.float64(a) * np.float64(b)) if abs(a * b) < 1e38 else np.float32(1)
    c = float(-product * np.float32(1 + ulps * 2.0**-23))
    assert fused(a, b, c) == fmaf(a, b, c)


def test_fused_multiply_add_rounds_once_where_float64_would_round_twice() -> None:
    # The exact sum is 2^-70 below a tie of float32: float64 rounds it to the tie, which then goes
    # up to even; rounded once it goes down.
    a, b, c = np.float32(1 + 2.0**-23), np.float32(2.0**-24 * (1 - 2.0**-23)), 1 + 2.0**-23
    twice = np.float32(np.float64(a) * np.float64(b) + c)
    assert float(twice) == 1 + 2.0**-22
    assert fused(float(a), float(b), c) == fmaf(float(a), float(b), c) == 1 + 2.0**-23


@pytest.mark.parametrize("operands", [(math.nan, 1.0, 1.0), (math.inf, 0.0, 1.0)])
def test_fused_multiply_add_of_an_undefined_product_is_nan(
    operands: tuple[float, float, float],
) -> None:
    with np.errstate(invalid="ignore"):
        assert math.isnan(fused(*operands))


def test_fused_multiply_add_keeps_infinity() -> None:
    with np.errstate(invalid="ignore"):
        assert fused(math.inf, 2.0, -1.0) == math.inf


def test_to_int8_rounds_half_to_even_and_saturates() -> None:
    values = np.array([0.5, 1.5, -0.5, -1.5, 126.5, 127.5, 1e9, -128.5, -1e9], np.float32)
    assert to_int8(values).tolist() == [0, 2, 0, -2, 126, 127, 127, -128, -128]


def test_to_int8_gives_zero_for_nan_and_the_ends_for_infinity() -> None:
    values = np.array([np.nan, np.inf, -np.inf], np.float32)
    assert to_int8(values).tolist() == [0, 127, -128]


def test_to_half_gives_infinity_beyond_its_range() -> None:
    values = np.array([65504.0, 65519.0, 65520.0, -1e30], np.float32)
    assert to_half(values).tolist() == [65504.0, 65504.0, np.inf, -np.inf]
