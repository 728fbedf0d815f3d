from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.shape_exprs import FRONT_END, ShapeExpr
from trt_int8.engine.plugins.symbolic import Symbol, as_integer, sizes_of
from trt_int8.errors import PluginError

OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "//": lambda a, b: a // b,
}


def symbol(value: int) -> Symbol:
    return Symbol(FRONT_END, ShapeExpr(value))


@given(st.sampled_from(sorted(OPERATIONS)), st.integers(1, 2**20), st.integers(1, 2**20))
def test_symbols_compute_like_ints_on_either_side(name: str, a: int, b: int) -> None:
    operation = OPERATIONS[name]
    results = [
        operation(symbol(a), symbol(b)),
        operation(symbol(a), b),
        operation(a, symbol(b)),
    ]
    assert [result.expression.value for result in results] == [operation(a, b)] * 3


def test_the_plain_expression_takes_no_int_on_its_left() -> None:
    expression: Any = ShapeExpr(3)
    with pytest.raises(TypeError):
        _ = 2 * expression


@pytest.mark.parametrize(
    "question",
    [
        bool,
        lambda s: s == 3,
        lambda s: s != 3,
        lambda s: s < 3,
        lambda s: s <= 3,
        lambda s: s > 3,
        lambda s: s >= 3,
        lambda s: max(s, 3),
    ],
)
def test_a_question_that_only_the_run_can_answer_is_an_error(
    question: Callable[[Symbol], object],
) -> None:
    with pytest.raises(PluginError, match="a size that TensorRT knows only when it runs"):
        question(symbol(3))


def test_sizes_known_at_build_time_become_ints() -> None:
    known = SimpleNamespace(is_constant=True, constant_value=lambda: 64)
    unknown = SimpleNamespace(is_constant=False)
    first, second = sizes_of(FRONT_END, SimpleNamespace(shape_expr=[known, unknown]))
    assert first == 64
    assert isinstance(second, Symbol)
    assert second.expression is unknown


def test_an_argument_of_a_kernel_has_32_bits_whether_known_or_not() -> None:
    expression = ShapeExpr(5)
    assert as_integer(FRONT_END, 5) == ("int32", 5)
    assert as_integer(FRONT_END, Symbol(FRONT_END, expression)) == ("int32", expression)
