"""Ranges that make the relative error of a token least, from a sample of rows.

LayerNorm rescales every token, so what counts further on is a token's error relative to that
token. The few tokens with outliers decide a plain mean squared error; here they count once each,
like all others. On the MiniLM and MPNet sentence encoders this kept the outputs closer to the
float model than every percentile tried.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from trt_int8.calibrate.estimate.kept import kept_rows
from trt_int8.calibrate.statistics import TensorStatistics
from trt_int8.errors import ShapeError
from trt_int8.numerics import (
    QMAX,
    QMIN,
    FloatArray,
    channel_amax,
    dequantize,
    quantize,
    scale_of,
)

# Thresholds tried, as shares of the largest |x|: halves of an octave down to 1/128 of it, quarters
# of an octave around the best, then sixteenths around the best of these.
_GRIDS = (
    np.exp2(-np.arange(0, 15) / 2),
    np.exp2(np.arange(-1, 2) / 4),
    np.exp2(np.arange(-3, 4) / 16),
)
# A row whose square is below this share of the largest is 0, up to rounding: as an input it gives
# codes of 0 with every threshold tried, as an output it is what float32 sums leave of 0.
_SILENT = 1e-30

# Rows looked at first. If they alone make a larger loss than all rows do with another threshold,
# the others need not be looked at. Products of fewer rows may be rounded otherwise, which changes
# an INT8 loss by thousandths of it: so that this decides nothing, it has to be clearly larger.
_FIRST = 16
_MARGIN = 1.25

# More output channels than this are sampled, evenly: they only weigh the errors of the inputs.
_COLUMNS = 256

# Squared error of each of the first rows, float32 [L], with a threshold and their number L.
RowNoise = Callable[[float, int], FloatArray]
Loss = Callable[[float, int], float]


def amax_sqnr(statistics: TensorStatistics) -> float:
    """The threshold with the least relative error of a row, on average over the rows.

    The error of a row x is ||Q(x) - x||^2 / ||x||^2 with the INT8 contract Q. Each row of the
    sample counts as often as it was seen; rows of zeros are left out.

    Args:
        statistics: of the tensor, with a sample of rows.

    Returns:
        At most the largest |x|, which it is if the sample holds zeros only.
    """
    rows, peak = _unit_rows(statistics)
    rounded = np.empty_like(rows)

    def noise(amax: float, count: int) -> FloatArray:
        some, codes = rows[:count], rounded[:count]
        _quantize(some, amax, codes)
        return _squares(np.subtract(codes, some, out=codes))

    return _search(statistics, peak, noise, _squares(rows))


def amax_output(statistics: TensorStatistics, weight: FloatArray) -> float:
    """The threshold with the least relative error of a row's matmul output, on average.

    The error of a row x is ||Q(x) Q(W) - x W||^2 / ||x W||^2, with W quantized per output channel
    as the engine does it; of many output channels, 256 evenly spaced ones. Rows count as in
    `amax_sqnr`.

    Args:
        statistics: of the left operand, with a sample of rows.
        weight: the right operand W, float32 [K, N].

    Returns:
        At most the largest |x|, which it is if no row has an output other than 0.

    Raises:
        ShapeError: the rows do not have K values.
    """
    rows, peak = _unit_rows(statistics)
    if weight.ndim != 2 or weight.shape[0] != rows.shape[1]:
        raise ShapeError(
            f"rows of {rows.shape[1]} values meet a weight of shape {weight.shape}",
            wanted=f"a weight [{rows.shape[1]}, N]",
            todo="pass the weight as the right operand of x @ W",
        )
    if weight.shape[1] > _COLUMNS:
        weight = weight[:, np.arange(_COLUMNS) * weight.shape[1] // _COLUMNS]
    unit = _scaled(weight, float(np.abs(weight).max(initial=0)))
    scale = scale_of(channel_amax(unit, axis=1))
    int8_weight = dequantize(quantize(unit, scale, axis=1), scale, axis=1)
    rounded = np.empty_like(rows)
    # PyTorch's product is about as fast as NumPy's on an idle machine, and faster on a busy one.
    wanted = torch.mm(torch.from_numpy(rows), torch.from_numpy(unit)).numpy()
    got = np.empty_like(wanted)
    left, right, product = map(torch.from_numpy, (rounded, int8_weight, got))

    def noise(amax: float, count: int) -> FloatArray:
        _quantize(rows[:count], amax, rounded[:count])
        torch.mm(left[:count], right, out=product[:count])  # of and into the arrays above
        return _squares(np.subtract(got[:count], wanted[:count], out=got[:count]))

    return _search(statistics, peak, noise, _squares(wanted))


def _search(
    statistics: TensorStatistics, peak: float, noise: RowNoise, signal: FloatArray
) -> float:
    """The threshold, in tensor units, with the least mean of noise / signal over the rows.

    Args:
        statistics: of the tensor.
        peak: its largest |x| in the units of `noise`.
        noise: of the first rows.
        signal: square of each row, [R].
    """
    usable = signal > _SILENT * np.max(signal, initial=0)
    if not usable.any():
        return statistics.peak
    weights = kept_rows(statistics).repeats[usable] / signal[usable].astype(np.float64)

    def loss(amax: float, count: int) -> float:
        errors = noise(amax, count)[usable[:count]]
        # fsum rounds once, so rows in another order, as their hashes have it, give the same.
        return math.fsum((errors * weights[: errors.size]).tolist())

    best, known = peak, dict[float, float]()
    for grid in _GRIDS:
        best = _least(np.minimum(best * grid, peak).tolist(), loss, signal.size, known)
    return best * (statistics.peak / peak)


def _least(tried: list[float], loss: Loss, rows: int, known: dict[float, float]) -> float:
    """The first of the thresholds with the least loss.

    Args:
        tried: thresholds.
        loss: sum of the relative errors of the first rows.
        rows: how many there are.
        known: thresholds with their losses over all rows; those looked at are added.
    """
    found = {amax: known[amax] for amax in tried if amax in known}
    # No term is negative: the loss over all rows is not smaller than that over the first.
    bounds = {amax: loss(amax, _FIRST) for amax in tried if amax not in found}
    for amax in sorted(bounds, key=bounds.__getitem__):
        if bounds[amax] <= _MARGIN * min(found.values(), default=math.inf):
            found[amax] = loss(amax, rows)
    known.update(found)
    return min((amax for amax in tried if amax in found), key=found.__getitem__)


def _unit_rows(statistics: TensorStatistics) -> tuple[FloatArray, float]:
    """The rows, and the largest |x|, over the power of two that brings it into [1/2, 1).

    It is exact, and keeps the squares of the values in the range of float32.
    """
    peak = statistics.peak
    return _scaled(kept_rows(statistics).rows, peak), math.frexp(peak)[0]


def _scaled(array: FloatArray, largest: float) -> FloatArray:
    result: FloatArray = np.ldexp(array, -math.frexp(largest)[1])
    return result


def _quantize(rows: FloatArray, amax: float, out: FloatArray) -> None:
    """Write to `out` what the INT8 codes of `rows` stand for, bit for bit as `numerics` has it."""
    scale = scale_of(amax)
    np.rint(np.divide(rows, scale, out=out), out=out)
    np.multiply(np.clip(out, QMIN, QMAX, out=out), scale, out=out)


def _squares(rows: FloatArray) -> FloatArray:
    """Square of the length of each row, float32 [R]."""
    squares: FloatArray = np.einsum("rc,rc->r", rows, rows)
    return squares
