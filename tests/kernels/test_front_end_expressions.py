"""The stand-ins for TensorRT's expressions: what they compute, and what they refuse."""

from __future__ import annotations

from enum import Enum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kernels.front_end.expressions import ExprBuilder, dimension


class Operation(Enum):
    """`trt.DimensionOperation`, of which only the names count."""

    SUM, SUB, PROD, FLOOR_DIV, CEIL_DIV, MAX, MIN, EQUAL, LESS = range(9)


@given(st.integers(0, 2**20), st.integers(1, 2**20))
def test_operations_are_those_of_the_reference(a: int, b: int) -> None:
    builder = ExprBuilder()
    first, second = dimension("a"), builder.constant(b)
    values = {
        operation.name: builder.operation(operation, first, second).value({"a": a})
        for operation in Operation
    }
    quotient, rest = divmod(a, b)
    assert values == {
        "SUM": a + b,
        "SUB": a - b,
        "PROD": a * b,
        "FLOOR_DIV": quotient,
        "CEIL_DIV": quotient + (rest > 0),
        "MAX": max(a, b),
        "MIN": min(a, b),
        "EQUAL": int(a == b),
        "LESS": int(a < b),
    }


def test_only_what_no_varying_size_enters_is_constant() -> None:
    builder = ExprBuilder()
    fixed = builder.operation(Operation.PROD, dimension(6), builder.constant(7))
    assert (fixed.is_constant(), fixed.get_constant_value()) == (True, 42)
    varying = builder.operation(Operation.PROD, dimension("b"), fixed)
    assert not varying.is_constant()
    with pytest.raises(RuntimeError, match="not a constant"):
        varying.get_constant_value()


def test_an_int_is_no_operand() -> None:
    with pytest.raises(TypeError, match="operand is 3, wanted an IDimensionExpr"):
        ExprBuilder().operation(Operation.SUM, dimension("b"), 3)


def test_a_builder_cannot_be_used_after_its_callback() -> None:
    builder = ExprBuilder()
    builder.close()
    with pytest.raises(RuntimeError, match="after its callback returned"):
        builder.constant(1)
