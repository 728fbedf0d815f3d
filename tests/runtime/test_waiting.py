"""Callbacks that wait for other answers: refused where they would hang, else let through."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.test_pool import Gate, echo, feeds_of
from tests.support.tiny_int8 import bundle, feeds
from trt_int8.errors import SessionError
from trt_int8.runtime.backend import Feeds, Outputs
from trt_int8.runtime.futures import Joined, RequestFuture
from trt_int8.runtime.options import SessionOptions
from trt_int8.runtime.pool import WorkerPool
from trt_int8.runtime.session import Session


class Inside:
    """Runs something in a callback of a pool, on one of its threads; keeps what came of it."""

    def __init__(self, pool: WorkerPool, work: Any) -> None:
        self._pool, self._work = pool, work
        self.ended = threading.Event()
        self.answer: Any = None
        self.error: BaseException | None = None
        self.first = pool.submit(feeds_of(0))
        self.first.add_done_callback(self._call)

    def _call(self, _future: object) -> None:
        assert threading.current_thread().name.startswith("test-")
        try:
            self.answer = self._work()
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.error = error
        self.ended.set()

    def wait(self) -> Inside:
        assert self.ended.wait(20), "the callback hangs"
        return self


class Held(Gate):
    """A gate that only the first request waits at, so that a callback can be added to it."""

    def __call__(self, worker: int, feeds: Feeds) -> Outputs:
        return super().__call__(worker, feeds) if feeds["x"][0] == 0 else dict(feeds)


def joined(pool: WorkerPool, *numbers: int) -> Future[Outputs]:
    return Joined([pool.submit(feeds_of(number)) for number in numbers], lambda each: each[-1])


@pytest.mark.parametrize("ask", ["result", "exception"])
@pytest.mark.parametrize("timeout", [None, 20.0])
@pytest.mark.parametrize("parts", [0, 1, 3])
def test_a_callback_that_waits_for_its_only_worker_is_an_error(
    pools: Any, ask: str, timeout: float | None, parts: int
) -> None:
    gate = Held()
    pool = pools(gate, 1)

    def work() -> Any:
        other = joined(pool, *range(1, parts + 1)) if parts else pool.submit(feeds_of(1))
        return getattr(other, ask)(timeout)

    inside = Inside(pool, work)
    gate.open.set()
    assert isinstance(inside.wait().error, SessionError)
    assert str(inside.error).startswith("a callback waits for another answer of its session")
    assert pool.submit(feeds_of(5)).result(20)["x"][0] == 5, "the worker goes on"


def test_what_was_refused_in_the_callback_is_answered_all_the_same(pools: Any) -> None:
    gate, others = Held(), []
    pool = pools(gate, 1)

    def work() -> Any:
        others.append(pool.submit(feeds_of(7)))
        return others[0].result()

    inside = Inside(pool, work)
    gate.open.set()
    inside.wait()
    assert others[0].result(20)["x"][0] == 7


def test_a_callback_may_look_at_what_is_not_done(pools: Any) -> None:
    gate = Held()
    pool = pools(gate, 1)
    inside = Inside(pool, lambda: pool.submit(feeds_of(1)).result(0))
    gate.open.set()
    assert isinstance(inside.wait().error, TimeoutError)


def test_a_callback_may_take_what_is_done(pools: Any) -> None:
    gate = Held()
    pool = pools(gate, 1)
    asked: list[Future[Outputs]] = []
    inside = Inside(pool, lambda: asked[0].result())
    asked.append(inside.first)
    gate.open.set()
    assert inside.wait().answer["x"][0] == 0


@pytest.mark.parametrize("parts", [0, 2])
def test_a_callback_may_wait_for_another_session(pools: Any, parts: int) -> None:
    gate = Held()
    pool, other = pools(gate, 1), pools(echo, 1)

    def work() -> Any:
        return (joined(other, 2, 3) if parts else other.submit(feeds_of(3))).result(20)

    inside = Inside(pool, work)
    gate.open.set()
    assert inside.wait().answer["x"][0] == 3


def test_a_callback_may_wait_while_another_worker_is_free(pools: Any) -> None:
    gate = Held()
    pool = pools(gate, 2)
    inside = Inside(pool, lambda: joined(pool, 1, 2).result())
    gate.open.set()
    assert inside.wait().answer["x"][0] == 2


def test_a_callback_may_wait_for_what_another_worker_is_at(pools: Any) -> None:
    """Both threads of the pool are busy: one with the callback, one with what that waits for."""
    gate, begun, go_on = Held(), threading.Event(), threading.Event()

    def run(worker: int, feeds: Feeds) -> Outputs:
        if feeds["x"][0] == 1:
            begun.set()
            assert go_on.wait(20)
        return gate(worker, feeds)

    pool = pools(run, 2)

    def work() -> Any:
        other = pool.submit(feeds_of(1))
        assert begun.wait(20)
        threading.Timer(0.05, go_on.set).start()
        return other.result()

    inside = Inside(pool, work)
    gate.open.set()
    assert inside.wait().answer["x"][0] == 1


@pytest.mark.parametrize("workers", [2, 3])
def test_of_callbacks_that_all_wait_one_is_refused_and_the_others_get_their_answers(
    pools: Any, workers: int
) -> None:
    gate, meeting = Held(), threading.Barrier(workers, timeout=20)
    pool = pools(gate, workers)

    def work() -> Any:
        meeting.wait()  # no thread is free from here on
        return pool.submit(feeds_of(1)).result()

    callbacks = [Inside(pool, work) for _ in range(workers)]
    gate.open.set()
    errors = [one.wait().error for one in callbacks]
    (refused,) = [error for error in errors if error is not None]
    assert isinstance(refused, SessionError)
    assert all(one.answer["x"][0] == 1 for one in callbacks if one.error is None)


def test_a_wait_that_ends_by_itself_refuses_no_other(pools: Any) -> None:
    """The first callback gives up after its time; the second one is answered then."""
    gate, meeting, waits = Held(), threading.Barrier(2, timeout=20), threading.Event()
    pool = pools(gate, 2)

    def short() -> Any:
        meeting.wait()
        other = pool.submit(feeds_of(1))
        waits.set()
        return other.result(0.3)

    def long() -> Any:
        meeting.wait()
        assert waits.wait(20)
        threading.Event().wait(0.1)
        return pool.submit(feeds_of(2)).result()

    callbacks = [Inside(pool, short), Inside(pool, long)]
    gate.open.set()
    assert isinstance(callbacks[0].wait().error, TimeoutError)
    assert callbacks[1].wait().answer["x"][0] == 2


def test_a_thread_of_the_caller_waits_as_ever(pools: Any) -> None:
    gate = Gate()
    pool = pools(gate, 1)
    future = pool.submit(feeds_of(4))
    threading.Timer(0.05, gate.open.set).start()
    assert future.result(20)["x"][0] == 4
    assert future.exception() is None


def test_a_callback_of_a_session_may_run_but_not_wait(tmp_path: Path) -> None:
    given, ended = feeds(4, 60), threading.Event()
    found: list[Any] = []

    def call(_future: object) -> None:
        if found or threading.current_thread() is threading.main_thread():
            return  # the request was done already
        found.append(sorted(session.run(given)))
        try:
            session.run_async(given).result()
        except SessionError as error:
            found.append(error.todo)
        ended.set()

    options = SessionOptions(runtime="onnxruntime")
    with Session.open(bundle(tmp_path), "cpu", options=options) as session:
        names = sorted(session.run(given))
        for _ in range(200):
            if not found:
                # One at a time, so that the callback's own request has to be queued.
                future = session.run_async(given)
                future.add_done_callback(call)
                future.result()
        assert ended.wait(20)
    assert found == [names, "call `run` in the callback, or wait in a thread of your own"]


def test_a_future_that_is_kept_keeps_no_pool_open() -> None:
    pool = WorkerPool(echo, 1, "test")
    future = pool.submit(feeds_of(1))
    future.result(20)
    assert isinstance(future, RequestFuture)
    assert future.crew is not None
    (thread,) = future.crew.threads
    seen = weakref.ref(pool)
    del pool
    thread.join(20)
    assert (seen(), thread.is_alive()) == (None, False)


def test_a_wait_that_is_over_keeps_no_answer(pools: Any) -> None:
    gate, seen = Held(), []
    pool = pools(gate, 2)

    def work() -> None:
        other = pool.submit(feeds_of(1))
        seen.append(weakref.ref(other))
        other.result()

    inside = Inside(pool, work)
    gate.open.set()
    inside.wait()
    pool.close()  # its threads are done with the request
    gc.collect()
    assert seen[0]() is None


def test_a_future_is_queued_until_a_worker_takes_it() -> None:
    one = RequestFuture()
    assert one.is_queued()
    one.set_running_or_notify_cancel()
    assert not one.is_queued()
    one.set_result({})
    assert not one.is_queued()
    other = RequestFuture()
    other.cancel()
    assert not other.is_queued()
