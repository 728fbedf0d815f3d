from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.fake_runner import (
    FakeRunner,
    answer_of,
    profile,
    request,
    requests,
    same,
    text_signature,
)
from trt_int8.errors import RequestError
from trt_int8.runtime.mapping import MapOptions, map_requests
from trt_int8.runtime.stacking import Stacker
from trt_int8.runtime.tensors import Signature, TensorInfo

pytestmark = pytest.mark.usefixtures("no_thread_is_left_behind")
LENGTHS = (7, 96, 1, 33, 8, 8, 50, 9, 17, 2, 64, 65)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 96), max_size=60),
    st.builds(
        MapOptions,
        max_batch_tokens=st.integers(1, 800),
        order=st.sampled_from(("input", "completed")),
        window=st.integers(1, 70),
        in_flight=st.integers(1, 5),
        merge=st.booleans(),
    ),
)
def test_every_request_is_answered_once_with_what_it_gives_alone(
    lengths: list[int], options: MapOptions
) -> None:
    samples = list(requests(lengths))
    with FakeRunner(delay_s=0.0005) as runner:
        answers = list(map_requests(runner, samples, options))
    indices = [one.index for one in answers]
    assert (indices if options.order == "input" else sorted(indices)) == list(range(len(samples)))
    assert all(same(one.outputs, samples[one.index]) and one.error is None for one in answers)


@pytest.mark.parametrize("side", ["right", "left"])
def test_no_padding_is_left_in_the_answers(side: Any) -> None:
    samples = list(requests(LENGTHS))
    with FakeRunner(pad_side=side) as runner:
        answers = list(map_requests(runner, samples))
        assert any(shape[1] == 40 for shape in runner.shapes), "33 tokens are padded to 40"
    assert [same(one.outputs, sample) for one, sample in zip(answers, samples, strict=True)] == [
        True
    ] * len(samples)


def test_the_comparison_of_these_tests_sees_a_single_wrong_token() -> None:
    sample = request(7)
    outputs = answer_of(sample)
    assert same(outputs, sample)
    outputs["per_token"][6, 0] += 1
    assert not same(outputs, sample)
    assert not same({**answer_of(sample), "sums": np.array([answer_of(sample)["sums"]])}, sample)


def test_an_answer_is_memory_of_its_own() -> None:
    with FakeRunner() as runner:
        answers = list(map_requests(runner, requests([8, 8, 7])))
    arrays = [array for one in answers for array in (one.outputs or {}).values()]
    assert len(arrays) == 6
    assert all(array.base is None and array.flags.c_contiguous for array in arrays)


def test_the_caller_may_mix_lists_and_arrays_of_any_integer_type() -> None:
    sample = {"input_ids": [1, 2, 3], "attention_mask": np.ones(3, bool)}
    with FakeRunner() as runner:
        (answer,) = map_requests(runner, [sample])
    assert same(answer.outputs, sample)


def test_order_completed_hands_out_the_longest_first() -> None:
    options = MapOptions(order="completed", in_flight=1, linger_ms=1e4)
    with FakeRunner(workers=1) as runner:
        lengths = [1, 90, 40]
        found = [one.index for one in map_requests(runner, requests(lengths), options)]
    assert found == [1, 2, 0]


def test_batches_hold_one_bucket_and_keep_to_the_limits() -> None:
    options = MapOptions(max_batch_tokens=200, linger_ms=1e4)
    with FakeRunner(signature=text_signature(batch=(1, 5))) as runner:
        list(map_requests(runner, requests([8] * 12 + [60] * 7), options))
        shapes = sorted(runner.shapes)
    assert shapes == sorted([(5, 8), (5, 8), (2, 8), (3, 64), (3, 64), (1, 64)])


