"""Stand-ins for the four names of TensorRT that need its library: sizes as expression trees.

TensorRT's `IExprBuilder` makes `IDimensionExpr` objects that live in libnvinfer; the stub has none.
The arithmetic is that of `DimensionOperation` (TensorRT API reference): FLOOR_DIV and CEIL_DIV are
the mathematical ones, EQUAL and LESS give 0 or 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Sizes = Mapping[str, int]


class DimensionExpr:
    """An int or an operation on two of these; `name` is a dimension unknown at build time."""

    def __init__(self, evaluate: Callable[[Sizes], int], constant: int | None) -> None:
        self._evaluate = evaluate
        self._constant = constant

    def is_constant(self) -> bool:
        return self._constant is not None

    def get_constant_value(self) -> int:
        if self._constant is None:
            raise RuntimeError("not a constant")
        return self._constant

    def is_size_tensor(self) -> bool:
        return False

    def value(self, sizes: Sizes) -> int:
        """The number, where every dimension has its size."""
        return self._evaluate(sizes)


class DimsExprs(list[Any]):
    """A list of expressions with a fixed length."""

    def __init__(self, length: int) -> None:
        super().__init__([None] * length)


class SymExprBase:
    """`ISymExpr`: the front end sets type, dtype and expr."""

    type: Any
    dtype: Any
    expr: DimensionExpr


_ARITHMETIC: Mapping[str, Callable[[int, int], int]] = {
    "SUM": lambda a, b: a + b,
    "SUB": lambda a, b: a - b,
    "PROD": lambda a, b: a * b,
    "MAX": max,
    "MIN": min,
    "FLOOR_DIV": lambda a, b: a // b,
    "CEIL_DIV": lambda a, b: -(-a // b),
    "EQUAL": lambda a, b: int(a == b),
    "LESS": lambda a, b: int(a < b),
}


class ExprBuilder:
    """TensorRT's `IExprBuilder`; expressions of one builder must not outlive it.

    The real library frees them when the callback returns, so `close` makes every use after that an
    error, unless the expression is one of TensorRT's own (a dimension of an input).
    """

    def __init__(self) -> None:
        self._open = True

    def close(self) -> None:
        self._open = False

    def constant(self, value: int) -> DimensionExpr:
        self._check()
        return DimensionExpr(lambda _: value, value)

    def operation(self, operation: Any, first: Any, second: Any) -> DimensionExpr:
        self._check()
        for operand in (first, second):
            if not isinstance(operand, DimensionExpr):
                raise TypeError(f"operand is {operand!r}, wanted an IDimensionExpr")
        compute = _ARITHMETIC[operation.name]

        def evaluate(sizes: Sizes) -> int:
            return compute(first.value(sizes), second.value(sizes))

        constant = first.is_constant() and second.is_constant()
        return DimensionExpr(evaluate, evaluate({}) if constant else None)

    def _check(self) -> None:
        if not self._open:
            raise RuntimeError("an expression builder was used after its callback returned")


def dimension(size: int | str) -> DimensionExpr:
    """A dimension of a network input: a number, or a name for one that varies."""
    if isinstance(size, int):
        return DimensionExpr(lambda _: size, size)
    return DimensionExpr(lambda sizes: sizes[size], None)
