"""A sample of a tensor's rows that does not depend on their order."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from weakref import WeakSet

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trt_int8.calibrate import loops

ROWS = 256
_COARSE = 16
# What a store has room for: two samples.
_ROOM = 2 * ROWS

Numbers = NDArray[np.int64]
Rows = NDArray[np.float32]


class RowStore:
    """Memory with the rows of samples, which they share. Not for several threads at once.

    Attributes:
        rows: float32 [P, C]; those that were never written are zeros.
        users: the samples whose rows are in it.
    """

    def __init__(self, rows: Rows) -> None:
        """Take over the memory."""
        self.rows = rows
        self.users: WeakSet[RowSample] = WeakSet()

    @classmethod
    def with_room(cls, columns: int) -> RowStore:
        """Room for two samples, in pages of its own, which are real memory once they are written.

        In the heap, between what a model allocates and frees, rows that stay from batch to batch
        break its free memory into pieces too small for the next batch, so that the process grows
        by each.
        """
        size = _ROOM * columns * np.dtype(np.float32).itemsize
        return cls(np.frombuffer(_pages(size), np.float32).reshape(_ROOM, columns))

    def free_for(self, rows: Rows, kept: Numbers) -> Numbers | None:
        """Places to write these rows to, int64 [K]; None if they do not fit.

        Args:
            rows: float32 [K, C].
            kept: int64 [R], the places of rows that must stay.
        """
        free = np.ones(len(self.rows), dtype=np.bool_)
        free[kept] = False
        places: Numbers = np.flatnonzero(free)[: len(rows)]
        fits = places.size == len(rows) and rows.shape[1] <= self.rows.shape[1]
        return places if fits else None

    def write(self, rows: Rows, places: Numbers) -> None:
        """Write rows, with zeros at the ends of shorter ones."""
        columns = rows.shape[1]
        if columns < self.rows.shape[1]:
            self.rows[places, columns:] = 0
            self.rows[places, :columns] = rows
        else:
            self.rows[places] = rows


@dataclass(frozen=True, eq=False)
class RowSample:
    """The distinct rows with the smallest hashes, and how often each was seen.

    A row's hash depends on its content alone, so the sample is the same however the rows are
    ordered, split or shared out, and two samples merge exactly: a row that is among the smallest
    at the end was so all the time, and each of its occurrences was counted. (A bottom-k sample:
    E. Cohen, H. Kaplan, "Summarizing data using bottom-k sketches", 2007.) Zeros at the end of a
    row do not change its hash; shorter rows are filled up with zeros.

    Attributes:
        table: int64 [3, R], R <= ROWS: keys, ascending; repeats; places of the rows in the store.
        store: the rows, and others that were dropped or are of other samples.
    """

    table: Numbers
    store: RowStore

    def __post_init__(self) -> None:
        """Make known to the store that its rows are in use."""
        self.store.users.add(self)

    @classmethod
    def of(cls, keys: Numbers, repeats: Numbers, rows: Rows) -> RowSample:
        """That of distinct keys, ascending; `rows` are those of the first `ROWS` of them."""
        count = len(rows)
        table = np.stack([keys[:count], repeats[:count], np.arange(count)]).astype(np.int64)
        return cls(table, RowStore(rows))

    def __reduce__(self) -> tuple[Callable[..., RowSample], tuple[Numbers, Numbers, Rows]]:
        """To another process go the rows of the sample, not the whole store."""
        return RowSample.of, (self.keys, self.repeats, self.rows)

    @property
    def keys(self) -> Numbers:
        """int64 [R], ascending."""
        keys: Numbers = self.table[0]
        return keys

    @property
    def repeats(self) -> Numbers:
        """int64 [R], how often each row was seen."""
        repeats: Numbers = self.table[1]
        return repeats

    @property
    def rows(self) -> Rows:
        """float32 [R, C], in the order of the keys; not to be written to."""
        rows: Rows = self.store.rows
        return rows if len(rows) == self.table.shape[1] else rows[self.table[2]]

    @property
    def bound(self) -> int | None:
        """Rows with keys above it cannot get into the sample any more; None if it has room."""
        return int(self.table[0, -1]) if self.table.shape[1] == ROWS else None

    def merge(self, other: RowSample) -> RowSample:
        """The sample of the rows of both; equal to that of one run over both."""
        if not other.keys.size:
            return self
        count, rows, store = self.keys.size, other.rows, self.store
        table = np.empty((3, ROWS), dtype=np.int64)
        table[:, :count] = self.table
        # What no living sample has a row in may be written over: that saves fresh pages.
        places = store.free_for(rows, self.table[2]) if len(store.users) == 1 else None
        if places is None:
            store = RowStore.with_room(max(store.rows.shape[1], rows.shape[1]))
            table[2, :count] = np.arange(count)
            store.write(self.rows, table[2, :count])
            places = np.arange(count, count + len(rows))
        store.write(rows, places)
        count = insert_keys(table, count, (other.keys, other.repeats, places))
        return RowSample(table[:, :count], store)


def insert_keys(table: Numbers, count: int, added: tuple[Numbers, Numbers, Numbers]) -> int:
    """Put keys into a table in which the smallest stay; by the loop of this name if it is there.

    Args:
        table: int64 [3, ROWS] to change: keys, ascending, repeats and places.
        count: how many of its columns are in use.
        added: int64 [K] each, keys in any order, repeats and places; equal keys are one.

    Returns:
        How many columns are in use then.
    """
    ready = loops.compiled()
    if ready is not None:
        return ready.insert_keys(table, count, *added)
    keys, repeats, places = np.concatenate([table[:, :count], np.stack(added)], axis=1)
    chosen, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    total = np.zeros(chosen.size, dtype=np.int64)
    np.add.at(total, inverse, repeats)
    count = min(chosen.size, table.shape[1])
    table[:, :count] = chosen[:count], total[:count], places[first[:count]]
    return count


def sample_rows(rows: Tensor, bound: int | None = None) -> RowSample:
    """Sample the rows of a matrix.

    Args:
        rows: float32 [R, C], finite.
        bound: leave out rows with larger keys, for which the sample it goes into has no room.
    """
    # A few columns tell most rows apart; those that they do not are picked together.
    coarse = _hash(rows[:, :_COARSE].cpu().numpy(), 0)
    places = np.flatnonzero(coarse <= coarse_bound(bound))
    wanted = ROWS
    while True:
        picked = places[_smallest(coarse[places], wanted)]
        some = rows.index_select(0, torch.from_numpy(picked).to(rows.device)).cpu().numpy()
        fine = _hash(some, 1).astype(np.int64) & 0xFFFFFFFF
        keys = (coarse[picked].astype(np.int64) << 32) | fine
        found, first, counts = np.unique(keys, return_index=True, return_counts=True)
        if found.size >= ROWS or picked.size == places.size:
            break
        wanted *= 4  # many equal rows: look at more
    return RowSample.of(found, counts, some[first[:ROWS]])


def coarse_bound(bound: int | None) -> int:
    """The largest hash of the first columns that a key up to `bound` may have."""
    return 2**31 - 1 if bound is None else bound >> 32


def coarse_columns(columns: int) -> int:
    """How many columns the upper half of a key is the hash of."""
    return min(columns, _COARSE)


@lru_cache(maxsize=64)
def key_factors(columns: int) -> NDArray[np.int32]:
    """int32 [2, C]: the factors of the upper and of the lower half of a key."""
    return np.stack([_factors(columns, half) for half in range(2)])


def _pages(size: int) -> mmap.mmap:
    """Fresh memory; what a forked process writes to it does not show here."""
    if hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return mmap.mmap(-1, size)  # Windows knows neither flags nor forks


def _smallest(hashes: NDArray[np.int32], wanted: int) -> NDArray[np.int64]:
    """Where the `wanted` smallest hashes are, all those that equal the last one included."""
    if hashes.size <= wanted:
        return np.arange(hashes.size)
    bound = np.partition(hashes, wanted - 1)[wanted - 1]
    return np.flatnonzero(hashes <= bound)


def _hash(rows: NDArray[np.float32], seed: int) -> NDArray[np.int32]:
    """int32 [R]: sum of the bit patterns times fixed odd numbers, modulo 2^32.

    Integer sums wrap alike in every order, so threads and vector units cannot change it.
    """
    bits = np.ascontiguousarray(rows).view(np.int32)
    # Round numbers end in zero bits, and products only carry upwards: bring the high bits down.
    high = bits >> 16
    high ^= bits
    mixed: NDArray[np.int32] = np.einsum("rc,c->r", high, _factors(rows.shape[1], seed))
    # The low bits of a sum of products depend on low bits only: fold the high half onto them, and
    # spread them over the order again.
    mixed ^= mixed >> 16
    mixed *= np.int32(loops.SPREAD)
    return mixed


@lru_cache(maxsize=64)
def _factors(columns: int, seed: int) -> NDArray[np.int32]:
    numbers = np.random.default_rng(20190603 + seed).integers(-(2**31), 2**31, columns, np.int32)
    return numbers | 1
