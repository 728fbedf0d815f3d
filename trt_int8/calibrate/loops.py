"""The inner loops of calibration, as machine code where Numba is installed (extra `fast`).

Each reads the values of a tensor where they lie, and allocates next to nothing: the vectorised
operations of NumPy and PyTorch need a copy of the rows that count and a pass for every step, and
what they allocate and free makes the model's own operators wait for fresh pages.

Arguments, the same in all:
    flat: float32 (or its bits, int32), the memory that holds the tensor.
    starts: int64 [R], where each row that counts begins in it.
    owners: int64 [R], the text of each row; empty if every value of the rows counts.
    real: bool [B, C], which columns count in the rows of each text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from trt_int8 import optional

# 2^32 over the golden ratio, as int32 (Fibonacci hashing: Knuth, TAOCP 3, section 6.4).
SPREAD = -1640531527

Floats = NDArray[np.float32]
Integers = NDArray[np.int32]
Places = NDArray[np.int64]
Mask = NDArray[np.bool_]
_Function = TypeVar("_Function", bound=Callable[..., object])


@dataclass(frozen=True)
class Loops:
    """The loops, compiled: see the functions of the same names."""

    column_extremes: Callable[..., tuple[float, float]]
    count_bins: Callable[..., None]
    row_keys: Callable[..., int]
    insert_keys: Callable[..., int]
    copy_rows: Callable[..., None]


@lru_cache(maxsize=1)
def compiled() -> Loops | None:
    """The loops as machine code; None where Numba is not installed, or does not work.

    Each is compiled at its first call on a machine; Numba keeps the code on disk, beside this file
    or in the user's cache folder.
    """
    if not optional.is_installed("numba"):
        return None
    try:
        numba = optional.load("numba")
    except ImportError:  # a NumPy newer than it knows
        return None
    if numba.config.DISABLE_JIT:
        return None

    def compile_one(function: _Function) -> _Function:
        try:
            return numba.njit(function, cache=True)  # type: ignore[no-any-return]
        except RuntimeError:  # no folder that it may write to
            return numba.njit(function)  # type: ignore[no-any-return]

    return Loops(
        compile_one(column_extremes),
        compile_one(count_bins),
        compile_one(row_keys),
        compile_one(insert_keys),
        compile_one(copy_rows),
    )


# Below, slices and counters from 0 (an index that may be negative costs a test), selections in
# place of branches, and types of one size per loop are what lets the compiler use vectors.


def column_extremes(
    flat: Floats, starts: Places, owners: Places, real: Mask, found: Floats
) -> tuple[float, float]:
    """Smallest and largest value of each column.

    Args:
        flat: as above.
        starts: as above.
        owners: as above.
        real: as above.
        found: float32 [3, C] to write to: smallest and largest value of each column (infinity and
            -infinity if none counts), and what tells that one is not finite.

    Returns:
        Smallest and largest value of all; NaN if one that counts is NaN or infinite.
    """
    lows, highs, odd = found[0], found[1], found[2]
    columns = lows.size
    for c in range(columns):
        lows[c], highs[c], odd[c] = np.float32(np.inf), np.float32(-np.inf), np.float32(0)
    for row in range(starts.size):
        line = flat[starts[row] : starts[row] + columns]
        if owners.size:
            mask = real[owners[row]]
            for c in range(columns):
                value = line[c]
                lows[c] = value if mask[c] & (value < lows[c]) else lows[c]
                highs[c] = value if mask[c] & (value > highs[c]) else highs[c]
                odd[c] += value - value if mask[c] else np.float32(0)
        else:
            for c in range(columns):
                value = line[c]
                lows[c] = value if value < lows[c] else lows[c]
                highs[c] = value if value > highs[c] else highs[c]
                odd[c] += value - value  # infinity less infinity is NaN, and NaN stays
    low, high, finite = lows[0], highs[0], odd[0]
    for c in range(columns):
        # Which of -0 and 0 is smaller depends on their order: 0 is added.
        lows[c], highs[c] = lows[c] + np.float32(0), highs[c] + np.float32(0)
        low, high, finite = min(low, lows[c]), max(high, highs[c]), finite + odd[c]
    return low + finite, high + finite


def count_bins(
    flat: Floats,
    starts: Places,
    owners: Places,
    real: Mask,
    factor: np.float32,
    counts: NDArray[np.integer],
) -> None:
    """Count values in bins of 1 / factor.

    Args:
        flat: as above.
        starts: as above.
        owners: as above.
        real: as above, [B, C] even if all values count: C is read from it.
        factor: a power of two; |x| * factor is below M.
        counts: integer [2, 2 * M], to add to. The bins are `counts[0] + counts[1]`, but for the
            last, which takes what does not count: bin M - 1 + k as in `Histogram`.
    """
    columns = real.shape[1]
    one, other = counts[0], counts[1]
    last = np.int32(one.size - 1)
    middle = np.int32(one.size // 2 - 1)
    # Unsigned: no test for a negative index. It holds one row, so it stays in the L1 cache.
    bins = np.empty(columns, np.uint16)
    half = columns // 2
    for row in range(starts.size):
        line = flat[starts[row] : starts[row] + columns]
        for c in range(columns):
            # Conversion cuts towards zero, so both signs have bins of one width. Whatever lies in
            # a value that does not count, nothing is written beside the tables.
            place = np.int32(line[c] * factor) + middle
            bins[c] = place if (place >= 0) & (place <= last) else last
        if owners.size:
            mask = real[owners[row]]
            for c in range(columns):
                bins[c] = bins[c] if mask[c] else last
        # Two tables: neighbours often share a bin, and a second addition to one place waits until
        # the first is stored.
        for c in range(half):
            one[bins[c]] += 1
            other[bins[half + c]] += 1
        if 2 * half < columns:
            one[bins[columns - 1]] += 1


def row_keys(
    flat: Integers,
    starts: Places,
    owners: Places,
    real: Mask,
    chosen: tuple[Integers, int, int],
    found: tuple[Places, Places],
) -> int:
    """Hash rows as `row_sample` does, and pick those whose first columns have small hashes.

    Args:
        flat: as above, the bits.
        starts: as above.
        owners: as above.
        real: as above.
        chosen: int32 [2, C], the factors of both halves of a key; how many columns the upper half
            is of; and the largest upper half wanted.
        found: int64 [R] twice, to write to: numbers of the rows picked, and their keys.

    Returns:
        How many rows were picked.
    """
    factors, coarse_columns, largest = chosen
    numbers, keys = found
    count = 0
    for row in range(starts.size):
        for half in range(2):
            columns = factors.shape[1] if half else coarse_columns
            line = flat[starts[row] : starts[row] + columns]
            by = factors[half]
            total = np.int32(0)  # sums and products modulo 2^32
            if owners.size:
                mask = real[owners[row]]
                for c in range(columns):
                    high = (line[c] >> 16) ^ line[c] if mask[c] else np.int32(0)
                    total = np.int32(total + np.int32(high * by[c]))
            else:
                for c in range(columns):
                    high = (line[c] >> 16) ^ line[c]
                    total = np.int32(total + np.int32(high * by[c]))
            spread = np.int32((total ^ (total >> 16)) * np.int64(SPREAD))
            if half:
                keys[count] |= np.int64(spread) & 0xFFFFFFFF
                count += 1
            elif spread <= largest:
                numbers[count], keys[count] = row, np.int64(spread) << 32
            else:
                break
    return count


def insert_keys(table: Places, count: int, keys: Places, repeats: Places, places: Places) -> int:
    """Put keys into a table, as the function of this name in `row_sample` tells.

    Args:
        table: int64 [3, R] to change: keys, ascending, repeats and places.
        count: how many of its columns are in use.
        keys: int64 [K], in any order.
        repeats: int64 [K].
        places: int64 [K].

    Returns:
        How many columns are in use then.
    """
    room = table.shape[1]
    for number in range(keys.size):
        key = keys[number]
        low, high = 0, count
        while low < high:
            middle = (low + high) >> 1
            if table[0, middle] < key:
                low = middle + 1
            else:
                high = middle
        if low == room:  # it is full of smaller ones
            continue
        if low < count and table[0, low] == key:
            table[1, low] += repeats[number]
            continue
        count = min(count + 1, room)  # the largest drops out if there is no room
        for at in range(count - 1, low, -1):
            for line in range(3):
                table[line, at] = table[line, at - 1]
        table[0, low], table[1, low], table[2, low] = key, repeats[number], places[number]
    return count


def copy_rows(
    flat: Floats, starts: Places, owners: Places, real: Mask, numbers: Places, rows: Floats
) -> None:
    """Copy rows, with zeros for what does not count in them.

    Args:
        flat: as above.
        starts: as above.
        owners: as above.
        real: as above.
        numbers: int64 [K], which rows.
        rows: float32 [K, C] to write to.
    """
    columns = rows.shape[1]
    for number in range(numbers.size):
        row = numbers[number]
        line = flat[starts[row] : starts[row] + columns]
        if owners.size:
            mask = real[owners[row]]
            for c in range(columns):
                rows[number, c] = line[c] if mask[c] else np.float32(0)
        else:
            rows[number] = line
