from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support.collected import EVERYTHING
from trt_int8.calibrate import loops
from trt_int8.calibrate.histogram import BINS, MIN_EXPONENT, Histogram
from trt_int8.calibrate.readers import LoopsReader, OperationsReader, Reader, reader_of
from trt_int8.calibrate.row_sample import ROWS, RowSample
from trt_int8.calibrate.statistics import TensorStatistics, statistics_of
from trt_int8.calibrate.values import Values

needs_numba = pytest.mark.skipif(loops.compiled() is None, reason="needs the extra [fast]")
LAYOUTS = st.sampled_from(["whole rows", "transposed", "part of wider rows"])
ReaderOf = Callable[[Values], Reader]


def by_loops(values: Values) -> Reader:
    ready = loops.compiled()
    assert ready is not None
    return LoopsReader(values, ready)


READERS = [
    pytest.param(OperationsReader, id="operations"),
    pytest.param(by_loops, id="loops", marks=needs_numba),
]


@dataclass(frozen=True)
class Case:
    """A tensor of T rows, those that count, and which columns of them count."""

    table: NDArray[np.float32]
    places: NDArray[np.int64] | None
    owners: NDArray[np.int64] | None
    real: NDArray[np.bool_] | None
    layout: str

    def values(self) -> Values:
        table = torch.from_numpy(self.table)
        if self.layout == "transposed":
            table = table.T.contiguous().T
        elif self.layout == "part of wider rows":
            table = torch.nn.functional.pad(table, (2, 3), value=torch.nan)[:, 2:-3]
        places, owners, real = (
            None if part is None else torch.from_numpy(part)
            for part in (self.places, self.owners, self.real)
        )
        return Values(table, places, owners, real)

    def rows(self) -> list[list[float]]:
        """The values that count, row by row, and None for the others."""
        places = range(len(self.table)) if self.places is None else self.places.tolist()
        return [self.table[place].tolist() for place in places]

    def counts(self, row: int, column: int) -> bool:
        if self.real is None or self.owners is None:
            return True
        return bool(self.real[self.owners[row], column])

    def counted(self) -> list[float]:
        return [
            x for r, row in enumerate(self.rows()) for c, x in enumerate(row) if self.counts(r, c)
        ]

    def filled(self) -> list[tuple[float, ...]]:
        """The rows with zeros for what does not count."""
        return [
            tuple(x if self.counts(r, c) else 0.0 for c, x in enumerate(row))
            for r, row in enumerate(self.rows())
        ]


@st.composite
def cases(draw: st.DrawFn, most_rows: int = 60) -> Case:
    random = np.random.default_rng(draw(st.integers(0, 10**6)))
    rows, columns = draw(st.integers(1, most_rows)), draw(st.integers(1, 37))
    distinct = draw(st.integers(1, rows))
    table = random.standard_normal((distinct, columns))[random.integers(0, distinct, rows)]
    table *= 2.0 ** draw(st.integers(-140, 120))
    table[random.random(table.shape) < 0.1] = 0.0
    places = owners = real = None
    if draw(st.booleans()):
        places = np.flatnonzero(random.random(rows) < 0.6)
        assume(places.size)
        unseen = np.setdiff1d(np.arange(rows), places)
        table[unseen] = random.choice([np.nan, np.inf, -np.inf, 3e38], (unseen.size, columns))
    if draw(st.booleans()):
        texts = draw(st.integers(1, 5))
        owners = random.integers(0, texts, rows if places is None else places.size)
        real = random.random((texts, columns)) < 0.7
        assume(real[owners].any())
    return Case(table.astype(np.float32), places, owners, real, draw(LAYOUTS))


def histogram_by_definition(numbers: list[float]) -> tuple[int, list[int]]:
    """Exponent and counts, with integers of any size."""
    exponent = MIN_EXPONENT
    while max(map(abs, numbers)) >= BINS * math.ldexp(1.0, exponent):
        exponent += 1
    counts = [0] * (2 * BINS - 1)
    for number in numbers:
        bin_of = int(abs(number) / math.ldexp(1.0, exponent))
        counts[BINS - 1 + (bin_of if number > 0 else -bin_of)] += 1
    return exponent, counts


