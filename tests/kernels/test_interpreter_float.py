"""Floating point of the interpreter against NumPy and exact fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.kernels.snippets import each, floats, same_floats
from tests.kernels.tools import needs_gxx

pytestmark = [needs_gxx, pytest.mark.filterwarnings("ignore::RuntimeWarning")]

Floats = NDArray[np.float32]


def nearest_float(exact: Fraction) -> np.float32:
    """The float32 nearest to an exact value, ties to even; no overflow, normal numbers only."""
    if exact == 0:
        return np.float32(0)
    exponent = abs(exact).numerator.bit_length() - abs(exact).denominator.bit_length()
    if abs(exact) < Fraction(2) ** exponent:
        exponent -= 1
    step = Fraction(2) ** (exponent - 23)
    return np.float32(float(round(exact / step) * step))


@pytest.mark.parametrize("suffix", [".f32", ".rn.f32"])
def test_single_operations_are_those_of_ieee(suffix: str) -> None:
    a, b = floats(seed=1), floats(seed=2)
    for name, expected in {"add": a + b, "sub": a - b, "mul": a * b}.items():
        assert same_floats(each(f"{name}{suffix} %d, %a, %b;", [a, b], np.float32), expected)


def test_division_root_and_reciprocal_are_rounded_to_nearest() -> None:
    a, b = floats(seed=3), floats(seed=4)
    one = np.float32(1)
    assert same_floats(each("div.rn.f32 %d, %a, %b;", [a, b], np.float32), a / b)
    assert same_floats(each("sqrt.rn.f32 %d, %a;", [a], np.float32), np.sqrt(a))
    assert same_floats(each("rcp.rn.f32 %d, %a;", [a], np.float32), one / a)


def test_fma_rounds_once() -> None:
    random = np.random.default_rng(5)
    a, b = (random.standard_normal(500).astype(np.float32) for _ in range(2))
    # Sums that cancel are where one rounding and two differ most.
    c = -(a * b) * np.float32(1 + 2**-20)
    out = each("fma.rn.f32 %d, %a, %b, %c;", [a, b, c], np.float32)
    rows = zip(a.tolist(), b.tolist(), c.tolist(), strict=True)
    expected = [nearest_float(Fraction(x) * Fraction(y) + Fraction(z)) for x, y, z in rows]
    assert np.array_equal(out, np.array(expected, np.float32))
    assert not np.array_equal(out, a * b + c)


def test_multiply_and_add_apart_stay_two_roundings() -> None:
    random = np.random.default_rng(6)
    a, b, c = (random.standard_normal(500).astype(np.float32) for _ in range(3))
    out = each("mul.rn.f32 %d, %a, %b; add.rn.f32 %d, %d, %c;", [a, b, c], np.float32)
    assert np.array_equal(out, a * b + c)


def test_an_invalid_operation_gives_the_canonical_nan() -> None:
    zero = np.zeros(3, np.float32)
    out = each("div.rn.f32 %d, %a, %a;", [zero], np.float32)
    assert (out.view(np.uint32) == 0x7FFFFFFF).all()


def test_minimum_and_maximum_prefer_numbers_and_order_zeros() -> None:
    a = np.array([np.nan, 1, 0.0, -0.0, np.nan, -2], np.float32)
    b = np.array([2, np.nan, -0.0, 0.0, np.nan, 3], np.float32)
    low = each("min.f32 %d, %a, %b;", [a, b], np.float32)
    high = each("max.f32 %d, %a, %b;", [a, b], np.float32)
    assert same_floats(low, np.array([2, 1, -0.0, -0.0, np.nan, -2], np.float32))
    assert same_floats(high, np.array([2, 1, 0.0, 0.0, np.nan, 3], np.float32))


def test_nan_wins_where_the_instruction_says_so() -> None:
    a, b = floats(seed=7), floats(seed=8)
    assert same_floats(each("max.NaN.f32 %d, %a, %b;", [a, b], np.float32), np.maximum(a, b))
    assert same_floats(each("min.NaN.f32 %d, %a, %b;", [a, b], np.float32), np.minimum(a, b))


def test_sign_operations_touch_nothing_else() -> None:
    a, b = floats(seed=9), floats(seed=10)
    bits = a.view(np.uint32)
    assert np.array_equal(each("neg.f32 %d, %a;", [a], np.uint32), bits ^ 0x80000000)
    assert np.array_equal(each("abs.f32 %d, %a;", [a], np.uint32), bits & 0x7FFFFFFF)
    expected = (b.view(np.uint32) & 0x7FFFFFFF) | (bits & 0x80000000)
    assert np.array_equal(each("copysign.f32 %d, %a, %b;", [a, b], np.uint32), expected)


def flushed(x: Floats) -> Floats:
    """Subnormals as zeros of their sign."""
    return np.where(np.abs(x) < np.finfo(np.float32).tiny, np.copysign(np.float32(0), x), x)


@pytest.mark.parametrize("name", ["add", "mul"])
def test_ftz_flushes_inputs_and_results(name: str) -> None:
    a = np.array([1e-40, -1e-40, 2e-38, 1e-20, 1.0, 1.2e-38], np.float32)
    b = np.array([1.0, -1.0, -1.9e-38, 1e-20, 1e-41, -1.3e-38], np.float32)
    x, y = flushed(a), flushed(b)
    expected = flushed(x + y if name == "add" else x * y)
    assert same_floats(each(f"{name}.ftz.f32 %d, %a, %b;", [a, b], np.float32), expected)
    plain = a + b if name == "add" else a * b
    assert same_floats(each(f"{name}.f32 %d, %a, %b;", [a, b], np.float32), plain)
    assert not same_floats(plain, expected)


def test_approximate_functions_are_the_nearest_floats() -> None:
    x = np.abs(floats(seed=11))
    x = x[np.isfinite(x) & (x > 1e-6) & (x < 100)]
    wide = x.astype(np.float64)
    for code, exact in {
        "ex2.approx.f32": np.exp2(wide),
        "lg2.approx.f32": np.log2(wide),
        "rcp.approx.f32": 1 / wide,
        "rsqrt.approx.f32": 1 / np.sqrt(wide),
        "sqrt.approx.f32": np.sqrt(wide),
        "tanh.approx.f32": np.tanh(wide),
    }.items():
        out = each(f"{code} %d, %a;", [x], np.float32)
        assert np.array_equal(out, exact.astype(np.float32)), code


def test_exp2_has_its_special_values() -> None:
    a = np.array([-np.inf, np.inf, np.nan, 0.0, -0.0, -126, -127, -150, 128, 3], np.float32)
    plain = each("ex2.approx.f32 %d, %a;", [a], np.float32)
    assert same_floats(plain, np.exp2(a.astype(np.float64)).astype(np.float32))
    flush = each("ex2.approx.ftz.f32 %d, %a;", [a], np.float32)
    assert same_floats(flush, flushed(np.exp2(a.astype(np.float64)).astype(np.float32)))


def test_doubles_compute_as_doubles() -> None:
    a, b = floats(seed=12).astype(np.float64) / 3, floats(seed=13).astype(np.float64) / 7
    assert same_floats(each("add.rn.f64 %d, %a, %b;", [a, b], np.float64), a + b)
    assert same_floats(each("mul.f64 %d, %a, %b;", [a, b], np.float64), a * b)
    assert same_floats(each("div.rn.f64 %d, %a, %b;", [a, b], np.float64), a / b)
    assert same_floats(each("sqrt.rn.f64 %d, %a;", [a], np.float64), np.sqrt(a))
