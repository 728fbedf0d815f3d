"""What is read out of the values of one tensor: by vectorised operations, or by compiled loops.

Both give the same, bit for bit; the loops are several times as fast.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from trt_int8.calibrate import loops
from trt_int8.calibrate.histogram import BINS, Histogram, exponent_for, histogram_of
from trt_int8.calibrate.loops import Loops
from trt_int8.calibrate.row_sample import (
    ROWS,
    RowSample,
    RowStore,
    coarse_bound,
    coarse_columns,
    key_factors,
    sample_rows,
)
from trt_int8.calibrate.values import Values

Columns = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Extremes:
    """Smallest and largest value.

    Attributes:
        low: of all values that count; NaN if one of them is NaN or infinite.
        high: likewise.
        columns: float32 [2, C], those of each column; None where only a part of each row counts.
    """

    low: float
    high: float
    columns: Columns | None


class Reader(Protocol):
    """Reads one tensor's values; at least one counts."""

    def extremes(self) -> Extremes:
        """Smallest and largest value; not finite if a value is not."""

    def histogram(self, peak: float, exponent: int) -> Histogram:
        """Counts in bins for |x| <= peak, not narrower than 2 ** exponent."""

    def sample(self, bound: int | None) -> RowSample:
        """A sample of the rows; those with keys above the bound may be left out."""


def reader_of(values: Values) -> Reader:
    """The loops where they can be had and the tensor is in main memory, else operations."""
    ready = loops.compiled() if values.table.device.type == "cpu" else None
    return OperationsReader(values) if ready is None else LoopsReader(values, ready)


class OperationsReader:
    """Reads by PyTorch's operations, on any device."""

    def __init__(self, values: Values) -> None:
        """Read these values."""
        self._values = values

    def extremes(self) -> Extremes:
        """Smallest and largest value; NaN if one is."""
        rows, counted = self._values.rows, self._values.counted
        if counted is None:
            columns = torch.stack([rows.amin(dim=0), rows.amax(dim=0)]).cpu().numpy()
            columns += np.float32(0)  # which of -0 and 0 is smaller depends on their order
            return Extremes(float(columns[0].min()), float(columns[1].max()), columns)
        out = ~counted  # several times as fast as picking the values that count
        low = rows.masked_fill(out, math.inf).amin()
        high = rows.amax()  # of the values and zeros
        if not high > 0:
            high = rows.masked_fill(out, -math.inf).amax()
        return Extremes(float(low) + 0.0, float(high) + 0.0, None)

    def histogram(self, peak: float, exponent: int) -> Histogram:
        """Counts zeros that stand for nothing too, and takes them off again."""
        rows = self._values.rows
        return histogram_of(rows, peak, exponent).without_zeros(rows.numel() - self._values.count())

    def sample(self, bound: int | None) -> RowSample:
        """A sample of the rows."""
        return sample_rows(self._values.rows, bound)


class LoopsReader:
    """Reads by compiled loops, in main memory."""

    def __init__(self, values: Values, ready: Loops) -> None:
        """Read these values."""
        self._values, self._loops = values, ready
        self._columns = values.shape[1]

    def extremes(self) -> Extremes:
        """Smallest and largest value; NaN if one is NaN or infinite."""
        found = np.empty((3, self._columns), dtype=np.float32)
        low, high = self._loops.column_extremes(*self._where, found)
        return Extremes(low, high, found[:2] if self._values.real is None else None)

    def histogram(self, peak: float, exponent: int) -> Histogram:
        """Counts in bins for |x| <= peak."""
        exponent = max(exponent, exponent_for(peak))
        # 32 bits, as long as they suffice: two tables of 64 would not stay in the L1 cache.
        kind = np.int32 if math.prod(self._values.shape) < 2**31 else np.int64
        counts = np.zeros((2, 2 * BINS), dtype=kind)
        self._loops.count_bins(*self._where, np.float32(2.0**-exponent), counts)
        return Histogram(exponent, counts.sum(axis=0, dtype=np.int64)[:-1])

    def sample(self, bound: int | None) -> RowSample:
        """A sample of the rows."""
        flat, starts, owners, real = self._where
        chosen = key_factors(self._columns), coarse_columns(self._columns), coarse_bound(bound)
        numbers, keys = np.empty((2, starts.size), dtype=np.int64)
        words, where = flat.view(np.int32), (starts, owners, real)
        count = self._loops.row_keys(words, *where, chosen, (numbers, keys))
        table, once = np.empty((3, ROWS), dtype=np.int64), np.ones(count, dtype=np.int64)
        kept = self._loops.insert_keys(table, 0, keys[:count], once, numbers[:count])
        table = table[:, :kept]
        # The first rows of a tensor stay where they are; others are copied to those.
        store = (
            RowStore.with_room(self._columns)
            if bound is None
            else RowStore(np.empty((kept, self._columns), np.float32))
        )
        self._loops.copy_rows(flat, *where, table[2], store.rows[:kept])
        table[2] = np.arange(kept)
        return RowSample(table, store)

    @cached_property
    def _where(self) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64], _Mask]:
        """The first arguments of all loops."""
        table, places = self._values.table, self._values.places
        if self._columns > 1 and table.stride(1) != 1:
            table, places = self._values.rows.contiguous(), None
        step, count = table.stride(0), table.shape[0]
        flat = table.as_strided(((count - 1) * step + self._columns,), (1,)).numpy()
        starts = (
            np.arange(count, dtype=np.int64) * step if places is None else places.numpy() * step
        )
        real, owners = self._values.real, self._values.owners
        if real is None or owners is None:
            everything = np.empty((0, self._columns), dtype=np.bool_)
            return flat, starts, np.empty(0, dtype=np.int64), everything
        return flat, starts, owners.numpy(), np.ascontiguousarray(real.numpy())


_Mask = NDArray[np.bool_]
