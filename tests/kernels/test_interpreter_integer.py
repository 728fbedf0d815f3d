"""Integer instructions of the interpreter against Python's own integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.report import KernelFault
from tests.kernels.snippets import Array, each, integers
from tests.kernels.tools import needs_gxx

pytestmark = needs_gxx

TYPES: dict[str, Any] = {
    "s16": np.int16,
    "u16": np.uint16,
    "s32": np.int32,
    "u32": np.uint32,
    "s64": np.int64,
    "u64": np.uint64,
}


def wrap(value: int, dtype: Any) -> int:
    """`value` modulo two to the bits of `dtype`, in its range."""
    limits = np.iinfo(dtype)
    lowest = int(limits.min)
    return (value - lowest) % (1 << limits.bits) + lowest


def oracle(function: Callable[..., int], sources: list[Array], dtype: Any) -> Array:
    """`function` of Python integers for each element, wrapped into `dtype`."""
    rows = zip(*(x.tolist() for x in sources), strict=True)
    return np.array([wrap(function(*row), dtype) for row in rows], dtype)


def truncated(a: int, b: int) -> int:
    """Quotient towards zero."""
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


TWO_OPERANDS: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul.lo": lambda a, b: a * b,
    "min": min,
    "max": max,
}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", TWO_OPERANDS)
def test_two_operands_wrap_at_the_size_of_the_type(name: str, kind: str) -> None:
    a, b = (integers(TYPES[kind], seed=seed) for seed in (1, 2))
    out = each(f"{name}.{kind} %d, %a, %b;", [a, b], TYPES[kind])
    assert np.array_equal(out, oracle(TWO_OPERANDS[name], [a, b], TYPES[kind]))


@pytest.mark.parametrize("kind", TYPES)
def test_the_high_half_of_a_product(kind: str) -> None:
    a, b, c = (integers(TYPES[kind], seed=seed) for seed in (3, 4, 5))
    bits = int(kind[1:])
    high = each(f"mul.hi.{kind} %d, %a, %b;", [a, b], TYPES[kind])
    assert np.array_equal(high, oracle(lambda x, y: x * y >> bits, [a, b], TYPES[kind]))
    added = each(f"mad.hi.{kind} %d, %a, %b, %c;", [a, b, c], TYPES[kind])
    expected = oracle(lambda x, y, z: (x * y >> bits) + z, [a, b, c], TYPES[kind])
    assert np.array_equal(added, expected)


@pytest.mark.parametrize("kind", TYPES)
def test_multiply_add_keeps_the_low_half(kind: str) -> None:
    a, b, c = (integers(TYPES[kind], seed=seed) for seed in (6, 7, 8))
    out = each(f"mad.lo.{kind} %d, %a, %b, %c;", [a, b, c], TYPES[kind])
    assert np.array_equal(out, oracle(lambda x, y, z: x * y + z, [a, b, c], TYPES[kind]))


@pytest.mark.parametrize("kind", ["s16", "u16", "s32", "u32"])
def test_wide_products_keep_every_bit(kind: str) -> None:
    a, b = (integers(TYPES[kind], seed=seed) for seed in (9, 10))
    wide = TYPES[f"{kind[0]}{2 * int(kind[1:])}"]
    c = integers(wide, seed=11)
    assert np.array_equal(
        each(f"mul.wide.{kind} %d, %a, %b;", [a, b], wide), a.astype(wide) * b.astype(wide)
    )
    out = each(f"mad.wide.{kind} %d, %a, %b, %c;", [a, b, c], wide)
    assert np.array_equal(out, oracle(lambda x, y, z: x * y + z, [a, b, c], wide))


@pytest.mark.parametrize("kind", TYPES)
def test_division_goes_towards_zero_and_the_remainder_follows_the_dividend(kind: str) -> None:
    a, b = (integers(TYPES[kind], seed=seed) for seed in (12, 13))
    b[b == 0] = 7
    quotient = each(f"div.{kind} %d, %a, %b;", [a, b], TYPES[kind])
    remainder = each(f"rem.{kind} %d, %a, %b;", [a, b], TYPES[kind])
    assert np.array_equal(quotient, oracle(truncated, [a, b], TYPES[kind]))
    expected = oracle(lambda x, y: x - y * truncated(x, y), [a, b], TYPES[kind])
    assert np.array_equal(remainder, expected)


def test_division_by_zero_is_a_fault() -> None:
    with pytest.raises(KernelFault, match="division by zero") as raised:
        each("div.s32 %d, %a, 0;", [integers(np.int32)], np.int32)
    assert raised.value.kind == "undefined"


@pytest.mark.parametrize("kind", ["s16", "s32", "s64"])
def test_sign_operations_wrap_at_the_lowest_number(kind: str) -> None:
    a = integers(TYPES[kind], seed=14)
    assert np.array_equal(each(f"neg.{kind} %d, %a;", [a], a.dtype), -a)
    expected = oracle(abs, [a], TYPES[kind])
    assert np.array_equal(each(f"abs.{kind} %d, %a;", [a], a.dtype), expected)


@pytest.mark.parametrize(("name", "sign"), [("add", 1), ("sub", -1)])
def test_saturating_sums_stop_at_the_ends(name: str, sign: int) -> None:
    a, b = integers(np.int32, seed=15), integers(np.int32, seed=16)
    out = each(f"{name}.sat.s32 %d, %a, %b;", [a, b], np.int32)
    exact = a.astype(np.int64) + sign * b.astype(np.int64)
    assert np.array_equal(out, np.clip(exact, -(2**31), 2**31 - 1))


@pytest.mark.parametrize("kind", TYPES)
def test_sum_of_absolute_differences(kind: str) -> None:
    a, b, c = (integers(TYPES[kind], seed=seed) for seed in (17, 18, 19))
    out = each(f"sad.{kind} %d, %a, %b, %c;", [a, b, c], TYPES[kind])
    assert np.array_equal(out, oracle(lambda x, y, z: z + abs(x - y), [a, b, c], TYPES[kind]))


@pytest.mark.parametrize("kind", [*TYPES, "b16", "b32", "b64"])
def test_right_shifts_beyond_the_width_leave_only_the_sign(kind: str) -> None:
    dtype = TYPES.get(kind, TYPES[f"u{kind[1:]}"])
    a = integers(dtype, seed=20)
    by = np.arange(a.size, dtype=np.uint32) % 70
    out = each(f"shr.{kind} %d, %a, %b;", [a, by], dtype)
    assert np.array_equal(out, oracle(lambda x, n: x >> n, [a, by], dtype))


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_left_shifts_beyond_the_width_leave_nothing(bits: int) -> None:
    a = integers(TYPES[f"u{bits}"], seed=21)
    by = np.arange(a.size, dtype=np.uint32) % 70
    out = each(f"shl.b{bits} %d, %a, %b;", [a, by], a.dtype)
    assert np.array_equal(out, oracle(lambda x, n: x << n, [a, by], a.dtype))


def funnel(direction: str, mode: str) -> Callable[[int, int, int], int]:
    """The 64 bits b:a moved; PTX ISA, shf."""

    def shifted(low: int, high: int, amount: int) -> int:
        by = amount % 32 if mode == "wrap" else min(amount, 32)
        both = high << 32 | low
        return both >> by if direction == "r" else (both << by) >> 32

    return shifted


@pytest.mark.parametrize("direction", ["l", "r"])
@pytest.mark.parametrize("mode", ["clamp", "wrap"])
def test_funnel_shifts_take_32_of_64_bits(direction: str, mode: str) -> None:
    a, b = integers(np.uint32, seed=22), integers(np.uint32, seed=23)
    by = np.arange(a.size, dtype=np.uint32) % 70
    out = each(f"shf.{direction}.{mode}.b32 %d, %a, %b, %c;", [a, b, by], np.uint32)
    assert np.array_equal(out, oracle(funnel(direction, mode), [a, b, by], np.uint32))


BYTES = {"u32": np.uint8, "s32": np.int8}


@pytest.mark.parametrize("left", BYTES)
@pytest.mark.parametrize("right", BYTES)
def test_dot_products_of_bytes_keep_each_sign(left: str, right: str) -> None:
    a, b, c = (integers(np.uint32, seed=seed) for seed in (24, 25, 26))
    out = each(f"dp4a.{left}.{right} %d, %a, %b, %c;", [a, b, c], np.uint32)
    x = a.view(BYTES[left]).astype(np.int64).reshape(-1, 4)
    y = b.view(BYTES[right]).astype(np.int64).reshape(-1, 4)
    assert np.array_equal(out, ((x * y).sum(1) + c).astype(np.uint64).astype(np.uint32))


WORDS = st.integers(0, 2**32 - 1)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=40))
def test_low_and_high_halves_make_the_wide_product(pairs: list[tuple[int, int]]) -> None:
    a, b = (np.array(column, np.uint32) for column in zip(*pairs, strict=True))
    low = each("mul.lo.u32 %d, %a, %b;", [a, b], np.uint32).astype(np.uint64)
    high = each("mul.hi.u32 %d, %a, %b;", [a, b], np.uint32).astype(np.uint64)
    assert np.array_equal(high << 32 | low, each("mul.wide.u32 %d, %a, %b;", [a, b], np.uint64))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(WORDS, WORDS.filter(bool)), min_size=1, max_size=40))
def test_quotient_times_divisor_plus_remainder_is_the_dividend(
    pairs: list[tuple[int, int]],
) -> None:
    a, b = (np.array(column, np.uint32).view(np.int32) for column in zip(*pairs, strict=True))
    code = "div.s32 %d, %a, %b; rem.s32 %t, %a, %b; mad.lo.s32 %d, %d, %b, %t;"
    assert np.array_equal(each(code, [a, b], np.int32), a)
