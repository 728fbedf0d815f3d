"""A sample of a tensor's rows that does not depend on their order."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trt_int8.calibrate.loops import SPREAD

ROWS = 256
_COARSE = 16
# Rows held in memory, the dropped ones included, and their parts, before they are put together.
_HELD = 2 * ROWS
_PARTS = 16


@dataclass(frozen=True, eq=False)
class RowSample:
    """The distinct rows with the smallest hashes, and how often each was seen.

    A row's hash depends on its content alone, so the sample is the same however the rows are
    ordered, split or shared out, and two samples merge exactly: a row that is among the smallest
    at the end was so all the time, and each of its occurrences was counted. (A bottom-k sample:
    E. Cohen, H. Kaplan, "Summarizing data using bottom-k sketches", 2007.) Zeros at the end of a
    row do not change its hash; shorter rows are filled up with zeros.

    Attributes:
        keys: int64 [R], ascending; R <= ROWS.
        repeats: int64 [R].
        parts: float32 [P, C] each, the rows of the samples it was merged from; some may be dropped.
        places: int64 [R], where each row is in all parts put together.
    """

    keys: NDArray[np.int64]
    repeats: NDArray[np.int64]
    parts: tuple[NDArray[np.float32], ...]
    places: NDArray[np.int64]

    @classmethod
    def of(
        cls, keys: NDArray[np.int64], repeats: NDArray[np.int64], rows: NDArray[np.float32]
    ) -> RowSample:
        """That of distinct keys, ascending; `rows` are those of the first `ROWS` of them."""
        counts = repeats[:ROWS].astype(np.int64)
        return cls(keys[:ROWS].copy(), counts, (_apart(rows),), np.arange(len(rows)))

    @cached_property
    def rows(self) -> NDArray[np.float32]:
        """float32 [R, C], in the order of the keys."""
        width = max(part.shape[1] for part in self.parts)
        whole = np.concatenate([_filled_up(part, width) for part in self.parts])
        rows: NDArray[np.float32] = whole[self.places]
        return rows

    @property
    def bound(self) -> int | None:
        """Rows with keys above it cannot get into the sample any more; None if it has room."""
        return int(self.keys[-1]) if self.keys.size == ROWS else None

    def merge(self, other: RowSample) -> RowSample:
        """The sample of the rows of both; equal to that of one run over both."""
        if not other.keys.size:
            return self
        keys = np.concatenate([self.keys, other.keys])
        chosen, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        repeats = np.zeros(chosen.size, dtype=np.int64)
        np.add.at(repeats, inverse, np.concatenate([self.repeats, other.repeats]))
        behind = sum(len(part) for part in self.parts)
        places = np.concatenate([self.places, other.places + behind])[first[:ROWS]]
        merged = RowSample(chosen[:ROWS], repeats[:ROWS], (*self.parts, *other.parts), places)
        return merged._compacted()

    def _compacted(self) -> RowSample:
        """The same in one part, if dropped rows hold much memory or parts are many.

        Copying all rows at each merge would cost more than finding them: a few are new.
        """
        if sum(len(part) for part in self.parts) <= _HELD and len(self.parts) <= _PARTS:
            return self
        return RowSample(self.keys, self.repeats, (_apart(self.rows),), np.arange(self.keys.size))


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


def _apart(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """A copy in pages of its own.

    In the heap, between what a model allocates and frees, rows that stay from batch to batch break
    its free memory into pieces too small for the next batch, so that the process grows by each.
    """
    if not rows.size:
        return rows.copy()
    pages = np.frombuffer(mmap.mmap(-1, rows.nbytes), dtype=rows.dtype).reshape(rows.shape)
    pages[...] = rows
    return pages


def _filled_up(rows: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """The rows with zeros at their ends, [R, width]."""
    missing = width - rows.shape[1]
    return rows if missing == 0 else np.pad(rows, ((0, 0), (0, missing)))


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
    mixed *= np.int32(SPREAD)
    return mixed


@lru_cache(maxsize=64)
def _factors(columns: int, seed: int) -> NDArray[np.int32]:
    numbers = np.random.default_rng(20190603 + seed).integers(-(2**31), 2**31, columns, np.int32)
    return numbers | 1
