"""All that calibration keeps of one tensor: everything an estimator may ask for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trt_int8.calibrate.histogram import Histogram, histogram_of
from trt_int8.calibrate.row_sample import RowSample, sample_rows
from trt_int8.errors import RangeError


@dataclass(frozen=True)
class Needs:
    """Which statistics to keep besides the extremes, which are always kept."""

    histogram: bool = True
    rows: bool = False


@dataclass(frozen=True)
class Values:
    """The values of one tensor that count, as rows (tokens) and columns (channels).

    Attributes:
        rows: float32 [R, C]; what does not count in a row is 0.
        counted: bool [R, C], where only a part of each row counts; None if all of it does.
        has_channels: column c is the same channel in every row and every call.
    """

    rows: Tensor
    counted: Tensor | None = None
    has_channels: bool = True

    def count(self) -> int:
        """How many values count."""
        return self.rows.numel() if self.counted is None else int(self.counted.sum())

    def extremes(self) -> tuple[float, float]:
        """Smallest and largest value that counts; NaN if one of them is."""
        if self.counted is None:
            low, high = torch.aminmax(self.rows)
            return float(low), float(high)
        out = ~self.counted  # several times as fast as picking the values that count
        low = self.rows.masked_fill(out, math.inf).amin()
        high = self.rows.amax()  # of the values and zeros
        if not high > 0:
            high = self.rows.masked_fill(out, -math.inf).amax()
        return float(low), float(high)


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
        values: at least what `values_of` selects.
        needs: what to keep.
        batch: number of the batch in the data set.
        so_far: what they will be merged with: rows that have no place there are left out.

    Returns:
        None if no value counts.

    Raises:
        RangeError: it holds NaN or infinity; the message names the tensor.
    """
    rows = values.rows
    count = values.count()
    if count == 0:
        return None
    channels = None
    if values.has_channels and values.counted is None:
        channels = torch.stack([rows.amin(dim=0), rows.amax(dim=0)]).cpu().numpy()
        low, high = float(channels[0].min()), float(channels[1].max())
    else:
        low, high = values.extremes()
    if not (math.isfinite(low) and math.isfinite(high)):  # a NaN makes both NaN
        raise RangeError(
            f"tensor {name!r} holds NaN or infinity during calibration",
            wanted="finite values",
            todo="check the model on this text, or add the tensor to 'keep' in the recipe",
        )
    bound = so_far.rows.bound if so_far is not None and so_far.rows is not None else None
    return TensorStatistics(
        count=count,
        low=low,
        high=high,
        batches={batch: (low, high)},
        channels=channels,
        histogram=_histogram(values, count, max(-low, high)) if needs.histogram else None,
        rows=sample_rows(rows, bound) if needs.rows else None,
    )


def _histogram(values: Values, count: int, peak: float) -> Histogram:
    """Counts zeros that stand for nothing too, and takes them off again."""
    return histogram_of(values.rows, peak).without_zeros(values.rows.numel() - count)


def _merged_channels(
    mine: NDArray[np.float32] | None, others: NDArray[np.float32] | None
) -> NDArray[np.float32] | None:
    if mine is None or others is None or mine.shape != others.shape:
        return None
    return np.stack([np.minimum(mine[0], others[0]), np.maximum(mine[1], others[1])])
