"""What the kernel of Int8Attention computes, in NumPy: its contract, bit for bit.

The order of float32 operations is the kernel's; sums of products are integers, so their order does
not matter. The one operation that NumPy and a GPU may round differently is 2^x (PTX ISA "ex2":
relative error 2^-22; here the nearest float).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from trt_int8.errors import ShapeError
from trt_int8.plugins.attention import (
    KEYS_PER_TILE,
    AttentionOptions,
    AttentionScalars,
    AttentionShape,
    check_shape,
)

Int8Array = NDArray[np.int8]
FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

# As in attention_softmax.cuh: what an additive mask counts at most, log2(e), and the exponent of a
# row that has seen no key.
_HIGHEST_MASK: Final = np.float32(1e6)
_LOG2_E: Final = np.float32(1.44269504)
_NOTHING_SEEN: Final = np.float32(2.0**22)
_P_ONE: Final = 65_280.0
_BYTE_ONE: Final = np.float32(256.0)
_LARGEST_SHIFT: Final = np.float32(31.0)
_LEAST_STEP: Final = np.float32(2.0**-10)
_OFFSET: Final = np.float32(12_582_912.0)


@dataclass(frozen=True)
class AttentionTensors:
    """The inputs of one call, as `AttentionOptions` describes them.

    Attributes:
        arrays: int8 (q, k, v), or (qkv,) when packed.
        extra: key lengths int32 [B], mask float32 [B or 1, N or 1, S_q or 1, S_k], or cu_seqlens
            int32 [B + 1] of ragged tokens; None where the form has none.
    """

    arrays: tuple[Int8Array, ...]
    extra: NDArray[Any] | None = None

    def shape(self, options: AttentionOptions) -> AttentionShape:
        """Sizes of the call.

        Raises:
            ShapeError: the arrays do not have the dimensions of the layout.
            PluginError: the kernel does not do these sizes.
        """
        _check_arrays(options, self)
        first, second = self.arrays[0], self.arrays[min(1, len(self.arrays) - 1)]
        if options.layout == "ragged":
            bounds = np.asarray(self.extra)
            sizes = (bounds.size - 1, len(first), len(first), first.shape[1])
            shape = AttentionShape(*sizes, longest=max(1, int(np.diff(bounds).max())))
        else:
            mask = np.asarray(self.extra).shape[:3] if options.additive else (1, 1, 1)
            batch, queries, heads = first.shape[0], first.shape[1], first.shape[-2]
            shape = AttentionShape(batch, queries, second.shape[1], heads, mask=cast(Any, mask))
        check_shape(options, shape)
        return shape


def int8_attention(
    options: AttentionOptions, scalars: AttentionScalars, tensors: AttentionTensors
) -> NDArray[Any]:
    """The kernel's output.

    Args:
        options: form of the kernel.
        scalars: scales.
        tensors: inputs.

    Returns:
        int8 (or float16, `half_output`): [B, S_q, N, D], or [T, N, D] of ragged tokens.

    Raises:
        ShapeError: the arrays do not have the dimensions of the layout.
        PluginError: the kernel does not do these sizes.
    """
    tensors.shape(options)
    if options.layout == "ragged":
        return _ragged(options, scalars, tensors)
    q, k, v = _apart(tensors.arrays)
    score_scale = np.float32(scalars.score_scale)
    rows = _Rows.start(q, _step(score_scale))
    queries = _heads_first(q)
    for first in range(0, k.shape[1], KEYS_PER_TILE):
        keys = slice(first, min(first + KEYS_PER_TILE, k.shape[1]))
        products = queries @ _heads_first(k[:, keys]).swapaxes(-1, -2)
        exponents = products * np.float64(score_scale)
        x = np.asarray(exponents, np.float32)
        if options.additive:
            x = _masked(x, np.asarray(tensors.extra)[..., keys])
            exponents = x.astype(np.float64)
        hidden = _hidden(options, tensors, keys, q.shape[1])
        x = np.where(hidden, np.float32(-np.inf), x)
        exponents = np.where(hidden, -np.inf, exponents)
        rows.follow(x, exponents)
        rows.add(exponents, _heads_first(v[:, keys]))
    return rows.output(options, scalars)


@dataclass
class _Rows:
    """What a query knows of the keys so far.

    Attributes:
        step: what the first e of a row is a multiple of.
        exponent: e, float32 [B, N, S_q].
        weights: sums of 65,280 p, int64 [B, N, S_q, 4]: the kernel shifts the four threads of a
            row apart, and thread t has the keys 2t and 2t + 1 of every eight.
        sums: of rint(255 p) times value, int64 [B, N, S_q, D].
    """

    step: np.float32
    exponent: FloatArray
    weights: IntArray
    sums: IntArray

    @staticmethod
    def start(q: Int8Array, step: np.float32) -> _Rows:
        """Before the first key."""
        batch, queries, heads, head_dim = q.shape
        shape = (batch, heads, queries)
        return _Rows(
            step,
            np.full(shape, _NOTHING_SEEN, np.float32),
            np.zeros((*shape, 4), np.int64),
            np.zeros((*shape, head_dim), np.int64),
        )

    def follow(self, x: FloatArray, exponents: NDArray[np.float64]) -> None:
        """Lower e where x + e exceeds 0, and shift past sums of those rows.

        The first e of a row is -x of its largest score, rounded up to a step; later ones go down by
        whole numbers.
        """
        over = np.maximum(np.ceil(self._power(exponents.max(axis=-1, keepdims=True))), 0)[..., 0]
        first = (self.exponent == _NOTHING_SEEN) & (over > 0)
        fresh = -self.step * np.ceil(x.max(axis=-1) / self.step)
        self.exponent = np.where(first, fresh, self.exponent - over).astype(np.float32)
        # The sum of a far score was rounded: what is left of it above 0 takes one more.
        rest = self._power(exponents.max(axis=-1, keepdims=True))[..., 0] > 0
        self.exponent -= rest.astype(np.float32)
        shift = np.minimum(over + rest, _LARGEST_SHIFT).astype(np.int64)
        self.weights >>= shift[..., None]
        self.sums >>= shift[..., None]

    def _power(self, exponents: NDArray[np.float64]) -> FloatArray:
        """Sum of x and e, rounded once, as a fused multiply-add gives it."""
        return np.asarray(exponents + self.exponent[..., None].astype(np.float64), np.float32)

    def add(self, exponents: NDArray[np.float64], values: FloatArray) -> None:
        """Add a tile: `exponents` are x before rounding; values float32 [B, N, keys, D]."""
        power = self._power(exponents).astype(np.float64)
        probability = np.exp2(power).astype(np.float32)
        # One rounding here too; float64 holds the product. 8.8 bits of 255 p.
        word = np.rint(probability.astype(np.float64) * _P_ONE).astype(np.int64)
        # Integers below 2^24 throughout: the float32 product is exact.
        self.sums += (((word + 128) >> 8).astype(np.float32) @ values).astype(np.int64)
        for thread in range(4):
            own = word[..., 2 * thread :: 8].sum(-1) + word[..., 2 * thread + 1 :: 8].sum(-1)
            self.weights[..., thread] += own

    def output(self, options: AttentionOptions, scalars: AttentionScalars) -> NDArray[Any]:
        """Normalised and rounded, [B, S_q, N, D]."""
        step = 1.0 if options.half_output else scalars.output_scale
        numerator = np.float32(scalars.v_scale / step) * _BYTE_ONE
        weight = self.weights.sum(-1).astype(np.float32)
        seen = weight > 0
        factor = np.where(seen, numerator / np.where(seen, weight, np.float32(1)), np.float32(0))
        values = self.sums.astype(np.float32) * factor.astype(np.float32)[..., None]
        values = values.swapaxes(1, 2)
        if options.half_output:
            with np.errstate(over="ignore"):
                return values.astype(np.float16)
        return np.asarray(np.clip(np.rint(values), -128, 127), np.int8)


def _step(score_scale: np.float32) -> np.float32:
    """Two units in the last place of the kernel's score offset, at least 2^-10."""
    power_of_two = np.ldexp(np.float32(1), np.frexp(_OFFSET * score_scale)[1] - 23)
    return np.float32(max(power_of_two, _LEAST_STEP))


