"""Sizes that TensorRT knows only when it runs, with the arithmetic of ints.

`tensorrt.plugin` expressions take + - * // with the expression on the left only, and a comparison
gives another expression, which older versions take for true. Here both sides work, and a question
that has no answer at build time is an error.
"""

from __future__ import annotations

from typing import Any, NoReturn

from trt_int8.errors import PluginError


class Symbol:
    """An expression of `tensorrt.plugin`."""

    def __init__(self, front_end: Any, expression: Any) -> None:
        """Take the module `tensorrt.plugin` and one of its `ShapeExpr`."""
        self._front_end = front_end
        self.expression = expression

    def _of(self, value: Any) -> Any:
        return value.expression if isinstance(value, Symbol) else self._front_end.ShapeExpr(value)

    def _wrap(self, expression: Any) -> Symbol:
        return Symbol(self._front_end, expression)

    def __add__(self, other: Any) -> Symbol:
        return self._wrap(self.expression + self._of(other))

    def __radd__(self, other: Any) -> Symbol:
        return self._wrap(self._of(other) + self.expression)

    def __sub__(self, other: Any) -> Symbol:
        return self._wrap(self.expression - self._of(other))

    def __rsub__(self, other: Any) -> Symbol:
        return self._wrap(self._of(other) - self.expression)

    def __mul__(self, other: Any) -> Symbol:
        return self._wrap(self.expression * self._of(other))

    def __rmul__(self, other: Any) -> Symbol:
        return self._wrap(self._of(other) * self.expression)

    def __floordiv__(self, other: Any) -> Symbol:
        return self._wrap(self.expression // self._of(other))

    def __rfloordiv__(self, other: Any) -> Symbol:
        return self._wrap(self._of(other) // self.expression)

    def __eq__(self, other: object) -> bool:
        return self._refuse()

    def __lt__(self, other: object) -> bool:
        return self._refuse()

    __hash__ = object.__hash__
    __le__ = __gt__ = __ge__ = __lt__

    def __bool__(self) -> bool:
        return self._refuse()

    def _refuse(self) -> NoReturn:
        raise PluginError(
            "a kernel launch depends on a size that TensorRT knows only when it runs",
            wanted="a fixed size there (only batch and sequence length may vary)",
            todo="export the model with that size fixed, or leave this plugin out (--plugins)",
        )


def sizes_of(front_end: Any, tensor: Any) -> tuple[int | Symbol, ...]:
    """Dimensions of a `TensorDesc` inside `aot_impl`: ints where they are known at build time."""
    return tuple(
        int(size.constant_value()) if size.is_constant else Symbol(front_end, size)
        for size in tensor.shape_expr
    )


def as_integer(front_end: Any, size: Any) -> Any:
    """A `SymInt32` of a size or of a plain int."""
    return front_end.SymInt32(size.expression if isinstance(size, Symbol) else size)
