"""cvt and mov of the interpreter against NumPy and Python."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest

from tests.kernels.snippets import Array, each, floats, integers, same_floats
from tests.kernels.tools import needs_gxx

pytestmark = [needs_gxx, pytest.mark.filterwarnings("ignore::RuntimeWarning")]

TYPES = {
    f"{'s' if kind == 'i' else 'u'}{8 * size}": np.dtype(f"{kind}{size}")
    for kind in "iu"
    for size in (1, 2, 4, 8)
}


@pytest.mark.parametrize(("to", "source"), list(itertools.product(TYPES, TYPES)))
def test_integers_are_cut_or_extended_by_their_own_sign(to: str, source: str) -> None:
    a = integers(TYPES[source], count=200, seed=1)
    out = each(f"cvt.{to}.{source} %d, %a;", [a], TYPES[to])
    assert np.array_equal(out, a.astype(TYPES[to]))


@pytest.mark.parametrize(("to", "source"), list(itertools.product(TYPES, TYPES)))
def test_saturating_conversions_clamp(to: str, source: str) -> None:
    a = integers(TYPES[source], count=200, seed=2)
    limits = np.iinfo(TYPES[to])
    out = each(f"cvt.sat.{to}.{source} %d, %a;", [a], TYPES[to])
    assert out.tolist() == [min(max(x, limits.min), limits.max) for x in a.tolist()]


def test_narrow_results_fill_a_wide_register_by_their_sign() -> None:
    a = np.array([0x80, 0x7F, 0x1FF], np.uint32)
    assert each("cvt.s8.u32 %d, %a;", [a], np.int32).tolist() == [-128, 127, -1]
    assert each("cvt.u8.u32 %d, %a;", [a], np.int32).tolist() == [128, 127, 255]


ROUND: dict[str, Callable[[float], int]] = {
    "rni": round,
    "rzi": math.trunc,
    "rmi": math.floor,
    "rpi": math.ceil,
}


@pytest.mark.parametrize("rounding", ROUND)
@pytest.mark.parametrize("to", ["s8", "u8", "s16", "s32", "u32", "s64", "u64"])
def test_floats_round_clamp_and_lose_nan(rounding: str, to: str) -> None:
    a = floats(seed=3)
    a[:6] = [0.5, 1.5, -0.5, -2.5, 126.5, -128.5]
    limits = np.iinfo(TYPES[to])
    expected = []
    for x in a.tolist():
        if math.isnan(x):
            expected.append(0)
        elif math.isinf(x):
            expected.append(limits.max if x > 0 else limits.min)
        else:
            expected.append(min(max(ROUND[rounding](x), limits.min), limits.max))
    for saturate in ("", ".sat"):
        out = each(f"cvt.{rounding}{saturate}.{to}.f32 %d, %a;", [a], TYPES[to])
        assert out.tolist() == [int(x) for x in expected]


@pytest.mark.parametrize("source", ["s8", "u8", "s16", "u16", "s32", "u32", "s64", "u64"])
def test_integers_become_the_nearest_float(source: str) -> None:
    a = integers(TYPES[source], seed=4)
    out = each(f"cvt.rn.f32.{source} %d, %a;", [a], np.float32)
    assert np.array_equal(out, a.astype(np.float32))


@pytest.mark.parametrize("rounding", ROUND)
def test_floats_round_to_whole_floats(rounding: str) -> None:
    a = floats(seed=5)
    rounded = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}[rounding](a)
    assert same_floats(each(f"cvt.{rounding}.f32.f32 %d, %a;", [a], np.float32), rounded)


def test_saturating_float_goes_to_the_unit_interval() -> None:
    a = np.array([-1, 0.25, 3, np.nan, np.inf], np.float32)
    assert each("cvt.sat.f32.f32 %d, %a;", [a], np.float32).tolist() == [0, 0.25, 1, 0, 1]


def test_every_half_becomes_its_float() -> None:
    bits = np.arange(2**16, dtype=np.uint16)
    out = each("cvt.f32.f16 %d, %a;", [bits], np.float32)
    assert same_floats(out, bits.view(np.float16).astype(np.float32))


def half_inputs() -> Array:
    """Floats around every half, on the ties between two, and beyond the largest."""
    finite = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    middle = (finite[1:] + finite[:-1]) / 2
    near = np.nextafter(middle.astype(np.float32), np.float32(np.inf))
    tops = np.array([65519.99, 65520, 65504, 1e9, np.inf, np.nan, 1e-9, 2**-25], np.float32)
    positive = np.concatenate([finite.astype(np.float32), middle.astype(np.float32), near, tops])
    return np.concatenate([positive, -positive])


def test_floats_become_the_nearest_half() -> None:
    a = half_inputs()
    out = each("cvt.rn.f16.f32 %d, %a;", [a], np.uint16).view(np.float16)
    assert same_floats(out, a.astype(np.float16))


def test_two_floats_become_a_pair_of_halves() -> None:
    a, b = floats(seed=6), floats(seed=7)
    out = each("cvt.rn.f16x2.f32 %d, %a, %b;", [a, b], np.uint32).view(np.float16).reshape(-1, 2)
    assert same_floats(out[:, 1].copy(), a.astype(np.float16))
    assert same_floats(out[:, 0].copy(), b.astype(np.float16))


def test_floats_and_doubles() -> None:
    a = floats(seed=8)
    wide = each("cvt.f64.f32 %d, %a;", [a], np.float64)
    assert same_floats(wide, a.astype(np.float64))
    x = wide * (1 + 2.0**-30)
    assert same_floats(each("cvt.rn.f32.f64 %d, %a;", [x], np.float32), x.astype(np.float32))


@pytest.mark.parametrize("kind", ["s8", "u8"])
def test_pack_puts_two_saturated_bytes_below_the_third_operand(kind: str) -> None:
    a, b, c = (integers(np.int32, seed=seed) // 2**20 for seed in (9, 10, 11))
    out = each(f"cvt.pack.sat.{kind}.s32.b32 %d, %a, %b, %c;", [a, b, c], np.uint32)
    limits = np.iinfo(TYPES[kind])
    low, high = (np.clip(x, limits.min, limits.max).astype(np.int64) & 0xFF for x in (b, a))
    expected = (c.astype(np.int64) & 0xFFFF) << 16 | high << 8 | low
    assert np.array_equal(out, expected)


@pytest.mark.parametrize("kind", ["s16", "u16"])
def test_pack_of_two_words(kind: str) -> None:
    a, b = (integers(np.int32, seed=seed) // 2**8 for seed in (12, 13))
    out = each(f"cvt.pack.sat.{kind}.s32 %d, %a, %b;", [a, b], np.uint32)
    limits = np.iinfo(TYPES[kind])
    low, high = (np.clip(x, limits.min, limits.max).astype(np.int64) & 0xFFFF for x in (b, a))
    assert np.array_equal(out, high << 16 | low)


def test_vectors_in_braces_pack_and_unpack() -> None:
    a = integers(np.uint64, seed=14)
    swap = ".reg .b32 %lo, %hi; mov.b64 {%lo, %hi}, %a; mov.b64 %d, {%hi, %lo};"
    assert np.array_equal(each(swap, [a], np.uint64), a << np.uint64(32) | a >> np.uint64(32))
    quarter = ".reg .b16 %w<4>; mov.b64 {%w0, %w1, %w2, %w3}, %a; mov.b32 %d, {%w3, %w1};"
    parts = a.view(np.uint16).reshape(-1, 4)
    expected = parts[:, 3].astype(np.uint32) | parts[:, 1].astype(np.uint32) << 16
    assert np.array_equal(each(quarter, [a], np.uint32), expected)


def test_an_underscore_drops_a_part() -> None:
    a = integers(np.uint64, seed=15)
    out = each("mov.b64 {_, %d}, %a;", [a], np.uint32)
    assert np.array_equal(out, (a >> np.uint64(32)).astype(np.uint32))


def test_numbers_are_read_in_every_notation() -> None:
    a = np.zeros(1, np.uint32)
    for text, value in {"0x1F": 31, "017": 15, "0b101": 5, "-3": 2**32 - 3, "7U": 7}.items():
        assert each(f"add.u32 %d, %a, {text};", [a], np.uint32)[0] == value
    assert each("mov.f32 %d, 0f3FC00000;", [a], np.float32)[0] == 1.5
    assert each("mov.f64 %d, 0d3FF8000000000000;", [a], np.float64)[0] == 1.5
