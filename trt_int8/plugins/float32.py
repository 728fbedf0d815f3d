"""Float32 arithmetic with the bits of a GPU, in NumPy: what the kernels' models are written in.

NumPy rounds each float32 operation to nearest even, as PTX add.rn, sub.rn and mul.rn do. What it
lacks are the fused multiply-add and the conversions at a kernel's borders.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
Int8Array = NDArray[np.int8]
HalfArray = NDArray[np.float16]


Float = FloatArray | np.float32


def fused_multiply_add(a: Float, b: Float, c: Float) -> FloatArray:
    """The product of a and b, plus c, rounded once (PTX ISA "fma.rn"); shapes broadcast.

    The product is exact in float64. Its sum with c is rounded to odd before the rounding to
    float32, which then is the only one that counts (Boldo and Melquiond 2008, "Emulation of FMA and
    correctly rounded sums: proved algorithms using rounding to odd", theorem 3.4).
    """
    product = np.multiply(a, b, dtype=np.float64)
    addend = np.asarray(c, dtype=np.float64)
    total = product + addend
    # Knuth's two-sum: total + error is the exact sum.
    back = total - product
    error = (product - (total - back)) + (addend - back)
    bits = np.atleast_1d(total).view(np.int64)
    inexact_and_even = np.atleast_1d((error != 0) & np.isfinite(error)) & (bits & 1 == 0)
    # Towards the exact sum: away from zero adds one to the bits, towards zero takes one.
    step = np.where(np.atleast_1d((error > 0) == (total > 0)), 1, -1)
    odd = np.where(inexact_and_even, bits + step, bits).view(np.float64)
    with np.errstate(over="ignore", under="ignore"):
        rounded: FloatArray = odd.astype(np.float32).reshape(total.shape)
    return rounded


def to_int8(x: FloatArray) -> Int8Array:
    """Round half to even, clamp to -128..127, NaN to 0 (PTX ISA "cvt.rni.sat.s8.f32")."""
    codes = np.clip(np.rint(np.nan_to_num(x, nan=0.0, posinf=127.0, neginf=-128.0)), -128, 127)
    return codes.astype(np.int8)


def to_half(x: FloatArray) -> HalfArray:
    """Round to nearest even; beyond the range of half gives Inf (PTX ISA "cvt.rn.f16.f32")."""
    with np.errstate(over="ignore"):
        return x.astype(np.float16)