def _masked(x: FloatArray, mask: FloatArray) -> FloatArray:
    """Scores plus the mask in powers of two; NaN hides a key."""
    bounded = np.minimum(np.fmax(mask, np.float32(-np.inf)), _HIGHEST_MASK).astype(np.float64)
    with np.errstate(over="ignore"):
        return np.asarray(bounded * np.float64(_LOG2_E) + x, np.float32)


def _hidden(
    options: AttentionOptions, tensors: AttentionTensors, keys: slice, queries: int
) -> NDArray[np.bool_]:
    """Which keys no query, or not this query, sees; broadcasts to [B, N, S_q, keys]."""
    key = np.arange(keys.start, keys.stop)
    hidden = np.zeros((1, 1, 1, key.size), np.bool_)
    if options.mask == "lengths":
        hidden = hidden | (key >= np.asarray(tensors.extra)[:, None, None, None])
    if options.causal:
        hidden = hidden | (key > np.arange(queries)[:, None])
    return hidden


def _ragged(
    options: AttentionOptions, scalars: AttentionScalars, tensors: AttentionTensors
) -> NDArray[Any]:
    """Each sequence by itself; tokens of none stay 0 (the kernel leaves them as they were)."""
    tokens = tensors.arrays[0]
    output = np.zeros(tokens.shape, np.float16 if options.half_output else np.int8)
    plain = AttentionOptions(
        options.head_dim, "none", options.causal, "separate", options.half_output
    )
    bounds = np.clip(np.asarray(tensors.extra), 0, len(tokens))
    for start, end in pairwise(bounds):
        if end > start:
            own = AttentionTensors(tuple(array[None, start:end] for array in tensors.arrays))
            output[start:end] = int8_attention(plain, scalars, own)[0]
    return output


