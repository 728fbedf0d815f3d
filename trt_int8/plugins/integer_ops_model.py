"""NumPy model of the integer-only kernels: the same bits as `cuda/integer_ops.cu`.

All arithmetic is int64 and never overflows within the limits of `integer_constants.py`.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trt_int8.plugins.integer_constants import HALVINGS
from trt_int8.plugins.integer_ops import IntegerGelu, IntegerLayerNorm, IntegerSoftmax

Int32Array = NDArray[np.int32]
Int64Array = NDArray[np.int64]
LARGEST_INPUT: Final = 2**24


def softmax(op: IntegerSoftmax, scores: Int32Array) -> NDArray[np.uint8] | NDArray[np.int8]:
    """Codes of softmax over the last axis.

    Args:
        op: scale of the scores, and which codes.
        scores: int32 [..., length].

    Returns:
        Same shape: uint8 with 1/256 per step, or int8 with 1/127 when `op.signed`.
    """
    wide = scores.astype(np.int64)
    codes = exponential(op, wide.max(axis=-1, keepdims=True) - wide)
    share = codes * (2**32 // codes.sum(axis=-1, keepdims=True))
    signed: NDArray[np.int8] = ((share * 127 + 2**31) >> 32).astype(np.int8)
    unsigned: NDArray[np.uint8] = (share >> 24).astype(np.uint8)
    return signed if op.signed else unsigned


def exponential(op: IntegerSoftmax, distance: Int64Array) -> Int64Array:
    """16-bit codes of exp(-distance * scale), 32767 for distance 0.

    Args:
        op: scale of the scores.
        distance: int64, from 0 to 2^32 - 1.
    """
    made = op.constants
    if made.input_shift >= 0:
        shifted = distance >> made.input_shift
    else:
        shifted = distance << -made.input_shift
    shifted = np.minimum(shifted, HALVINGS * made.ln2)
    halvings = shifted // made.ln2
    rest = halvings * made.ln2 - shifted
    polynomial = (rest + made.linear) * rest + made.constant
    shifts = np.minimum(made.to_codes.shift + halvings, 63)
    codes = rounded(polynomial * made.to_codes.multiplier, shifts)
    return codes


def gelu(op: IntegerGelu, x: Int32Array) -> NDArray[np.int8]:
    """Codes of GELU.

    Args:
        op: scales.
        x: int32, any shape.

    Returns:
        int8, same shape.
    """
    return to_int8(
        rounded(gelu_product(op, x) * op.constants.to_codes.multiplier, op.constants.to_codes.shift)
    )


def gelu_product(op: IntegerGelu, x: Int32Array) -> Int64Array:
    """Q (q_erf + q_1), before it is brought to the output's steps; fits int32."""
    made = op.constants
    q = np.clip(x.astype(np.int64), -made.clamp, made.clamp)
    near = np.minimum(np.abs(q), made.bound) - made.bound
    erf = (np.sign(q) * (near * near + made.constant)) >> made.shift
    product: Int64Array = q * (erf + made.one)
    return product


def layernorm(op: IntegerLayerNorm, x: Int32Array) -> NDArray[np.int8]:
    """Codes of LayerNorm over the last axis.

    Args:
        op: weights and output scale.
        x: int32 [..., C]; clamped to +-2^24.

    Returns:
        int8, same shape.
    """
    multipliers, biases = op.channel_inputs()
    product = (normalised(x) + biases) * multipliers.astype(np.int64)
    return to_int8(rounded(product, op.constants.shift))


def normalised(x: Int32Array) -> Int64Array:
    """(x - mean) / sqrt(sum (x - mean)^2) over the last axis, in steps of 2^-30."""
    q = np.clip(x.astype(np.int64), -LARGEST_INPUT, LARGEST_INPUT)
    centred = q - rounded_mean(q)
    spread = (centred * centred).sum(axis=-1, keepdims=True)
    shift = np.zeros_like(spread)
    while (large := spread >> (2 * shift) >= 2**32).any():
        shift += large
    root = np.vectorize(math.isqrt, otypes=[np.int64])(spread >> (2 * shift))
    factor = np.where(root > 0, 2**31 // np.maximum(root, 1), 0)
    result: Int64Array = (centred * factor) >> (shift + 1)
    return result


def rounded_mean(q: Int64Array) -> Int64Array:
    """Mean over the last axis, kept as an axis, to the nearest integer, halves to even."""
    count = q.shape[-1]
    total = q.sum(axis=-1, keepdims=True)
    mean = total // count
    rest = 2 * (total - mean * count)
    up = (rest > count) | ((rest == count) & (mean % 2 == 1))
    result: Int64Array = mean + up
    return result


def rounded(value: Int64Array, shift: Int64Array | int) -> Int64Array:
    """Value / 2^shift to the nearest integer, halves to even; |value| < 2^62, shift 1..63."""
    shift = np.asarray(shift, dtype=np.int64)
    half = np.left_shift(np.int64(1), shift - 1)
    quotient = value >> shift
    # Shifted twice: 2^63 itself is no int64.
    rest = value - ((quotient << (shift - 1)) << 1)
    up = (rest > half) | ((rest == half) & (quotient % 2 == 1))
    result: Int64Array = quotient + up
    return result


def to_int8(value: Int64Array) -> NDArray[np.int8]:
    """Saturated to -128..127."""
    return np.clip(value, -128, 127).astype(np.int8)
