from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support.collected import EVERYTHING, collected, one_batch
from trt_int8.calibrate.statistics import Needs, TensorStatistics, statistics_of
from trt_int8.calibrate.values import Values
from trt_int8.errors import RangeError

Array = NDArray[np.float32]

X = np.array([[1.0, -7.5, 0.0], [3.0, 2.0, -0.25]], dtype=np.float32)


def same(one: TensorStatistics, other: TensorStatistics) -> bool:
    assert one.histogram is not None
    assert other.histogram is not None
    assert one.rows is not None
    assert other.rows is not None
    return (
        (one.count, one.low, one.high, one.batches)
        == (other.count, other.low, other.high, other.batches)
        and np.array_equal(np.asarray(one.channels), np.asarray(other.channels))
        and one.histogram.exponent == other.histogram.exponent
        and np.array_equal(one.histogram.counts, other.histogram.counts)
        and np.array_equal(one.rows.rows, other.rows.rows)
        and np.array_equal(one.rows.repeats, other.rows.repeats)
    )


def masked(rows: Array, counted: NDArray[np.bool_]) -> Values:
    kept = torch.from_numpy(np.where(counted, rows, np.float32(0)))
    owners = torch.arange(len(counted))
    return Values(kept, owners=owners, real=torch.from_numpy(counted))


def test_the_extremes_are_those_of_the_values() -> None:
    found = one_batch(X, number=4)
    assert (found.count, found.low, found.high, found.peak) == (6, -7.5, 3.0, 7.5)
    assert found.batches == {4: (-7.5, 3.0)}


def test_channels_are_the_columns() -> None:
    channels = one_batch(X).channels
    assert channels is not None
    assert channels.tolist() == [[1.0, -7.5, -0.25], [3.0, 2.0, 0.0]]


@pytest.mark.parametrize("sign", [1, -1])
def test_the_peak_is_the_largest_magnitude_of_either_sign(sign: int) -> None:
    assert one_batch([sign * 9.0, sign * -2.0]).peak == 9.0


def test_only_what_is_needed_is_kept() -> None:
    found = statistics_of("t", Values(torch.from_numpy(X)), Needs(histogram=False), 0)
    assert found is not None
    assert found.histogram is None
    assert found.rows is None
    assert found.peak == 7.5


def test_no_values_give_no_statistics() -> None:
    assert statistics_of("t", Values(torch.zeros(0, 5)), EVERYTHING, 0) is None
    nothing = masked(X, np.zeros(X.shape, dtype=np.bool_))
    assert statistics_of("t", nothing, EVERYTHING, 0) is None


def test_what_does_not_count_is_in_no_statistic_but_the_rows() -> None:
    counted = np.array([[True, False, True], [True, True, False]])
    found = statistics_of("t", masked(X, counted), EVERYTHING, 0)
    assert found is not None
    assert (found.count, found.low, found.high) == (4, 0.0, 3.0)
    assert found.channels is None
    assert found.histogram is not None
    assert found.histogram.counts.sum() == 4
    assert found.rows is not None
    assert sorted(found.rows.rows.tolist()) == [[1.0, 0.0, 0.0], [3.0, 2.0, 0.0]]


def test_a_tensor_without_fixed_channels_has_none() -> None:
    values = Values(torch.from_numpy(X), has_channels=False)
    found = statistics_of("t", values, EVERYTHING, 0)
    assert found is not None
    assert found.channels is None
    assert (found.low, found.high) == (-7.5, 3.0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("has_channels", [True, False])
@pytest.mark.parametrize("at", [(0, 0), (1, 2)])
def test_values_that_are_not_finite_are_refused_by_name(
    bad: float, has_channels: bool, at: tuple[int, int]
) -> None:
    rows = torch.from_numpy(X.copy())
    rows[at] = bad
    with pytest.raises(RangeError, match=r"'odd\.input' holds NaN or infinity during calibration"):
        statistics_of("odd.input", Values(rows, has_channels=has_channels), EVERYTHING, 0)


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(2, 6))
def test_batches_in_any_order_and_grouping_give_the_same(seed: int, batches: int) -> None:
    random = np.random.default_rng(seed)
    values = (
        random.standard_normal((batches, 90, 5))
        * np.exp2(random.integers(-20, 20, batches))[:, None, None]
    )
    parts = [one_batch(batch, number) for number, batch in enumerate(values)]
    order = random.permutation(batches)
    cut = int(random.integers(1, batches))
    shards = [[parts[i] for i in some] for some in (order[:cut], order[cut:])]
    merged = []
    for shard in shards:
        total = shard[0]
        for part in shard[1:]:
            total = total.merge(part)
        merged.append(total)
    assert same(merged[0].merge(merged[1]), collected(*values))
    assert list(merged[0].merge(merged[1]).batches) == list(range(batches))


def test_one_batch_in_two_pieces_is_one_batch() -> None:
    whole = np.random.default_rng(5).standard_normal((31, 4))
    one, other = one_batch(whole[:9], 3), one_batch(whole[9:], 3)
    assert same(one.merge(other), one_batch(whole, 3))
    assert same(other.merge(one), one_batch(whole, 3))


def test_channels_of_unequal_number_are_dropped() -> None:
    merged = one_batch(X).merge(one_batch(X[:, :2], 1))
    assert merged.channels is None
    assert merged.count == 10


def test_a_statistic_that_one_of_two_lacks_is_dropped() -> None:
    lean = statistics_of("t", Values(torch.from_numpy(X)), Needs(histogram=False), 1)
    assert lean is not None
    for merged in (one_batch(X).merge(lean), lean.merge(one_batch(X))):
        assert merged.histogram is None
        assert merged.rows is None
        assert merged.channels is not None
