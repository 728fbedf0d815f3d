"""A stand-in for the part of `tensorrt.plugin` that computes with sizes."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Final


class ShapeExpr:
    """As strict as the real one: arithmetic from the left only, with its like or an int."""

    def __init__(self, value: Any) -> None:
        self.value: int = value.value if isinstance(value, ShapeExpr) else value

    def _with(self, other: Any, operation: Callable[[int, int], int]) -> ShapeExpr:
        if not isinstance(other, (int, ShapeExpr)):
            raise TypeError(f"cannot take {other!r}")
        return ShapeExpr(operation(self.value, ShapeExpr(other).value))

    def __add__(self, other: Any) -> ShapeExpr:
        return self._with(other, lambda a, b: a + b)

    def __sub__(self, other: Any) -> ShapeExpr:
        return self._with(other, lambda a, b: a - b)

    def __mul__(self, other: Any) -> ShapeExpr:
        return self._with(other, lambda a, b: a * b)

    def __floordiv__(self, other: Any) -> ShapeExpr:
        return self._with(other, lambda a, b: a // b)


FRONT_END: Final = SimpleNamespace(ShapeExpr=ShapeExpr, SymInt32=lambda value: ("int32", value))