def same_sample(one: RowSample, other: RowSample) -> bool:
    return (
        np.array_equal(one.keys, other.keys)
        and np.array_equal(one.repeats, other.repeats)
        and one.rows.tobytes() == other.rows.tobytes()
    )


@pytest.mark.parametrize("reader", READERS)
@settings(max_examples=60, deadline=None)
@given(case=cases())
def test_extremes_are_those_of_the_values_that_count(reader: ReaderOf, case: Case) -> None:
    found = reader(case.values()).extremes()
    assert (found.low, found.high) == (min(case.counted()), max(case.counted()))
    if case.real is None:
        columns = list(zip(*case.rows(), strict=True))
        assert found.columns is not None
        assert found.columns.tolist() == [list(map(min, columns)), list(map(max, columns))]


@pytest.mark.parametrize("reader", READERS)
@settings(max_examples=60, deadline=None)
@given(case=cases())
def test_counts_are_those_of_the_definition(reader: ReaderOf, case: Case) -> None:
    exponent, counts = histogram_by_definition(case.counted())
    found = reader(case.values()).histogram(max(map(abs, case.counted())), MIN_EXPONENT)
    assert (found.exponent, found.counts.tolist()) == (exponent, counts)


@pytest.mark.parametrize("reader", READERS)
@settings(max_examples=60, deadline=None)
@given(case=cases())
def test_few_rows_are_all_sampled_with_zeros_for_what_does_not_count(
    reader: ReaderOf, case: Case
) -> None:
    # -0 and 0 are different rows, and equal numbers: compare bits.
    wanted = Counter(np.array(row, np.float32).tobytes() for row in case.filled())
    found = reader(case.values()).sample(None)
    repeats = zip((row.tobytes() for row in found.rows), found.repeats.tolist(), strict=True)
    assert dict(repeats) == dict(wanted)


@needs_numba
@settings(max_examples=60, deadline=None)
@given(case=cases(most_rows=900), bound=st.none() | st.integers(-(2**62), 2**62))
def test_loops_sample_the_rows_that_operations_sample(case: Case, bound: int | None) -> None:
    values = case.values()
    assert same_sample(by_loops(values).sample(bound), OperationsReader(values).sample(bound))


@pytest.mark.parametrize("reader", READERS)
def test_bins_may_be_wider_than_the_values_ask_for(reader: ReaderOf) -> None:
    values = Values(torch.tensor([[1.0, -0.75, 3.0]]))
    narrow, wide = (reader(values).histogram(3.0, e) for e in (MIN_EXPONENT, 0))
    assert (narrow.exponent, wide.exponent) == (-10, 0)
    widened = narrow.merge(Histogram(0, np.zeros_like(narrow.counts)))
    assert np.array_equal(wide.counts, widened.counts)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("masked", [False, True])
def test_a_value_that_is_not_finite_shows_if_it_counts(
    reader: ReaderOf, bad: float, *, masked: bool
) -> None:
    for at in range(7):
        table = torch.ones(3, 7)
        table[1, at] = bad
        real = torch.tensor([[True] * 6 + [False]]) if masked else None
        owners = torch.zeros(3, dtype=torch.int64) if masked else None
        found = reader(Values(table, owners=owners, real=real)).extremes()
        finite = math.isfinite(found.low) and math.isfinite(found.high)
        assert finite == (masked and at == 6)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("zeros", [[-0.0, 0.0], [0.0, -0.0], [-0.0, -0.0]])
@pytest.mark.parametrize("masked", [False, True])
def test_a_zero_has_no_sign_for_its_order_would_decide_it(
    reader: ReaderOf, zeros: list[float], *, masked: bool
) -> None:
    table = torch.tensor(zeros).reshape(2, 1)
    real, owners = torch.ones(1, 1, dtype=torch.bool), torch.zeros(2, dtype=torch.int64)
    values = Values(table, owners=owners, real=real) if masked else Values(table)
    found = reader(values).extremes()
    assert [math.copysign(1, found.low), math.copysign(1, found.high)] == [1, 1]
    assert found.columns is None or not np.signbit(found.columns).any()


