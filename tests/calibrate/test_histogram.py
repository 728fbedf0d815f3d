from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trt_int8.calibrate.histogram import BINS, Histogram, histogram_of

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
lists = st.lists(finite, min_size=1, max_size=30)


def histogram(numbers: list[float]) -> Histogram:
    return histogram_of(torch.tensor(numbers), max(map(abs, numbers)))


def oracle(numbers: list[float]) -> tuple[int, list[int]]:
    """Exponent and counts by the definition, with integers of any size."""
    peak = max(map(abs, numbers))
    exponent = -126
    while peak >= BINS * math.ldexp(1.0, exponent):
        exponent += 1
    counts = [0] * (2 * BINS - 1)
    for number in numbers:
        bin_of = int(abs(number) / math.ldexp(1.0, exponent))
        counts[BINS - 1 + (bin_of if number > 0 else -bin_of)] += 1
    return exponent, counts


def same(one: Histogram, other: Histogram) -> bool:
    return one.exponent == other.exponent and np.array_equal(one.counts, other.counts)


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@settings(max_examples=60)
@given(lists)
def test_counts_equal_those_of_the_definition(numbers: list[float]) -> None:
    assume(any(numbers))
    exponent, counts = oracle(numbers)
    found = histogram(numbers)
    assert found.exponent == exponent
    assert found.counts.tolist() == counts


def test_a_value_on_an_edge_belongs_to_the_bin_further_from_zero() -> None:
    found = histogram([4095.0, 3.0, -3.0, 2.75, -2.75, 0.75, -0.75, -0.0])
    assert found.width == 1.0
    filled = {i - (BINS - 1): int(found.counts[i]) for i in np.flatnonzero(found.counts)}
    assert filled == {4095: 1, 3: 1, -3: 1, 2: 1, -2: 1, 0: 3}


@pytest.mark.parametrize(
    ("peak", "width"), [(1.0, 2**-11), (0.75, 2**-12), (-2.0, 2**-10), (4095.9, 1), (4096.0, 2)]
)
def test_the_width_is_the_smallest_power_of_two_that_fits(peak: float, width: float) -> None:
    assert histogram([peak]).width == width


@pytest.mark.parametrize("peak", [2.0**-14, 1.0, -8.0, 2.0**127])
def test_a_power_of_two_is_the_first_value_of_the_upper_half_of_the_bins(peak: float) -> None:
    counts = histogram([peak]).counts
    assert counts[BINS - 1 + int(math.copysign(BINS // 2, peak))] == 1
    assert counts.sum() == 1


@pytest.mark.parametrize("extreme", [1e-45, 1e-38, 3.4028235e38])
def test_the_ends_of_float32_are_counted_like_other_values(extreme: float) -> None:
    largest = float(np.float32(extreme))
    found = histogram([largest, 0.0, -largest])
    exponent, counts = oracle([largest, 0.0, -largest])
    assert found.exponent == exponent
    assert found.counts.tolist() == counts


def test_values_below_the_smallest_width_are_in_the_middle_bin() -> None:
    found = histogram([1e-45, -1e-45, 0.0])
    assert found.width == 2.0**-126
    assert found.counts[BINS - 1] == found.counts.sum() == 3


def test_zeros_alone_are_in_the_middle_bin() -> None:
    assert histogram([0.0, -0.0, 0.0]).counts[BINS - 1] == 3


def test_the_sides_share_the_middle_bin_and_magnitudes_hold_it_once() -> None:
    found = histogram([0.0, 5.0, -5.0, 4095.0, -4000.0, -5.5])
    assert found.positive()[[0, 5, 4095]].tolist() == [1, 1, 1]
    assert found.negative()[[0, 5, 4000]].tolist() == [1, 2, 1]
    assert found.magnitudes()[[0, 5, 4000, 4095]].tolist() == [1, 3, 1, 1]
    assert found.magnitudes().sum() == 6


def test_a_side_is_a_copy() -> None:
    found = histogram([1.0, -1.0])
    for side in (found.positive(), found.negative(), found.magnitudes()):
        side[:] = 7
    assert found.counts.sum() == 2


@settings(max_examples=60)
@given(st.data(), lists.filter(lambda numbers: len(numbers) > 1))
def test_order_and_split_do_not_change_the_counts(
    data: st.DataObject, numbers: list[float]
) -> None:
    shuffled = data.draw(st.permutations(numbers))
    cut = data.draw(st.integers(1, len(numbers) - 1))
    merged = histogram(shuffled[:cut]).merge(histogram(shuffled[cut:]))
    assert same(merged, histogram(numbers))


@settings(max_examples=40)
@given(lists, lists, lists)
def test_merging_is_associative_and_commutative(
    a: list[float], b: list[float], c: list[float]
) -> None:
    one, two, three = histogram(a), histogram(b), histogram(c)
    assert same(one.merge(two).merge(three), one.merge(two.merge(three)))
    assert same(one.merge(two), two.merge(one))


@pytest.mark.parametrize("tiny", [1e-6, 1e-30])
def test_a_batch_of_zeros_does_not_make_the_bins_of_small_values_coarser(tiny: float) -> None:
    zeros, values = [0.0, 0.0], [tiny, -tiny / 3]
    merged = histogram(zeros).merge(histogram(values))
    assert same(merged, histogram(zeros + values))


def test_merging_leaves_both_as_they_were() -> None:
    small, large = histogram([1e-3, -2e-3]), histogram([5.0])
    before = small.counts.copy(), large.counts.copy()
    small.merge(large)
    assert np.array_equal(small.counts, before[0])
    assert np.array_equal(large.counts, before[1])


def test_a_tiny_batch_and_a_huge_one_merge_into_the_bins_of_the_huge_one() -> None:
    merged = histogram([1e-30, -1e-30]).merge(histogram([1e30]))
    assert merged.exponent == histogram([1e30]).exponent
    assert merged.counts[BINS - 1] == 2


@pytest.mark.usefixtures("one_thread")
def test_counts_are_exact_beyond_the_integers_of_float32() -> None:
    # 2^24 + 1 halves: a float32 counter would stay at 2^24.
    halves = torch.full((2**24 + 1,), 0.5)
    found = histogram_of(torch.cat([halves, torch.ones(3)]), 1.0)
    assert found.positive()[[1024, 2048]].tolist() == [2**24 + 1, 3]


def test_counting_leaves_the_tensor_alone() -> None:
    x = torch.tensor([[-1.0, 2.0], [0.5, 0.25]]).T
    histogram_of(x, 2.0)
    assert x.tolist() == [[-1.0, 0.5], [2.0, 0.25]]


@given(lists, st.integers(0, 9))
def test_zeros_that_do_not_count_can_be_taken_off(numbers: list[float], zeros: int) -> None:
    peak = max(map(abs, numbers))
    padded = histogram_of(torch.tensor([*numbers, *[0.0] * zeros]), peak)
    assert same(padded.without_zeros(zeros), histogram(numbers))
