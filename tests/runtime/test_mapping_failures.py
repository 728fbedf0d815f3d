from __future__ import annotations

import dataclasses
import random
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.fake_runner import (
    FakeRunner,
    KernelBrokeError,
    fails_on,
    marked,
    request,
    requests,
    same,
)
from trt_int8.errors import RequestError, SessionError
from trt_int8.runtime.backend import Feeds, Outputs
from trt_int8.runtime.mapping import MapOptions, MapRun, Order, map_requests
from trt_int8.runtime.tensors import TensorInfo

pytestmark = pytest.mark.usefixtures("no_thread_is_left_behind")
ORDERS: tuple[Order, ...] = ("input", "completed")
LATE = MapOptions(linger_ms=1e4)


def test_a_request_that_does_not_fit_gets_its_error_and_the_others_run() -> None:
    samples: list[Any] = list(requests([5, 6, 7, 8, 3, 4]))
    samples[1] = request(97)
    samples[2] = {"input_ids": np.ones(3), "attention_mask": np.ones(3, int)}
    samples[4] = "no mapping"
    with FakeRunner() as runner:
        run = map_requests(runner, samples)
        answers = list(run)
    errors = {one.index: str(one.error) for one in answers if one.error}
    assert list(errors) == [1, 2, 4]
    assert "request 1 has 97 tokens" in errors[1]
    assert "'input_ids' of request 2 is float64" in errors[2]
    assert "request 4 is a str" in errors[4]
    assert all(same(answers[i].outputs, samples[i]) for i in (0, 3, 5))
    assert (run.statistics.requests, run.statistics.failed) == (3, 3)


