from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.fake_runner import profile, text_signature
from trt_int8.runtime.buckets import Buckets
from trt_int8.runtime.packing import (
    Batch,
    BatchSizes,
    PackOptions,
    batch_sizes,
    count,
    pack,
)
from trt_int8.runtime.statistics import Statistics
from trt_int8.runtime.tensors import Signature, TensorInfo

BUCKETS = Buckets.of(1, 96)
SIZES = BatchSizes(((1, 96, 1, 7),))
LENGTHS = st.lists(st.integers(1, 96), max_size=120)
LIMITS = st.builds(
    PackOptions,
    max_batch_tokens=st.integers(1, 600),
    sizes=st.builds(lambda most: BatchSizes(((1, 96, 1, most),)), st.integers(1, 40)),
    merge=st.booleans(),
    batch_cost_tokens=st.integers(0, 200),
)


@given(LENGTHS, LIMITS, st.booleans())
def test_every_request_is_in_exactly_one_batch_whose_length_holds_it(
    tokens: list[int], options: PackOptions, pads: bool
) -> None:
    batches = pack(tokens, BUCKETS if pads else None, options)
    assert sorted(i for batch in batches for i in batch.members) == list(range(len(tokens)))
    assert all(tokens[i] <= batch.bucket for batch in batches for i in batch.members)


@given(LENGTHS, LIMITS)
def test_no_batch_is_over_a_limit_unless_it_is_one_request(
    tokens: list[int], options: PackOptions
) -> None:
    most = options.sizes.ranges[0][3]
    for batch in pack(tokens, BUCKETS, options):
        assert len(batch.members) <= most
        assert (
            len(batch.members) == 1 or len(batch.members) * batch.bucket <= options.max_batch_tokens
        )


@given(LENGTHS, LIMITS)
def test_the_same_requests_give_the_same_batches(tokens: list[int], options: PackOptions) -> None:
    assert pack(tokens, BUCKETS, options) == pack(list(tokens), BUCKETS, options)


@given(LENGTHS, LIMITS)
def test_without_merging_each_request_is_padded_to_its_own_bucket(
    tokens: list[int], options: PackOptions
) -> None:
    batches = pack(tokens, BUCKETS, dataclasses.replace(options, merge=False))
    wanted = [min(n for n in BUCKETS.lengths if n >= one) for one in tokens]
    assert all(batch.bucket == wanted[i] for batch in batches for i in batch.members)


@given(LENGTHS.filter(bool), LIMITS)
def test_sorted_batches_never_compute_more_than_batches_in_order_of_arrival(
    tokens: list[int], options: PackOptions
) -> None:
    batches = pack(tokens, BUCKETS, dataclasses.replace(options, merge=False))
    found = count(tokens, batches, BUCKETS)
    assert found.tokens <= found.padded_tokens <= found.unsorted_padded_tokens


@given(LENGTHS, LIMITS)
def test_merging_never_costs_more_than_it_saves(tokens: list[int], options: PackOptions) -> None:
    apart, merged = (
        pack(tokens, BUCKETS, dataclasses.replace(options, merge=merge)) for merge in (False, True)
    )

    def cost(batches: tuple[Batch, ...]) -> int:
        return sum(len(one.members) * one.bucket + options.batch_cost_tokens for one in batches)

    assert cost(merged) <= cost(apart)


@given(LENGTHS, LIMITS)
def test_nothing_that_may_not_be_padded_is(tokens: list[int], options: PackOptions) -> None:
    batches = pack(tokens, None, options)
    assert all(tokens[i] == batch.bucket for batch in batches for i in batch.members)


def test_batches_come_longest_first_and_keep_the_order_of_arrival_within_a_bucket() -> None:
    batches = pack([3, 40, 5, 39, 90, 8], BUCKETS, PackOptions(sizes=SIZES))
    assert [(one.bucket, one.members) for one in batches] == [
        (96, (4,)),
        (40, (1, 3)),
        (8, (0, 2, 5)),
    ]