def test_a_length_is_batched_within_the_profile_that_takes_it() -> None:
    parts = (profile((1, 8), (1, 32)), profile((1, 2), (33, 96)))
    with FakeRunner(signature=text_signature(profiles=parts)) as runner:
        list(map_requests(runner, requests([30, 90] * 6), MapOptions(linger_ms=1e4)))
        assert sorted(runner.shapes) == [(2, 96)] * 3 + [(6, 32)]


def test_a_model_that_takes_no_fewer_than_4_samples_gets_them_and_the_rest_is_dropped() -> None:
    signature = text_signature(batch=(4, 8), profiles=(profile((4, 8), (1, 96)),))
    samples = list(requests([5, 6, 7, 5, 6]))
    with FakeRunner(signature=signature) as runner:
        run = map_requests(runner, samples[:1])
        assert [same(one.outputs, samples[0]) for one in run] == [True]
        assert runner.shapes == [(4, 8)]
    assert run.statistics.padded_tokens == 32


def test_without_a_mask_only_equal_lengths_run_together() -> None:
    samples = [{"input_ids": request(n)["input_ids"]} for n in (5, 9, 5, 9, 9)]
    with FakeRunner(signature=text_signature(mask=False)) as runner:
        answers = list(map_requests(runner, samples, MapOptions(linger_ms=1e4)))
        assert sorted(runner.shapes) == [(2, 5), (3, 9)]
    assert all(same(one.outputs, samples[one.index]) for one in answers)


def test_statistics_equal_a_recount_of_what_ran() -> None:
    lengths = [1 + place * 37 % 96 for place in range(300)]
    with FakeRunner() as runner:
        run = map_requests(runner, requests(lengths), MapOptions(window=64, max_batch_tokens=512))
        list(run)
        shapes = runner.shapes
    found = run.statistics
    assert (found.requests, found.tokens, found.answered) == (300, sum(lengths), 300)
    assert found.batches == len(shapes)
    assert found.padded_tokens == sum(rows * tokens for rows, tokens in shapes)
    assert found.failed == found.retried == 0
    assert found.padding_share < 0.15 < found.unsorted_padding_share


@pytest.mark.parametrize("wrong", [request(3), "text", 5, None], ids=type)
def test_what_is_no_iterable_of_requests_is_refused_at_once(wrong: Any) -> None:
    with FakeRunner() as runner, pytest.raises(RequestError, match="the requests are a"):
        map_requests(runner, wrong)


def test_no_requests_give_no_answers() -> None:
    with FakeRunner() as runner:
        assert list(map_requests(runner, [])) == []


def test_an_input_without_tokens_is_batched_by_its_shape() -> None:
    image = TensorInfo("image", "float32", ("batch", 3, "width"), (1, 3, 1), (4, 3, 9))
    whole = TensorInfo("whole", "float32", (2,))
    signature = Signature((image,), (TensorInfo("out", "float32", ("batch",)), whole), {}, None)
    stacker = Stacker(signature, None, {})
    samples = [
        stacker.read(i, {"image": np.full((3, w), i, "f4")}) for i, w in enumerate((5, 5, 7))
    ]
    assert samples[0].shapes == samples[1].shapes != samples[2].shapes
    feeds = stacker.stack(samples[:2], 1, 3)
    assert feeds["image"][:, 0, 0].tolist() == [0, 1, 1]
    outputs = {"out": np.array([4.0, 5.0, 6.0]), "whole": np.array([8.0, 9.0])}
    found = stacker.split(outputs, samples[:2], 3)
    assert [one["out"].tolist() for one in found] == [4.0, 5.0]
    assert [one["whole"].tolist() for one in found] == [[8.0, 9.0]] * 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_batch_tokens": 0},
        {"max_batch_tokens": 4096.0},
        {"window": 0},
        {"in_flight": 0},
        {"linger_ms": float("nan")},
        {"order": "sorted"},
        {"on_error": "ignore"},
    ],
)
def test_an_option_that_cannot_work_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=f"{next(iter(wrong))} is "):
        dataclasses.replace(MapOptions(), **wrong)
