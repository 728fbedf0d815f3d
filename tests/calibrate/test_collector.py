"""Statistics per tensor, batch by batch, shard by shard."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.support.collected import EVERYTHING, one_batch
from tests.support.same_statistics import assert_all_same, assert_same
from trt_int8.calibrate.collector import (
    Collector,
    Statistics,
    merge_statistics,
    padding_mask,
    probe_batch,
)
from trt_int8.calibrate.statistics import Needs
from trt_int8.calibrate.token_axes import PROBES
from trt_int8.errors import RangeError

SITES = ("query.input", "key.input", "value.input")


def collector(*names: str, channels: int = 4, needs: Needs = EVERYTHING) -> Collector:
    """Ready for tensors [B, S, channels] of these names."""
    made = Collector(needs)
    for number, size in enumerate(PROBES):
        for name in names:
            made.probe(name, torch.zeros((*size, channels)), number)
    return made


def values(seed: int, batch: int = 2, length: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, 4, generator=generator) * (1 + seed)


def shard(numbers: list[int]) -> Statistics:
    """One run over some of the numbered batches: an input shared by three sites, and another."""
    made = collector(*SITES, "alone")
    for number in numbers:
        made.begin(number, None)
        x = values(number, length=1 + number % 3)
        for name in SITES:
            made.observe(name, x)
        made.observe("alone", torch.relu(x))
        # A layer that is used twice in one run of the model.
        made.observe("alone", x - 1)
    return made.statistics


def test_statistics_are_those_of_the_values_under_their_batch_numbers() -> None:
    made = collector("t")
    x = values(0)
    for number in (7, 3):
        made.begin(number, None)
        made.observe("t", x)
    low, high = float(x.min()), float(x.max())
    assert made.statistics["t"].batches == {3: (low, high), 7: (low, high)}
    expected = one_batch(x.reshape(-1, 4).numpy(), 3).merge(one_batch(x.reshape(-1, 4).numpy(), 7))
    assert_same(made.statistics["t"], expected)


def test_padding_is_left_out() -> None:
    made, x = collector("t"), values(0)
    x[1, 2] = torch.nan
    made.begin(0, torch.tensor([[True, True, True], [True, True, False]]))
    made.observe("t", x)
    assert made.statistics["t"].count == 5 * 4
    assert made.statistics["t"].high == float(x.nan_to_num(-9.0).max())


def test_a_batch_without_padding_forgets_the_mask_of_the_one_before() -> None:
    made = collector("t")
    made.begin(0, torch.tensor([[True, False, False]]))
    made.begin(1, None)
    made.observe("t", values(0))
    assert made.statistics["t"].count == 24


def test_a_tensor_of_padding_only_has_no_statistics() -> None:
    made = collector("t")
    made.begin(0, torch.zeros(2, 3, dtype=torch.bool))
    made.observe("t", values(0))
    assert made.statistics == {}


def test_only_what_is_needed_is_kept() -> None:
    made = collector("t", needs=Needs(histogram=False))
    made.begin(0, None)
    made.observe("t", values(0))
    assert (made.statistics["t"].histogram, made.statistics["t"].rows) == (None, None)


def test_a_tensor_that_was_never_probed_is_taken_without_padding_and_refused_with_it() -> None:
    made = Collector(EVERYTHING)
    made.begin(0, None)
    made.observe("t", values(0))
    assert made.statistics["t"].count == 24
    made.begin(1, torch.tensor([[True, True, False]] * 2))
    with pytest.raises(RangeError, match=r"tensor 't' of shape \[2, 3, 4\] has an axis of unknown"):
        made.observe("t", values(0))


def test_a_tensor_seen_in_one_probe_only_was_not_probed() -> None:
    made = Collector(EVERYTHING)
    made.probe("t", torch.zeros((3, 7, 4)), 1)
    assert made.shapes_of("t") is None
    assert made.shapes_of("never") is None


def test_the_first_call_of_a_probe_counts() -> None:
    made = Collector(EVERYTHING)
    for number, (batch, tokens) in enumerate(PROBES):
        made.probe("t", torch.zeros((batch, tokens, 4)), number)
        made.probe("t", torch.zeros((batch, 9, 9)), number)
    assert made.shapes_of("t") == tuple((*size, 4) for size in PROBES)


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(5)), st.integers(0, 5), st.integers(0, 5))
def test_shards_in_any_order_merge_to_one_run_bit_for_bit(
    order: list[int], first: int, second: int
) -> None:
    cuts = sorted((first, second))
    parts = [order[: cuts[0]], order[cuts[0] : cuts[1]], order[cuts[1] :]]
    merged: Statistics = {}
    for part in parts:
        merge_statistics(merged, shard(part))
    assert_all_same(merged, shard(list(range(5))))


def test_a_lost_batch_is_noticed() -> None:
    """The test above can fail."""
    merged: Statistics = {}
    merge_statistics(merged, shard([0, 1]))
    merge_statistics(merged, shard([3, 4]))
    with pytest.raises(AssertionError):
        assert_all_same(merged, shard(list(range(5))))


def test_sites_that_share_a_tensor_share_one_object() -> None:
    found = shard([0, 1, 2])
    assert len({id(found[name]) for name in SITES}) == 1
    assert found["alone"] is not found[SITES[0]]


def test_sharing_survives_pickling_and_merging() -> None:
    merged: Statistics = {}
    for numbers in ([0, 1], [2], [3, 4]):
        merge_statistics(merged, pickle.loads(pickle.dumps(shard(numbers))))
    assert len({id(merged[name]) for name in SITES}) == 1


def test_a_site_that_stops_sharing_goes_its_own_way() -> None:
    made = collector("a", "b")
    made.begin(0, None)
    x = values(0)
    made.observe("a", x)
    made.observe("b", x)
    made.begin(1, None)
    made.observe("a", values(1))
    made.observe("b", values(2))
    assert (made.statistics["a"].high, made.statistics["b"].high) == (
        max(float(x.max()), float(values(1).max())),
        max(float(x.max()), float(values(2).max())),
    )


def test_a_site_that_joins_late_does_not_get_what_the_other_saw_before() -> None:
    made = collector("a", "b")
    made.begin(0, None)
    made.observe("a", values(4))
    x = values(0)
    made.observe("a", x)
    made.observe("b", x)
    assert made.statistics["a"].count == 48
    assert made.statistics["b"].count == 24
    assert made.statistics["b"].high == float(x.max())


def test_one_tensor_seen_twice_by_one_site_counts_twice() -> None:
    made = collector("a")
    made.begin(0, None)
    x = values(0)
    made.observe("a", x)
    made.observe("a", x)
    assert made.statistics["a"].count == 48


def test_a_tensor_changed_in_place_is_looked_at_again() -> None:
    made = collector("a", "b")
    made.begin(0, None)
    x = values(0)
    made.observe("a", x)
    before = float(x.max())
    x.add_(100.0)
    made.observe("b", x)
    assert made.statistics["a"].high == before
    assert made.statistics["b"].high == float(x.max()) > 90


def test_a_tensor_of_inference_mode_is_taken_and_looked_at_each_time() -> None:
    """Such tensors have no version: a change in place cannot be seen."""
    made = collector("a", "b")
    made.begin(0, None)
    with torch.inference_mode():
        x = values(0)
        made.observe("a", x)
        x.add_(100.0)
        made.observe("b", x)
        assert made.statistics["b"].high == float(x.max()) > 90


def test_the_same_tensor_in_the_next_batch_has_that_batches_number_and_mask() -> None:
    made, x = collector("a"), values(0)
    made.begin(0, None)
    made.observe("a", x)
    made.begin(1, torch.tensor([[True, False, False]] * 2))
    made.observe("a", x)
    assert made.statistics["a"].count == 24 + 8
    assert list(made.statistics["a"].batches) == [0, 1]


def test_the_same_tensor_under_names_with_other_axes_is_looked_at_for_each() -> None:
    made = collector("rows")
    for number, (batch, tokens) in enumerate(PROBES):
        made.probe("columns", torch.zeros((batch, 3, tokens)), number)
    made.begin(0, torch.tensor([[True, True, False, False]]))
    x = torch.arange(16.0).reshape(1, 4, 4)
    made.observe("rows", x)
    made.observe("columns", x)
    assert made.statistics["rows"].high == 7.0
    assert made.statistics["columns"].high == 13.0


def test_nan_is_refused_by_name() -> None:
    made, x = collector("t"), values(0)
    x[0, 0, 0] = torch.nan
    made.begin(0, None)
    with pytest.raises(RangeError, match="tensor 't' holds NaN or infinity"):
        made.observe("t", x)


def test_what_was_merged_in_is_left_as_it_was() -> None:
    part, merged = shard([0]), shard([1])
    before = pickle.dumps(part)
    merge_statistics(merged, part)
    assert pickle.dumps(part) == before
    assert merged["alone"].count > part["alone"].count


def test_a_probe_has_real_tokens_in_its_size_and_no_padding() -> None:
    batch = {"input_ids": np.array([[5, 6, 0]]), "attention_mask": np.array([[1, 1, 0]])}
    found = probe_batch(batch, (2, 5))
    assert found["input_ids"].tolist() == [[5, 6, 0, 5, 6]] * 2
    assert found["attention_mask"].tolist() == [[1] * 5] * 2
    assert {array.dtype for array in found.values()} == {np.dtype(np.int64)}


def test_the_mask_is_false_at_the_padding() -> None:
    batch = {"ids": np.array([[5, 6]]), "attention_mask": np.array([[1, 0]])}
    mask = padding_mask(batch)
    assert mask is not None
    assert (mask.dtype, mask.tolist()) == (torch.bool, [[True, False]])


@pytest.mark.parametrize("batch", [{}, {"attention_mask": np.ones((2, 3), np.int64)}])
def test_a_batch_without_padding_has_no_mask(batch: dict[str, np.ndarray]) -> None:
    assert padding_mask(batch) is None
