from __future__ import annotations

import itertools
import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trt_int8.calibrate import loops, row_sample
from trt_int8.calibrate.row_sample import ROWS, RowSample, sample_rows

Rows = NDArray[np.float32]


def sample(rows: Rows) -> RowSample:
    return sample_rows(torch.from_numpy(np.array(rows, dtype=np.float32, order="C")))


def normal(rows: int, columns: int, seed: int = 0) -> Rows:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


def same(one: RowSample, other: RowSample) -> bool:
    return (
        np.array_equal(one.keys, other.keys)
        and one.rows.tobytes() == other.rows.tobytes()
        and np.array_equal(one.repeats, other.repeats)
    )


def with_repeats(seed: int, distinct: int, total: int, columns: int = 7) -> Rows:
    """`total` rows drawn from `distinct` ones."""
    drawn = np.random.default_rng(seed).integers(0, distinct, total)
    return normal(distinct, columns, seed)[drawn]


def test_few_rows_are_all_kept_with_their_multiplicities() -> None:
    rows = with_repeats(1, 50, 400)
    expected = Counter(row.tobytes() for row in rows)
    found = sample(rows)
    assert {
        row.tobytes(): int(n) for row, n in zip(found.rows, found.repeats, strict=True)
    } == dict(expected)


@pytest.mark.parametrize(("distinct", "total"), [(2_003, 2_003), (1_009, 5_003), (300, 9_001)])
def test_many_rows_leave_the_distinct_ones_with_the_smallest_keys(
    distinct: int, total: int
) -> None:
    rows = with_repeats(2, distinct, total)
    # One row at a time the sample has one key: the naive bottom-k sorts those of distinct rows.
    expected = Counter(row.tobytes() for row in rows)
    keys = sorted(
        (int(sample(np.frombuffer(raw, np.float32)[None]).keys[0]), raw) for raw in expected
    )
    found = sample(rows)
    assert found.keys.tolist() == [key for key, _ in keys[:ROWS]]
    assert [row.tobytes() for row in found.rows] == [raw for _, raw in keys[:ROWS]]
    assert found.repeats.tolist() == [expected[raw] for _, raw in keys[:ROWS]]


def test_one_row_seen_most_of_the_time_leaves_room_for_the_others() -> None:
    rows = np.concatenate([np.tile(normal(1, 5, 9), (20_000, 1)), normal(400, 5, 3)])
    found = sample(rows)
    assert found.keys.size == ROWS
    assert set(found.repeats.tolist()) <= {1, 20_000}


def test_the_sample_is_spread_over_the_rows_and_not_over_their_sizes() -> None:
    rows = normal(20_011, 9) * np.linspace(0.01, 100, 20_011, dtype=np.float32)[:, None]
    middle = np.median(np.abs(rows).max(axis=1))
    # Binomial with 256 throws: 128 +- 8 is one standard deviation.
    assert 96 <= (np.abs(sample(rows).rows).max(axis=1) < middle).sum() <= 160


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 900), st.integers(1, 900), st.data())
def test_order_and_split_do_not_change_the_sample(
    seed: int, distinct: int, total: int, data: st.DataObject
) -> None:
    rows = with_repeats(seed, distinct, total + 1)
    cut = data.draw(st.integers(1, total))
    shuffled = np.random.default_rng(seed + 1).permutation(rows)
    assert same(sample(shuffled[:cut]).merge(sample(shuffled[cut:])), sample(rows))


@settings(max_examples=15)
@given(st.integers(0, 10**6))
def test_merging_is_associative_and_commutative(seed: int) -> None:
    one, two, three = (sample(part) for part in np.split(with_repeats(seed, 500, 900), [310, 601]))
    assert same(one.merge(two).merge(three), one.merge(two.merge(three)))
    assert same(one.merge(two), two.merge(one))


def test_zeros_at_the_end_of_a_row_do_not_change_its_key() -> None:
    rows = normal(40, 5)
    padded = np.pad(rows, ((0, 0), (0, 6)))
    assert np.array_equal(sample(rows).keys, sample(padded).keys)


def test_zeros_at_the_front_of_a_row_change_its_key() -> None:
    rows = normal(40, 5)
    assert not set(sample(rows).keys) & set(sample(np.pad(rows, ((0, 0), (6, 0)))).keys)


def test_rows_of_two_lengths_merge_to_the_longer_one() -> None:
    short, long = normal(30, 4, 1), normal(30, 9, 2)
    padded = np.pad(short, ((0, 0), (0, 5)))
    whole = sample(np.concatenate([padded, long]))
    assert same(sample(short).merge(sample(long)), whole)
    assert same(sample(long).merge(sample(short)), whole)


def test_the_same_row_in_two_lengths_is_one_row() -> None:
    short = normal(30, 4)
    found = sample(short).merge(sample(np.pad(short, ((0, 0), (0, 3)))))
    assert found.repeats.tolist() == [2] * 30


def test_factors_of_fewer_columns_are_the_first_of_more() -> None:
    for seed in (0, 1):
        many = row_sample._factors(1_537, seed)
        for columns in (1, 2, 7, 384):
            assert np.array_equal(row_sample._factors(columns, seed), many[:columns])


