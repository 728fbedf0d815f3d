"""Bitwise instructions of the interpreter against Python's own integers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.kernels.snippets import each, integers
from tests.kernels.tools import needs_gxx

pytestmark = needs_gxx

WORDS = {16: np.uint16, 32: np.uint32, 64: np.uint64}
COUNTED = [32, 64]


@pytest.mark.parametrize("bits", WORDS)
def test_bitwise_operations(bits: int) -> None:
    a, b = integers(WORDS[bits], seed=1), integers(WORDS[bits], seed=2)
    for name, expected in {"and": a & b, "or": a | b, "xor": a ^ b}.items():
        assert np.array_equal(each(f"{name}.b{bits} %d, %a, %b;", [a, b], a.dtype), expected)
    assert np.array_equal(each(f"not.b{bits} %d, %a;", [a], a.dtype), ~a)


@pytest.mark.parametrize("name", ["and", "or", "xor"])
def test_predicates_combine_with_and_without_negation(name: str) -> None:
    a = np.array([0, 0, 1, 1], np.uint32)
    b = np.array([0, 1, 0, 1], np.uint32)
    read = "setp.ne.u32 %p, %a, 0; setp.ne.u32 %q, %b, 0; selp.u32 %d, 1, 0, %p; "
    code = f"{read} {name}.pred %p, %p, !%q; not.pred %p, %p; selp.u32 %d, 1, 0, %p;"
    expected = {"and": ~(a & ~b) & 1, "or": ~(a | (1 - b)) & 1, "xor": (a ^ b) & 1}[name]
    assert np.array_equal(each(code, [a, b], np.uint32), expected)


@pytest.mark.parametrize("table", [0x00, 0x80, 0xFE, 0x96, 0xCA, 0xE8, 0xF0, 0xCC, 0xAA, 0x1B])
def test_lop3_follows_its_truth_table(table: int) -> None:
    a, b, c = (integers(np.uint32, seed=seed) for seed in (3, 4, 5))
    out = each(f"lop3.b32 %d, %a, %b, %c, {table};", [a, b, c], np.uint32)
    expected = np.zeros_like(out)
    for bit in range(32):
        index = (a >> bit & 1) * 4 + (b >> bit & 1) * 2 + (c >> bit & 1)
        expected |= (table >> index & 1).astype(np.uint32) << np.uint32(bit)
    assert np.array_equal(out, expected)


def permuted(a: int, b: int, selector: int) -> int:
    """Bytes of b:a by the nibbles of the selector; bit 3 repeats the byte's sign (prmt)."""
    source = a.to_bytes(4, "little") + b.to_bytes(4, "little")
    chosen = []
    for nibble in (selector >> 4 * i & 15 for i in range(4)):
        byte = source[nibble & 7]
        chosen.append((0xFF if byte & 0x80 else 0) if nibble & 8 else byte)
    return int.from_bytes(bytes(chosen), "little")


def test_prmt_picks_bytes_and_signs() -> None:
    a, b, c = (integers(np.uint32, seed=seed) for seed in (6, 7, 8))
    out = each("prmt.b32 %d, %a, %b, %c;", [a, b, c], np.uint32)
    rows = zip(a.tolist(), b.tolist(), c.tolist(), strict=True)
    assert out.tolist() == [permuted(*row) for row in rows]


def test_prmt_with_a_constant_selector_interleaves_two_words() -> None:
    a = np.array([0x03020100], np.uint32)
    b = np.array([0x07060504], np.uint32)
    assert each("prmt.b32 %d, %a, %b, 0x5140;", [a, b], np.uint32)[0] == 0x05010400


def extracted(bits: int, *, signed: bool) -> Callable[[int, int, int], int]:
    """Bit field as an integer; cut off at the top of the word, signed by its own or that bit."""

    def field(value: int, position: int, length: int) -> int:
        word = value % (1 << bits)
        inside = max(0, min(length, bits - position))
        low = word >> position & ((1 << inside) - 1)
        top = min(position + length - 1, bits - 1)
        if signed and length and word >> top & 1:
            low -= 1 << inside
        return low

    return field


@pytest.mark.parametrize("bits", COUNTED)
@pytest.mark.parametrize("signed", [False, True])
def test_bfe_extends_the_field_by_its_sign(bits: int, signed: bool) -> None:
    dtype = np.dtype(f"{'i' if signed else 'u'}{bits // 8}")
    a = integers(dtype, seed=9)
    position = (np.arange(a.size) * 7 % (bits + 9)).astype(np.uint32)
    length = (np.arange(a.size) * 5 % (bits + 3)).astype(np.uint32)
    out = each(f"bfe.{'s' if signed else 'u'}{bits} %d, %a, %b, %c;", [a, position, length], dtype)
    rows = zip(a.tolist(), position.tolist(), length.tolist(), strict=True)
    expected = np.array([extracted(bits, signed=signed)(*row) for row in rows], dtype)
    assert np.array_equal(out, expected)


@pytest.mark.parametrize("bits", COUNTED)
def test_bfi_puts_a_field_into_a_word(bits: int) -> None:
    a, b = integers(WORDS[bits], seed=10), integers(WORDS[bits], seed=11)
    position = (np.arange(a.size) * 7 % bits).astype(np.uint32)
    length = (np.arange(a.size) * 5 % (bits + 3)).astype(np.uint32)
    out = each(f"bfi.b{bits} %d, %a, %b, %c, %e;", [a, b, position, length], a.dtype)
    expected = []
    for field, word, at, size in zip(
        *map(np.ndarray.tolist, (a, b, position, length)), strict=True
    ):
        mask = ((2**size - 1) << at) % 2**bits
        expected.append(word & ~mask | (field << at) & mask)
    assert out.tolist() == expected


@pytest.mark.parametrize("bits", COUNTED)
def test_bit_counts(bits: int) -> None:
    a = integers(WORDS[bits], seed=12)
    numbers = a.tolist()
    ones = each(f"popc.b{bits} %d, %a;", [a], np.uint32)
    zeros = each(f"clz.b{bits} %d, %a;", [a], np.uint32)
    assert ones.tolist() == [x.bit_count() for x in numbers]
    assert zeros.tolist() == [bits - x.bit_length() for x in numbers]
    backwards = each(f"brev.b{bits} %d, %a;", [a], a.dtype)
    assert backwards.tolist() == [int(f"{x:0{bits}b}"[::-1], 2) for x in numbers]


@pytest.mark.parametrize("kind", ["u32", "s32", "u64", "s64"])
def test_bfind_gives_the_top_bit_that_is_not_the_sign(kind: str) -> None:
    bits = int(kind[1:])
    a = integers(np.dtype(f"{'i' if kind[0] == 's' else 'u'}{bits // 8}"), seed=13)
    tops = [(x if x >= 0 else ~x).bit_length() - 1 for x in a.tolist()]
    found = each(f"bfind.{kind} %d, %a;", [a], np.int32)
    shifts = each(f"bfind.shiftamt.{kind} %d, %a;", [a], np.int32)
    assert found.tolist() == tops
    assert shifts.tolist() == [bits - 1 - top if top >= 0 else -1 for top in tops]
