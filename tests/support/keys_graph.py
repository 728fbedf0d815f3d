"""The scores of one INT8 attention, its keys made by steps that a test chooses.

All numbers are on a grid on which float32 adds exactly, so that equal means equal on any machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray

from tests.support.onnx_tiny import Shape, Tiny

B, S, K, N, D = 3, 7, 11, 3, 5
H = N * D
GRID = 2.0**-6
# Takes the name of a tensor, returns that of what it makes of it.
Step = Callable[[Tiny, str], str]


def codes(*shape: int, seed: int = 3) -> NDArray[np.int8]:
    """Seeded int8 values."""
    return np.random.default_rng(seed).integers(-127, 128, shape).astype(np.int8)


def scales(n_channels: int = H) -> NDArray[np.float32]:
    """Another power of two for one channel than for the next."""
    return (2.0 ** -(4 + np.arange(n_channels) % 5)).astype(np.float32)


BIAS = codes(H, seed=5) * GRID


def linear(
    name: str = "keys",
    weight: NDArray[Any] | None = None,
    scale: ArrayLike | None = None,
    *,
    zero: int | None = 0,
    **attributes: Any,
) -> Step:
    """A product with an int8 weight [K, H] with a scale for each of H; `attributes` of its DQ."""
    array = codes(K, H) if weight is None else weight
    steps = np.asarray(scales(array.shape[1]) if scale is None else scale, np.float32)

    def make(tiny: Tiny, x: str) -> str:
        names = [tiny.const(f"{name}_w", array), tiny.const(f"{name}_s", steps)]
        if zero is not None:
            names.append(tiny.const(f"{name}_z", np.full(steps.shape, zero, array.dtype)))
        read = tiny.op("DequantizeLinear", *names, **{"axis": 1, **attributes})
        return tiny.op("MatMul", x, read, out=f"{name}_product")

    return make


def constant(kind: str, array: ArrayLike, *, first: bool = False) -> Step:
    """An operator with a constant, which is the first operand or the second."""

    def make(tiny: Tiny, x: str) -> str:
        name = tiny.const(f"constant_{len(tiny.nodes)}", np.asarray(array, np.float32))
        return tiny.op(kind, *((name, x) if first else (x, name)))

    return make


def split(*sizes: int, **attributes: Any) -> Step:
    """Reshape to constant sizes; to [0, 0, N, D] unless told, and then its result is `split`."""

    def make(tiny: Tiny, x: str) -> str:
        name = tiny.const(f"sizes_{len(tiny.nodes)}", np.asarray(sizes or (0, 0, N, D)))
        return tiny.op("Reshape", x, name, out="" if sizes else "split", **attributes)

    return make


def measured_split(tiny: Tiny, x: str) -> str:
    """Sizes from x itself and -1 for the heads, as PyTorch exports `view`."""
    shape = tiny.op("Shape", x)
    outer = [tiny.op("Gather", shape, tiny.const(f"place_{i}", [i])) for i in range(2)]
    inner = [tiny.const("any_heads", [-1]), tiny.const("head_size", [D])]
    return tiny.op("Reshape", x, tiny.op("Concat", *outer, *inner, axis=0), out="split")


def turn(*perm: int) -> Step:
    """Transpose; to [B, N, D, S] unless told, and then its result is `turned`."""

    def make(tiny: Tiny, x: str) -> str:
        out = "" if perm else "turned"
        return tiny.op("Transpose", x, perm=perm or (0, 2, 3, 1), out=out)

    return make


def pair(tiny: Tiny, x: str) -> str:
    """Q/DQ with one scale."""
    return tiny.pair(x, 16 * GRID)


bias = constant("Add", BIAS)
PLAIN: tuple[Step, ...] = (linear(), bias, split(), turn(), pair)


def attention(
    *steps: Step,
    more: dict[str, int] | None = None,
    axes: Shape | None = None,
    heads: tuple[int, int] = (N, D),
    keys_first: bool = False,
) -> onnx.ModelProto:
    """From x [B, S, K] to scores, [B, N, S, S] if the keys of `steps` are [B, N, D, S].

    Args:
        steps: what makes the keys of x behind Q/DQ.
        more: tensors that are outputs too, with their number of axes.
        axes: those of x.
        heads: N and D of the queries.
        keys_first: the keys are operand 0 of the scores.
    """
    tiny, axes = Tiny(), axes or ["batch", "sequence", K]
    source, width = tiny.pair("x", GRID), axes[-1]
    weight = codes(int(width), heads[0] * heads[1], seed=4)
    query = (linear("query", weight), split(0, 0, *heads), turn(0, 2, 1, 3), pair)
    made = []
    for chain in (query, steps):
        value = source
        for step in chain:
            value = step(tiny, value)
        made.append(value)
    tiny.op("MatMul", *(reversed(made) if keys_first else made), out="scores")
    outputs: dict[str, Shape] = {
        name: [f"{name}_{axis}" for axis in range(rank)]
        for name, rank in {"scores": 4, **(more or {})}.items()
    }
    return tiny.build({"x": axes}, outputs)