@pytest.mark.parametrize("reader", READERS)
def test_rows_that_share_memory_are_read_like_others(reader: ReaderOf) -> None:
    values = Values(torch.tensor([1.0, -2.0, 5.0]).expand(4, 3))
    assert reader(values).extremes().low == -2.0
    assert reader(values).histogram(5.0, MIN_EXPONENT).counts.sum() == 12
    assert reader(values).sample(None).repeats.tolist() == [4]


@pytest.mark.parametrize("reader", READERS)
def test_reading_leaves_the_tensor_alone(reader: ReaderOf) -> None:
    table = torch.randn(50, 9, generator=torch.Generator().manual_seed(0))
    before = table.clone()
    owners, real = torch.arange(50) % 2, torch.arange(18).reshape(2, 9) % 3 > 0
    one = reader(Values(table, owners=owners, real=real))
    one.extremes(), one.histogram(9.0, MIN_EXPONENT), one.sample(None)
    assert torch.equal(table, before)


@needs_numba
def test_tables_of_64_bits_count_like_those_of_32() -> None:
    ready = loops.compiled()
    assert ready is not None
    flat = np.random.default_rng(0).standard_normal(55 * 7).astype(np.float32)
    starts, nothing = np.arange(0, 55 * 7, 7), np.empty(0, np.int64)
    tables = [np.zeros((2, 2 * BINS), kind) for kind in (np.int32, np.int64)]
    for counts in tables:
        mask = np.empty((0, 7), np.bool_)
        ready.count_bins(flat, starts, nothing, mask, np.float32(256), counts)
    assert np.array_equal(tables[0], tables[1])
    assert tables[0].sum() == 55 * 7


@needs_numba
def test_loops_read_where_they_are_installed() -> None:
    assert isinstance(reader_of(Values(torch.ones(2, 3))), LoopsReader)


def test_operations_read_where_loops_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "compiled", lambda: None)
    assert isinstance(reader_of(Values(torch.ones(2, 3))), OperationsReader)


def test_operations_read_what_is_not_in_main_memory() -> None:
    assert isinstance(reader_of(Values(torch.ones(2, 3, device="meta"))), OperationsReader)


def collect(batches: list[Case]) -> TensorStatistics:
    total: TensorStatistics | None = None
    for number, case in enumerate(batches):
        found = statistics_of("t", case.values(), EVERYTHING, number, total)
        assert found is not None
        total = found if total is None else total.merge(found)
    assert total is not None
    return total


@needs_numba
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), batches=st.integers(2, 5))
def test_a_run_by_loops_gives_the_statistics_of_one_by_operations(seed: int, batches: int) -> None:
    random = np.random.default_rng(seed)
    parts = []
    for scale in random.integers(-20, 20, batches):
        table = random.standard_normal((300, 5)).astype(np.float32) * np.float32(2.0**scale)
        places = np.flatnonzero(random.random(300) < 0.7)
        parts.append(Case(table, places, None, None, "whole rows"))
    by_loop = collect(parts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loops, "compiled", lambda: None)
        by_operation = collect(parts)
    for one, other in [(by_loop, by_operation)]:
        assert (one.count, one.batches) == (other.count, other.batches)
        assert np.array_equal(np.asarray(one.channels), np.asarray(other.channels))
        assert one.histogram is not None
        assert other.histogram is not None
        assert one.histogram.exponent == other.histogram.exponent
        assert np.array_equal(one.histogram.counts, other.histogram.counts)
        assert one.rows is not None
        assert other.rows is not None
        assert one.rows.keys.size == ROWS
        assert same_sample(one.rows, other.rows)


@needs_numba
@pytest.mark.parametrize("beyond", [1e30, -1e30, math.nan, math.inf, 8.0, -8.0])
def test_nothing_is_written_beside_the_tables_whatever_the_values(beyond: float) -> None:
    ready = loops.compiled()
    assert ready is not None
    memory = np.zeros((4, 2 * BINS), np.int32)
    flat, starts = np.full(11, beyond, np.float32), np.zeros(1, np.int64)
    where = flat, starts, np.empty(0, np.int64), np.empty((0, 11), np.bool_)
    ready.count_bins(*where, np.float32(1024), memory[1:3])
    assert memory[1:3].sum() == memory[1:3, -1].sum() == 11
    assert not memory[[0, 3]].any()
