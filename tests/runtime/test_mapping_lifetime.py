from __future__ import annotations

import gc
import itertools
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.support.fake_runner import (
    FakeRunner,
    KernelBrokeError,
    marked,
    request,
    requests,
    same,
)
from trt_int8.errors import RequestCancelledError
from trt_int8.runtime.mapping import MapOptions, map_requests

pytestmark = pytest.mark.usefixtures("no_thread_is_left_behind")


def test_cancel_answers_everything_taken_and_finishes_what_runs() -> None:
    running, go_on = threading.Event(), threading.Event()

    def trouble(rows: list[np.ndarray]) -> None:
        running.set()
        assert go_on.wait(20)

    samples = list(requests([5] * 40))
    options = MapOptions(max_batch_tokens=8, in_flight=3, on_error="raise", linger_ms=1e4)
    with FakeRunner(workers=1, trouble=trouble) as runner:
        run = map_requests(runner, samples, options)

        def cancel() -> None:
            running.wait(20)
            run.cancel()
            go_on.set()

        thread = threading.Thread(target=cancel)
        thread.start()
        answers = list(run)
        thread.join()
        assert runner.shapes == [(1, 8)]
    assert run.cancelled
    assert [one.index for one in answers] == list(range(40))
    assert same(answers[0].outputs, samples[0])
    assert all(isinstance(one.error, RequestCancelledError) for one in answers[1:])
    assert "request 7 was not run" in str(answers[7].error)
    assert run.statistics.answered == 40


def test_cancel_before_the_start_gives_an_empty_run() -> None:
    with FakeRunner() as runner:
        run = map_requests(runner, requests([5] * 4))
        run.cancel()
        assert list(run) == []
        assert run.cancelled


def test_cancel_after_the_end_changes_nothing() -> None:
    with FakeRunner() as runner:
        run = map_requests(runner, requests([5]))
        list(run)
        run.cancel()
        assert not run.cancelled


def test_cancel_ends_an_endless_source() -> None:
    with FakeRunner() as runner:
        run = map_requests(runner, requests(itertools.repeat(5)), MapOptions(window=8))
        seen = 0
        for answer in run:
            seen += not answer.cancelled
            if seen == 30:
                run.cancel()
        assert run.statistics.answered - run.statistics.failed >= 30


@pytest.mark.parametrize("leave", ["break", "raise", "with", "drop"])
def test_a_run_that_is_left_early_leaves_nothing_running(leave: str) -> None:
    """The fixture sees threads; the runner, whose shutdown waits, sees work."""
    taken = itertools.count()
    options = MapOptions(window=8, max_batch_tokens=16, in_flight=6)
    with FakeRunner(delay_s=0.001) as runner:
        source = (request(5, next(taken)) for _ in itertools.count())
        if leave == "break":
            for _ in map_requests(runner, source, options):
                break
        elif leave == "raise":
            with pytest.raises(KernelBrokeError):
                leave_by_error(runner, source, options)
        elif leave == "with":
            with map_requests(runner, source, options) as run:
                next(run)
            assert list(run) == []
        else:
            run = map_requests(runner, source, options)
            next(run)
            del run
        gc.collect()
    assert next(taken) <= 4 * 8


def test_a_dropped_run_takes_back_the_batches_that_wait_in_the_runner() -> None:
    running, go_on = threading.Event(), threading.Event()

    def trouble(rows: list[np.ndarray]) -> None:
        if rows[0][0] != 5000:
            running.set()
            assert go_on.wait(20)

    options = MapOptions(max_batch_tokens=8, in_flight=6, linger_ms=1e4)
    with FakeRunner(workers=1, trouble=trouble) as runner:
        run = map_requests(runner, marked([5] * 20), options)
        next(run)
        assert running.wait(20)
        del run
        gc.collect()
        go_on.set()
    assert len(runner.shapes) == 2


def leave_by_error(runner: FakeRunner, source: Iterator[Any], options: MapOptions) -> None:
    for _ in map_requests(runner, source, options):
        raise KernelBrokeError


def test_close_waits_for_the_batches_that_run_and_starts_no_others() -> None:
    running = threading.Event()

    def trouble(rows: list[np.ndarray]) -> None:
        if rows[0][0] != 5000:
            running.set()
            threading.Event().wait(0.05)

    options = MapOptions(max_batch_tokens=8, in_flight=4, linger_ms=1e4)
    with FakeRunner(workers=1, trouble=trouble) as runner:
        with map_requests(runner, marked([5] * 20), options) as run:
            next(run)
            assert running.wait(20)
            run.close()
            assert runner.running == 0
            begun = len(runner.shapes)
            run.close()
        assert list(run) == []
    assert len(runner.shapes) == begun < 20


def test_close_does_not_hang_on_a_source_that_never_answers() -> None:
    blocked = threading.Event()

    def source() -> Iterator[Any]:
        yield request(5)
        blocked.wait(60)

    with FakeRunner() as runner:
        run = map_requests(runner, source(), MapOptions(linger_ms=1))
        next(run)
        run.close()
        assert list(run) == []
    blocked.set()


def test_a_run_works_again_after_another_was_left_early_on_the_same_runner() -> None:
    samples = list(requests([5, 9, 30]))
    with FakeRunner() as runner:
        for _ in range(20):
            for _ in map_requests(runner, requests(itertools.repeat(7)), MapOptions(window=4)):
                break
        answers = list(map_requests(runner, samples))
    assert all(same(one.outputs, samples[one.index]) for one in answers)