def test_a_bucket_is_filled_up_to_the_tokens_of_a_batch() -> None:
    batches = pack([8] * 11, BUCKETS, PackOptions(max_batch_tokens=39, sizes=SIZES))
    assert [len(one.members) for one in batches] == [4, 4, 3]


def test_part_filled_neighbours_are_merged_when_that_is_cheaper() -> None:
    tokens = [24, 16, 16]
    free = PackOptions(sizes=SIZES, merge=True, batch_cost_tokens=16)
    cheap = dataclasses.replace(free, batch_cost_tokens=17)
    assert len(pack(tokens, BUCKETS, free)) == 2
    assert pack(tokens, BUCKETS, cheap) == (Batch(24, (0, 1, 2), 3),)


def test_only_the_part_filled_batch_of_a_bucket_is_merged() -> None:
    batches = pack([24] + [16] * 8, BUCKETS, PackOptions(sizes=SIZES, merge=True))
    assert [(one.bucket, len(one.members)) for one in batches] == [(24, 2), (16, 7)]


def test_the_profile_of_a_length_limits_its_batches() -> None:
    signature = text_signature(profiles=(profile((1, 8), (1, 32)), profile((1, 2), (33, 96))))
    sizes = batch_sizes(signature)
    assert [sizes.most(length) for length in (32, 33, 96, 97)] == [8, 2, 2, 1]


def test_a_profile_that_starts_at_4_samples_gets_rows_enough() -> None:
    sizes = batch_sizes(text_signature(profiles=(profile((4, 6), (1, 96)),)))
    batches = pack([8] * 7, BUCKETS, PackOptions(sizes=sizes))
    assert [(len(one.members), one.rows) for one in batches] == [(6, 6), (1, 4)]
    assert count([8] * 7, batches, BUCKETS).padded_tokens == 10 * 8


def test_without_profiles_the_sizes_of_the_inputs_count() -> None:
    assert batch_sizes(text_signature(batch=(2, 5))).most(50) == 5
    image = TensorInfo("image", "float32", ("batch", 3), (1, 3), (6, 3))
    assert batch_sizes(Signature((image,), (), {}, None)).most(1) == 6


def test_statistics_equal_a_count_by_hand() -> None:
    tokens = [3, 90, 5, 40]
    batches = pack(tokens, BUCKETS, PackOptions(max_batch_tokens=96, sizes=SIZES))
    found = count(tokens, batches, BUCKETS)
    # Three batches: 96, 40, 2 x 8. As they come: [3], [90], [5, 40] -> 8 + 96 + 2 x 40.
    assert found == Statistics(
        requests=4, tokens=138, batches=3, padded_tokens=152, unsorted_padded_tokens=184
    )
    assert found.padding_share == pytest.approx(14 / 152)
    assert found.unsorted_padding_share == pytest.approx(46 / 184)
    assert "4 requests, 138 tokens in 3 batches, 9.2% padding (unsorted 25.0%)" in str(found)


def test_no_requests_give_no_batches_and_no_padding() -> None:
    assert pack([], BUCKETS, PackOptions()) == ()
    assert count([], (), BUCKETS) == Statistics()
    assert Statistics().padding_share == 0


def test_statistics_of_two_windows_add_up() -> None:
    one = Statistics(1, 2, 3, 4, 5, 6, 7, 8)
    assert one + one == Statistics(2, 4, 6, 8, 10, 12, 14, 16)


@pytest.mark.parametrize(
    ("limit", "filled"), [(1, 4), (4, 4), (7, 4), (8, 8), (31, 8), (32, 32), (99, 32)]
)
def test_a_batch_of_one_size_is_full_and_within_the_limit_if_it_can_be(
    limit: int, filled: int
) -> None:
    sizes = BatchSizes(tuple((16, 16, size, size) for size in (4, 32, 8)))
    batches = pack([9] * 64, BUCKETS, PackOptions(16 * limit + 15, sizes))
    assert {(len(one.members), one.rows) for one in batches} == {(filled, filled)}
