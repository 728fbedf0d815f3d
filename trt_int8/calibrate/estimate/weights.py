"""Ranges of weights, read from the weights themselves."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trt_int8.numerics import QMAX, QMIN, FloatArray, channel_amax, scale_of

# Shares of the largest |w| tried: 1 first, so that it is kept unless another is better.
_SHARES = np.arange(100, 49, -1, dtype=np.float32) / np.float32(100)
# Values handled at a time: the buffers of one piece stay in a core's L2 cache.
_PIECE = 1 << 15


def weight_amax(weight: FloatArray, axis: int | None, method: Literal["max", "mse"]) -> FloatArray:
    """Range of a weight matrix.

    `max`: the largest |w|, as `numerics.channel_amax` has it. `mse`: the share of it, from 100 %
    to 50 % in steps of 1 %, with the least squared error of the weights under the INT8 contract;
    never worse than `max`. (Bondarenko et al. 2021 search by golden section, which stops at a
    local minimum where there are several.)

    Args:
        weight: float32 [K, N] or [N, K], finite.
        axis: where the output channels N are; None for one range of the whole tensor.
        method: `max` or `mse`.

    Returns:
        float32 [N] or [], all > 0; 1 for a tensor of zeros.
    """
    # One row per channel; of a whole tensor, rows that share their amax.
    rows = np.ascontiguousarray(weight.T if axis == 1 else weight)
    amax = channel_amax(rows if axis is not None else rows.reshape(1, -1), axis=0)
    if method == "mse":
        noise = _noises(rows, np.broadcast_to(amax, rows.shape[:1]))
        if axis is None:
            noise = noise.sum(axis=1, keepdims=True)
        amax = amax * _SHARES[np.argmin(noise, axis=0)]
    return amax if axis is not None else amax.reshape(())


def _noises(rows: FloatArray, amax: FloatArray) -> NDArray[np.float64]:
    """Squared error of each row with each share of its amax.

    Args:
        rows: float32 [M, L].
        amax: float32 [M].

    Returns:
        float64 [J, M].
    """
    noise = np.zeros((_SHARES.size, rows.shape[0]))
    at_once = max(1, _PIECE // rows.shape[1])
    for start in range(0, rows.shape[0], at_once):
        part = slice(start, start + at_once)
        some = rows[part]
        rest = np.empty_like(some)
        for j, share in enumerate(_SHARES):
            scale = scale_of(amax[part] * share)[:, None]
            np.rint(np.divide(some, scale, out=rest), out=rest)
            np.multiply(np.clip(rest, QMIN, QMAX, out=rest), scale, out=rest)
            # Close numbers differ by a float32 (Sterbenz), so only the sum is rounded.
            np.subtract(rest, some, out=rest)
            noise[j, part] = np.einsum("ml,ml->m", rest, rest, dtype=np.float64)
    return noise