def _apart(arrays: tuple[Int8Array, ...]) -> tuple[Int8Array, Int8Array, Int8Array]:
    """q, k and v, also of packed [B, S, 3, N, D]."""
    if len(arrays) == 1:
        qkv = arrays[0]
        return qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
    return arrays[0], arrays[1], arrays[2]


def _heads_first(tensor: Int8Array) -> FloatArray:
    """[B, S, N, D] -> float32 [B, N, S, D]."""
    return tensor.swapaxes(1, 2).astype(np.float32)


def _check_arrays(options: AttentionOptions, tensors: AttentionTensors) -> None:
    rank = {"separate": 4, "packed": 5, "ragged": 3}[options.layout]
    shapes = [array.shape for array in tensors.arrays]
    count = 1 if options.layout == "packed" else 3
    good = len(shapes) == count and all(len(shape) == rank for shape in shapes)
    good = good and all(shape[-1] == options.head_dim for shape in shapes)
    good = good and len({(shape[0] if rank != 3 else 0, shape[-2]) for shape in shapes}) == 1
    good = good and shapes[-1][1:] == shapes[-2 % count][1:]
    extra_rank = {"none": None, "lengths": 1, "keys": 4, "full": 4}[options.mask]
    extra_rank = 1 if options.layout == "ragged" else extra_rank
    extra = None if tensors.extra is None else np.ndim(tensors.extra)
    if not good or extra != extra_rank:
        raise ShapeError(
            f"Int8Attention got arrays {shapes} and a mask or lengths of {extra} dimensions",
            wanted=f"the layout {options.layout!r}, D = {options.head_dim}, mask {options.mask!r}",
            todo="pass the arrays that AttentionOptions describes",
        )