def test_a_request_whose_reading_raises_fails_alone() -> None:
    class Broken(dict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            raise OSError("disk gone")

    with FakeRunner() as runner:
        good, bad = map_requests(runner, [request(5), Broken(request(5))])
    assert good.error is None
    assert isinstance(bad.error, RequestError)
    assert "request 1 cannot be read: disk gone" in str(bad.error)
    assert isinstance(bad.error.__cause__, OSError)


@pytest.mark.parametrize("order", ORDERS)
def test_only_the_request_at_fault_fails_with_its_batch(order: Order) -> None:
    samples = marked([5] * 9)
    options = MapOptions(order=order, linger_ms=1e4)
    with FakeRunner(trouble=fails_on([5004])) as runner:
        run = map_requests(runner, samples, options)
        answers = {one.index: one for one in run}
        assert sorted(runner.shapes) == [(1, 8)] * 9 + [(9, 8)]
    assert sorted(answers) == list(range(9))
    error = answers.pop(4).error
    assert isinstance(error, SessionError)
    assert "request 4 failed: the kernel broke; wanted" in str(error)
    assert isinstance(error.__cause__, KernelBrokeError)
    assert all(same(one.outputs, samples[one.index]) for one in answers.values())
    assert (run.statistics.retried, run.statistics.failed) == (9, 1)
    assert (run.statistics.batches, run.statistics.padded_tokens) == (1, 72)


def test_a_batch_of_one_that_fails_is_not_run_again() -> None:
    with FakeRunner(trouble=fails_on([5000])) as runner:
        (answer,) = map_requests(runner, marked([5]))
        assert runner.shapes == [(1, 8)]
    assert answer.error is not None


def test_a_batch_too_large_for_the_memory_runs_one_by_one() -> None:
    def trouble(rows: list[np.ndarray]) -> None:
        if len(rows) > 1:
            raise MemoryError

    samples = marked([5, 6, 7])
    with FakeRunner(trouble=trouble) as runner:
        answers = list(map_requests(runner, samples, LATE))
    assert all(same(one.outputs, samples[one.index]) for one in answers)


def test_the_message_of_an_error_of_the_runner_says_what_to_do() -> None:
    def trouble(rows: list[np.ndarray]) -> None:
        raise SessionError("the session is closed", wanted="an open one", todo="open it again")

    with FakeRunner(trouble=trouble) as runner:
        (answer,) = map_requests(runner, [request(3)])
    assert str(answer.error) == (
        "request 0 failed: the session is closed; wanted an open one; open it again."
    )


def test_a_runner_that_refuses_a_batch_at_once_is_a_batch_that_failed() -> None:
    class Closed(FakeRunner):
        def submit(self, feeds: Feeds) -> Future[Outputs]:
            raise SessionError("the session is closed", wanted="open", todo="open it")

    answers = list(map_requests(Closed(), requests([3, 4, 5])))
    assert [one.index for one in answers] == [0, 1, 2]
    assert all("the session is closed" in str(one.error) for one in answers)


def test_a_future_that_others_cancelled_is_an_error_of_its_requests() -> None:
    class Cancels(FakeRunner):
        def submit(self, feeds: Feeds) -> Future[Outputs]:
            future: Future[Outputs] = Future()
            future.cancel()
            return future

    answers = list(map_requests(Cancels(), requests([3, 4])))
    assert [one.index for one in answers] == [0, 1]
    assert [one.cancelled for one in answers] == [False, False]
    assert all(isinstance(one.error, SessionError) for one in answers)


def test_an_output_without_a_row_per_sample_is_an_error() -> None:
    class Short(FakeRunner):
        def _compute(self, feeds: Feeds) -> Outputs:
            return {name: array[:-1] for name, array in super()._compute(feeds).items()}

    with Short() as runner:
        (answer,) = map_requests(runner, [request(3)])
    assert "wanted one row per sample" in str(answer.error)


@pytest.mark.parametrize("order", ORDERS)
def test_on_error_raise_raises_the_error_in_its_turn_and_ends_the_run(order: Order) -> None:
    samples: list[Any] = [*requests([4, 4]), {}, *requests([4, 4])]
    options = MapOptions(order=order, on_error="raise", linger_ms=1e4)
    with FakeRunner() as runner:
        run = map_requests(runner, samples, options)
        with pytest.raises(RequestError, match="request 2 has no input"):
            list(run)
        assert list(run) == []


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("good", [0, 1, 7, 40])
def test_what_the_source_raises_comes_after_the_answers_before_it(order: Order, good: int) -> None:
    def source() -> Iterator[Any]:
        yield from requests([5] * good)
        raise KernelBrokeError("file ends")

    indices: list[int] = []
    with FakeRunner() as runner:
        run = map_requests(runner, source(), MapOptions(order=order, window=16))
        with pytest.raises(KernelBrokeError, match="file ends"):
            collect(run, indices)
        assert list(run) == []
    assert sorted(indices) == list(range(good))


def collect(run: MapRun, indices: list[int]) -> None:
    for one in run:
        indices.append(one.index)


def test_a_source_that_ends_the_program_does_not_leave_the_caller_waiting() -> None:
    def source() -> Iterator[Any]:
        yield request(5)
        raise SystemExit(3)

    seen: list[int] = []
    with FakeRunner() as runner, pytest.raises(SystemExit):
        collect(map_requests(runner, source()), seen)
    assert seen == [0]


def test_an_output_with_tokens_first_is_an_error_though_it_has_as_many_as_there_are_rows() -> None:
    class Turned(FakeRunner):
        def _compute(self, feeds: Feeds) -> Outputs:
            return {"turned": np.zeros((feeds["input_ids"].shape[1], len(feeds["input_ids"])))}

    with Turned() as runner:
        turned = TensorInfo("turned", "float64", ("sequence", "batch"))
        runner.signature = dataclasses.replace(runner.signature, outputs=(turned,))
        answers = list(map_requests(runner, requests([8] * 8), LATE))
    assert all("wanted one row per sample" in str(one.error) for one in answers)


@pytest.mark.parametrize("order", ORDERS)
def test_a_source_that_waits_for_the_answers_before_it_gets_them(order: Order) -> None:
    answered = threading.Semaphore(0)

    def source() -> Iterator[Any]:
        for seed in range(4):
            yield request(5, seed)
            assert answered.acquire(timeout=20), "the answer was held back"

    with FakeRunner() as runner:
        for _ in map_requests(runner, source(), MapOptions(order=order, linger_ms=1)):
            answered.release()


def test_a_window_waits_for_more_requests_while_all_workers_are_busy() -> None:
    go_on = threading.Event()
    samples = list(requests([5] * 30))

    def source() -> Iterator[Any]:
        yield samples[0]
        yield from samples[1:]
        go_on.set()

    def trouble(rows: list[np.ndarray]) -> None:
        assert go_on.wait(20)

    options = MapOptions(in_flight=1, linger_ms=0)
    with FakeRunner(trouble=trouble) as runner:
        assert len(list(map_requests(runner, source(), options))) == 30
        assert len(runner.shapes) <= 3


def test_a_window_may_wait_for_ever_until_the_source_ends() -> None:
    def source() -> Iterator[Any]:
        for sample in requests([5] * 3):
            threading.Event().wait(0.03)
            yield sample

    with FakeRunner() as runner:
        options = MapOptions(linger_ms=float("inf"))
        assert len(list(map_requests(runner, source(), options))) == 3
        assert runner.shapes == [(3, 8)]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from(["good", "bad input", "bad run"]), max_size=50),
    st.sampled_from(ORDERS),
    st.integers(0, 60),
    st.integers(0, 2**32),
)
def test_every_request_is_answered_once_under_random_errors_and_cancels(
    fates: list[str], order: Order, cancel_at: int, seed: int
) -> None:
    lengths = [1 + random.Random(seed + i).randrange(90) for i in range(len(fates))]
    samples: list[Any] = marked(lengths)
    bad = [5000 + place for place, fate in enumerate(fates) if fate == "bad run"]
    for place, fate in enumerate(fates):
        if fate == "bad input":
            samples[place] = {"input_ids": [1]}
    options = MapOptions(order=order, window=11, max_batch_tokens=200)
    answers = []
    with FakeRunner(trouble=fails_on(bad), delay_s=0.0003) as runner:
        run = map_requests(runner, samples, options)
        for answer in run:
            answers.append(answer)
            if len(answers) == cancel_at:
                run.cancel()
    indices = [one.index for one in answers]
    assert sorted(indices) == list(range(len(answers)))
    assert order == "completed" or indices == sorted(indices)
    assert run.cancelled or len(answers) == len(fates)
    assert run.statistics.answered == len(answers)
    assert run.statistics.failed == sum(one.error is not None for one in answers)
    for answer in answers:
        if not answer.cancelled:
            assert (answer.error is None) == (fates[answer.index] == "good")
            assert answer.error is not None or same(answer.outputs, samples[answer.index])
