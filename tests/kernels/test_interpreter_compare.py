"""setp, selp and testp of the interpreter against NumPy."""

from __future__ import annotations

import operator

import numpy as np
import pytest

from tests.kernels.snippets import Array, each, floats, integers
from tests.kernels.tools import needs_gxx

pytestmark = needs_gxx

ORDER = {"eq": operator.eq, "ne": operator.ne, "lt": operator.lt}
ORDER |= {"le": operator.le, "gt": operator.gt, "ge": operator.ge}
UNSIGNED_NAMES = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}
INTEGERS = {
    f"{kind}{bits}": np.dtype(f"{'i' if kind == 's' else 'u'}{bits // 8}")
    for kind in "su"
    for bits in (16, 32, 64)
}


def as_word(code: str, sources: list[Array]) -> Array:
    """1 where the code sets %p, else 0."""
    return each(f"{code} selp.u32 %d, 1, 0, %p;", sources, np.uint32)


@pytest.mark.parametrize("kind", INTEGERS)
@pytest.mark.parametrize("name", ORDER)
def test_integers_compare_by_their_sign(kind: str, name: str) -> None:
    a, b = integers(INTEGERS[kind], seed=1), integers(INTEGERS[kind], seed=2)
    b[::3] = a[::3]
    out = as_word(f"setp.{name}.{kind} %p, %a, %b;", [a, b])
    assert np.array_equal(out, ORDER[name](a, b))


@pytest.mark.parametrize("name", UNSIGNED_NAMES)
def test_unsigned_names_mean_the_same_order(name: str) -> None:
    a, b = integers(np.uint32, seed=3), integers(np.uint32, seed=4)
    b[::3] = a[::3]
    out = as_word(f"setp.{name}.u32 %p, %a, %b;", [a, b])
    assert np.array_equal(out, ORDER[UNSIGNED_NAMES[name]](a, b))


@pytest.mark.parametrize("name", ORDER)
@pytest.mark.parametrize("unordered", [False, True])
def test_floats_with_nan_compare_false_or_true_by_the_instruction(
    name: str, unordered: bool
) -> None:
    a, b = floats(seed=5), floats(seed=6)
    b[::3] = a[::3]
    nan = np.isnan(a) | np.isnan(b)
    assert nan.any()
    expected = ORDER[name](a, b) & ~nan | (nan if unordered else False)
    out = as_word(f"setp.{name}{'u' if unordered else ''}.f32 %p, %a, %b;", [a, b])
    assert np.array_equal(out, expected)


def test_num_and_nan_ask_for_numbers() -> None:
    a, b = floats(seed=7), floats(seed=8)
    nan = np.isnan(a) | np.isnan(b)
    assert np.array_equal(as_word("setp.nan.f32 %p, %a, %b;", [a, b]), nan)
    assert np.array_equal(as_word("setp.num.f32 %p, %a, %b;", [a, b]), ~nan)


def test_ftz_comparisons_see_subnormals_as_zero() -> None:
    a = np.array([1e-40, -1e-40], np.float32)
    b = np.zeros(2, np.float32)
    assert as_word("setp.eq.ftz.f32 %p, %a, %b;", [a, b]).tolist() == [1, 1]
    assert as_word("setp.eq.f32 %p, %a, %b;", [a, b]).tolist() == [0, 0]


@pytest.mark.parametrize("name", ["and", "or", "xor"])
def test_a_comparison_combines_with_a_predicate_both_ways(name: str) -> None:
    a = np.array([1, 1, 2, 2], np.uint32)
    b = np.array([0, 1, 0, 1], np.uint32)
    function = {"and": operator.and_, "or": operator.or_, "xor": operator.xor}[name]
    code = f"setp.ne.u32 %q, %b, 0; setp.eq.{name}.u32 %p|%q, %a, 1, !%q;"
    other = b == 0
    assert np.array_equal(as_word(code, [a, b]), function(a == 1, other))
    second = each(f"{code} selp.u32 %d, 1, 0, %q;", [a, b], np.uint32)
    assert np.array_equal(second, function(a != 1, other))


@pytest.mark.parametrize("kind", ["b16", "s32", "f32", "u64", "f64"])
def test_selp_takes_the_first_where_the_predicate_holds(kind: str) -> None:
    dtype = np.dtype(f"u{int(kind[1:]) // 8}")
    a, b = integers(dtype, seed=9), integers(dtype, seed=10)
    choose = (np.arange(a.size) % 3 == 0).astype(np.uint32)
    out = each(f"setp.ne.u32 %p, %c, 0; selp.{kind} %d, %a, %b, %p;", [a, b, choose], dtype)
    assert np.array_equal(out, np.where(choose, a, b))


def test_testp_knows_the_classes_of_numbers() -> None:
    a = np.array([1, 0, np.inf, np.nan, 1e-40, -np.inf], np.float32)
    expected = {
        "finite": [1, 1, 0, 0, 1, 0],
        "infinite": [0, 0, 1, 0, 0, 1],
        "number": [1, 1, 1, 0, 1, 1],
        "notanumber": [0, 0, 0, 1, 0, 0],
        "normal": [1, 1, 0, 0, 0, 0],
        "subnormal": [0, 0, 0, 0, 1, 0],
    }
    for name, answers in expected.items():
        assert as_word(f"testp.{name}.f32 %p, %a;", [a]).tolist() == answers, name