def test_factors_are_odd_and_those_of_the_two_halves_of_a_key_differ() -> None:
    coarse, fine = row_sample._factors(999, 0), row_sample._factors(999, 1)
    assert (coarse & 1).all()
    assert (fine & 1).all()
    assert int((coarse == fine).sum()) == 0


def test_rows_of_zeros_and_ones_have_keys_of_their_own() -> None:
    # Their bit patterns end in 23 zeros, and so do sums of their products.
    rows = np.array(list(itertools.product([0, 1], repeat=12)), dtype=np.float32)
    shuffled = np.random.default_rng(0).permutation(rows)
    assert sample(rows).repeats.tolist() == [1] * ROWS
    assert same(sample(shuffled), sample(rows))


def test_rows_that_bfloat16_holds_have_keys_of_their_own() -> None:
    rows = torch.randn(30_000, 6, generator=torch.Generator().manual_seed(0)).bfloat16().float()
    found = sample_rows(rows)
    assert same(sample_rows(rows.flip(0)), found)
    assert np.unique(found.rows, axis=0).shape[0] == found.repeats.size


def test_a_view_that_is_not_contiguous_gives_the_sample_of_its_copy() -> None:
    rows = torch.from_numpy(normal(8, 700)).T
    assert same(sample_rows(rows), sample_rows(rows.contiguous()))


def test_sampling_leaves_the_tensor_alone() -> None:
    rows = torch.from_numpy(normal(300, 4))
    before = rows.clone()
    sample_rows(rows)
    assert torch.equal(rows, before)


def test_dropped_rows_do_not_pile_up() -> None:
    merged = sample(normal(300, 5, 0))
    for seed in range(1, 40):
        merged = merged.merge(sample(normal(300, 5, seed)))
        assert len(merged.store.rows) <= 2 * ROWS
    whole = np.concatenate([normal(300, 5, seed) for seed in range(40)])
    assert same(merged, sample(whole))


def test_a_sample_that_goes_on_stays_in_its_memory() -> None:
    rows = normal(100, 3)
    merged = sample(rows[:1]).merge(sample(rows[1:2]))
    store = merged.store
    for row in rows[2:]:
        merged = merged.merge(sample(row[None]))
    assert merged.store is store
    assert same(merged, sample(rows))


@settings(max_examples=40)
@given(st.data())
def test_no_merge_changes_a_sample_that_is_still_in_use(data: st.DataObject) -> None:
    """Samples share memory: merge any two of those at hand, and forget some, in any order."""
    random = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    alive: list[tuple[RowSample, Rows]] = []
    for _ in range(data.draw(st.integers(1, 12))):
        rows = normal(
            int(random.integers(1, 400)), int(random.integers(3, 5)), int(random.integers(9))
        )
        made = sample(rows)
        if alive and random.random() < 0.8:
            base, of = alive[random.integers(len(alive))]
            made, rows = base.merge(made), stacked(of, rows)
            del base
        if alive and random.random() < 0.5:
            del alive[random.integers(len(alive))]
        alive.append((made, rows))
        for each, of in alive:
            assert same(each, sample(of))


def stacked(one: Rows, other: Rows) -> Rows:
    """Both, the narrower with zeros at its ends."""
    width = max(one.shape[1], other.shape[1])
    return np.concatenate([np.pad(x, ((0, 0), (0, width - x.shape[1]))) for x in (one, other)])


def test_to_another_process_goes_nothing_but_the_rows_of_the_sample() -> None:
    rows = normal(300, 50)
    merged = sample(rows[:200]).merge(sample(rows[200:]))
    sent = pickle.dumps(merged)
    assert len(sent) < 1.1 * (merged.rows.nbytes + merged.keys.nbytes + merged.repeats.nbytes)
    assert same(pickle.loads(sent), merged)
    more = sample(normal(300, 50, 1))
    assert same(pickle.loads(sent).merge(more), merged.merge(more))


@given(st.integers(0, 10**6), st.integers(0, ROWS), st.integers(0, 700))
def test_keys_are_put_in_like_by_sorting_them_all(seed: int, present: int, added: int) -> None:
    random = np.random.default_rng(seed)
    spread = int(random.integers(1, 2_000))
    known = np.sort(random.choice(4_000, present, replace=False)) - 2_000
    keys = random.integers(-spread, spread, added)
    repeats, places = random.integers(1, 9, (2, added))
    total: Counter[int] = Counter()
    first: dict[int, int] = {}
    for place, key in enumerate(known.tolist()):
        total[key], first[key] = place + 1, place
    for key, count, place in zip(keys.tolist(), repeats.tolist(), places.tolist(), strict=True):
        total[key] += count
        first.setdefault(key, place)
    wanted = [(key, total[key], first[key]) for key in sorted(total)[:ROWS]]
    for ready in (loops.compiled(), None):
        table = np.empty((3, ROWS), np.int64)
        table[:, :present] = known, np.arange(1, present + 1), np.arange(present)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loops, "compiled", lambda ready=ready: ready)
            count = row_sample.insert_keys(table, present, (keys, repeats, places))
        assert list(map(tuple, table[:, :count].T.tolist())) == wanted


def test_a_sample_keeps_nothing_of_the_tensor_it_was_taken_from() -> None:
    rows = torch.from_numpy(normal(50, 4))
    taken = sample_rows(rows)
    before = taken.rows.copy()
    rows.zero_()
    np.testing.assert_array_equal(taken.rows, before)
