"""How far a map runs ahead: batches in flight, requests taken, answers that wait."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from tests.support.fake_runner import FakeRunner, request, requests
from trt_int8.runtime.backend import Feeds, Outputs
from trt_int8.runtime.mapping import MapOptions, Order, map_requests

pytestmark = pytest.mark.usefixtures("no_thread_is_left_behind")
LENGTHS = (7, 96, 1, 33, 8, 8, 50, 9, 17, 2, 64, 65)


def test_as_many_batches_run_at_once_as_there_are_workers() -> None:
    meeting = threading.Barrier(3, timeout=20)
    options = MapOptions(max_batch_tokens=8, in_flight=4)
    with FakeRunner(workers=3, trouble=lambda rows: void(meeting.wait())) as runner:
        assert len(list(map_requests(runner, requests([5] * 6), options))) == 6
        assert runner.most_at_once == 3


def void(_: object) -> None:
    """Nothing."""


def test_the_runner_has_one_batch_more_than_workers_by_default() -> None:
    third = threading.Event()

    class Counts(FakeRunner):
        submitted = 0

        def submit(self, feeds: Feeds) -> Future[Outputs]:
            self.submitted += 1
            if self.submitted == 3:
                third.set()
            return super().submit(feeds)

    def trouble(_: list[np.ndarray]) -> None:
        assert third.wait(10)

    with Counts(workers=2, trouble=trouble) as runner:
        answers = list(map_requests(runner, requests([5] * 3), MapOptions(max_batch_tokens=8)))
    assert [one.error for one in answers] == [None] * 3


@pytest.mark.parametrize("in_flight", [1, 2, 5])
def test_no_more_batches_are_in_flight_than_asked_for(in_flight: int) -> None:
    options = MapOptions(max_batch_tokens=8, in_flight=in_flight)
    with FakeRunner(workers=8, delay_s=0.002) as runner:
        list(map_requests(runner, requests([5] * 40), options))
        assert 1 <= runner.most_at_once <= in_flight


def test_nothing_starts_before_the_first_answer_is_asked_for() -> None:
    taken: list[int] = []
    with FakeRunner() as runner:
        map_requests(runner, counted(requests(LENGTHS), taken))
        assert (taken, runner.shapes) == ([], [])


def counted(source: Iterator[Any], taken: list[int]) -> Iterator[Any]:
    for place, one in enumerate(source):
        taken.append(place)
        yield one


@pytest.mark.parametrize("order", ["input", "completed"])
def test_an_endless_source_is_taken_only_as_far_as_answers_are_taken(order: Order) -> None:
    taken: list[int] = []
    source = counted(requests(1 + n % 90 for n in itertools.count()), taken)
    options = MapOptions(order=order, window=16, in_flight=2)
    with FakeRunner() as runner, map_requests(runner, source, options) as run:
        for asked in range(1, 100):
            answer = next(run)
            assert answer.error is None
            assert len(taken) <= asked + 4 * 16 + 1
    assert len(taken) >= 99


def test_answers_that_wait_for_an_earlier_one_are_bounded() -> None:
    """One batch takes long; the source says when far more than that was taken meanwhile."""
    go_on, too_far = threading.Event(), threading.Event()

    def source() -> Iterator[Any]:
        yield request(96)
        for place in range(200):
            if place > 4 * 8 and not go_on.is_set():
                too_far.set()
                go_on.set()
            yield request(5, place)

    def trouble(rows: list[np.ndarray]) -> None:
        assert len(rows[0]) == 5 or go_on.wait(20)

    timer = threading.Timer(0.3, go_on.set)
    timer.start()
    with FakeRunner(trouble=trouble) as runner:
        answers = list(map_requests(runner, source(), MapOptions(window=8, in_flight=2)))
    timer.join()
    assert [one.error for one in answers] == [None] * 201
    assert not too_far.is_set()


def test_while_no_answer_is_taken_nothing_is_submitted() -> None:
    options = MapOptions(window=8, max_batch_tokens=8, in_flight=2)
    taken: list[int] = []
    with (
        FakeRunner(workers=1) as runner,
        map_requests(runner, counted(requests([5] * 90), taken), options) as run,
    ):
        next(run)
        settled = threading.Event()
        settled.wait(0.2)
        first = (len(taken), len(runner.shapes))
        settled.wait(0.2)
        assert (len(taken), len(runner.shapes)) == first
        assert first[1] <= 2 + 2


def test_an_endless_source_of_bad_requests_is_bounded_too() -> None:
    taken: list[int] = []
    source = counted(itertools.repeat({}), taken)
    options = MapOptions(window=8)
    with FakeRunner() as runner, map_requests(runner, source, options) as run:
        for asked in range(1, 100):
            assert next(run).error is not None
            assert len(taken) <= asked + 4 * 8 + 1
