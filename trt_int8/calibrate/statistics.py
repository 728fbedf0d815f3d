"""All that calibration keeps of one tensor: everything an estimator may ask for."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from trt_int8.calibrate.histogram import MIN_EXPONENT, Histogram
from trt_int8.calibrate.readers import reader_of
from trt_int8.calibrate.row_sample import RowSample
from trt_int8.calibrate.values import Values
from trt_int8.errors import RangeError


@dataclass(frozen=True)
class Needs:
    """Which statistics to keep besides the extremes, which are always kept."""

    histogram: bool = True
    rows: bool = False


@dataclass(frozen=True, eq=False)
class TensorStatistics:
    """Statistics of one tensor; those of two runs merge to those of one run over both.

    Attributes:
        count: number of values.
        low: smallest value.
        high: largest value.
        batches: per batch number its (low, high).
        channels: float32 [2, C], (low, high) per channel; None if it has no fixed channels.
        histogram: of all values, if asked for.
        rows: a sample of the rows, if asked for.
    """

    count: int
    low: float
    high: float
    batches: dict[int, tuple[float, float]]
    channels: NDArray[np.float32] | None
    histogram: Histogram | None
    rows: RowSample | None

    @property
    def peak(self) -> float:
        """Largest |x|."""
        return max(-self.low, self.high, 0.0)

    def merge(self, other: TensorStatistics) -> TensorStatistics:
        """Statistics of the values of both; equal to those of one run over both."""
        batches = dict(self.batches)
        for batch, (low, high) in other.batches.items():
            mine = batches.get(batch, (low, high))
            batches[batch] = (min(low, mine[0]), max(high, mine[1]))
        both = self.histogram is not None and other.histogram is not None
        sampled = self.rows is not None and other.rows is not None
        return TensorStatistics(
            count=self.count + other.count,
            low=min(self.low, other.low),
            high=max(self.high, other.high),
            batches=dict(sorted(batches.items())),
            channels=_merged_channels(self.channels, other.channels),
            histogram=self.histogram.merge(other.histogram) if both else None,  # type: ignore[union-attr, arg-type]
            rows=self.rows.merge(other.rows) if sampled else None,  # type: ignore[union-attr, arg-type]
        )


def merged(parts: Iterable[TensorStatistics]) -> TensorStatistics | None:
    """Statistics of all values of tensors; those that are the same object count once."""
    each = list({id(part): part for part in parts}.values())
    return reduce(TensorStatistics.merge, each) if each else None


def statistics_of(
    name: str,
    values: Values,
    needs: Needs,
    batch: int,
    so_far: TensorStatistics | None = None,
) -> TensorStatistics | None:
    """Statistics of one tensor in one batch.

    Args:
        name: the tensor, for error messages.
        values: those that count.
        needs: what to keep.
        batch: number of the batch in the data set.
        so_far: what they will be merged with: rows that have no place there are left out, and
            the bins are not narrower.

    Returns:
        None if no value counts.

    Raises:
        RangeError: it holds NaN or infinity; the message names the tensor.
    """
    count = values.count()
    if count == 0:
        return None
    reader = reader_of(values)
    extremes = reader.extremes()
    low, high = extremes.low, extremes.high
    if not (math.isfinite(low) and math.isfinite(high)):  # a NaN makes both NaN
        raise RangeError(
            f"tensor {name!r} holds NaN or infinity during calibration",
            wanted="finite values",
            todo="check the model on this text, or add the tensor to 'keep' in the recipe",
        )
    # Counted with the bins of what they will be merged with, they need not be widened for it.
    counted = so_far.histogram if so_far is not None else None
    exponent = MIN_EXPONENT if counted is None else counted.exponent
    bound = so_far.rows.bound if so_far is not None and so_far.rows is not None else None
    return TensorStatistics(
        count=count,
        low=low,
        high=high,
        batches={batch: (low, high)},
        channels=extremes.columns if values.has_channels else None,
        histogram=reader.histogram(max(-low, high), exponent) if needs.histogram else None,
        rows=reader.sample(bound) if needs.rows else None,
    )


def _merged_channels(
    mine: NDArray[np.float32] | None, others: NDArray[np.float32] | None
) -> NDArray[np.float32] | None:
    if mine is None or others is None or mine.shape != others.shape:
        return None
    merged = np.empty_like(mine)
    np.minimum(mine[0], others[0], out=merged[0])
    np.maximum(mine[1], others[1], out=merged[1])
    return merged
