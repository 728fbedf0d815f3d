from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any

import numpy as np
import pytest

from trt_int8.errors import SessionError
from trt_int8.runtime.backend import Feeds, Outputs


def echo(_worker: int, feeds: Feeds) -> Outputs:
    return dict(feeds)


def noting_threads(seen: list[int]) -> Callable[[int, Feeds], Outputs]:
    def work(_worker: int, feeds: Feeds) -> Outputs:
        seen.append(threading.get_ident())
        return dict(feeds)

    return work


class Gate:
    """Work that waits until it is let through; counts how many run at once."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)
        self.guard = threading.Lock()
        self.busy: set[int] = set()
        self.most = 0

    def __call__(self, worker: int, feeds: Feeds) -> Outputs:
        with self.guard:
            assert worker not in self.busy, "one worker was used twice at a time"
            self.busy.add(worker)
            self.most = max(self.most, len(self.busy))
        self.entered.release()
        assert self.open.wait(20)
        with self.guard:
            self.busy.discard(worker)
        return dict(feeds)


def feeds_of(number: int) -> dict[str, Any]:
    return {"x": np.array([number])}


def test_run_works_in_the_calling_thread(pools: Any) -> None:
    seen: list[int] = []
    pool = pools(noting_threads(seen), 1)
    assert pool.run(feeds_of(3))["x"][0] == 3
    assert seen == [threading.get_ident()]


def test_submit_works_in_another_thread(pools: Any) -> None:
    seen: list[int] = []
    pool = pools(noting_threads(seen), 1)
    assert pool.submit(feeds_of(3)).result(20)["x"][0] == 3
    assert threading.get_ident() not in seen


@pytest.mark.parametrize("workers", [1, 3])
def test_as_many_run_at_once_as_there_are_workers(pools: Any, workers: int) -> None:
    gate = Gate()
    pool = pools(gate, workers)
    futures = [pool.submit(feeds_of(i)) for i in range(workers + 2)]
    for _ in range(workers):
        assert gate.entered.acquire(timeout=20)
    assert not gate.entered.acquire(timeout=0.05)
    gate.open.set()
    assert [future.result(20)["x"][0] for future in futures] == list(range(workers + 2))
    assert gate.most == workers


def test_run_waits_for_a_worker_that_submit_keeps_busy(pools: Any) -> None:
    gate = Gate()
    pool = pools(gate, 1)
    pool.submit(feeds_of(0))
    assert gate.entered.acquire(timeout=20)
    thread = threading.Thread(target=pool.run, args=(feeds_of(1),))
    thread.start()
    assert not gate.entered.acquire(timeout=0.05)
    gate.open.set()
    thread.join(20)
    assert gate.most == 1


def test_an_error_reaches_the_caller_and_the_worker_goes_on(pools: Any) -> None:
    def fail_on_7(_worker: int, feeds: Feeds) -> Outputs:
        if feeds["x"][0] == 7:
            raise SessionError("7", wanted="another", todo="send one")
        return dict(feeds)

    pool = pools(fail_on_7, 1)
    with pytest.raises(SessionError):
        pool.run(feeds_of(7))
    with pytest.raises(SessionError):
        pool.submit(feeds_of(7)).result(20)
    assert pool.submit(feeds_of(8)).result(20)["x"][0] == 8


def test_a_request_that_waits_can_be_cancelled(pools: Any) -> None:
    gate = Gate()
    pool = pools(gate, 1)
    first, second, third = (pool.submit(feeds_of(i)) for i in range(3))
    assert gate.entered.acquire(timeout=20)
    assert second.cancel()
    assert not first.cancel()
    gate.open.set()
    assert third.result(20)["x"][0] == 2
    with pytest.raises(CancelledError):
        second.result(0)


def test_submit_blocks_while_the_queue_is_full(pools: Any) -> None:
    gate = Gate()
    pool = pools(gate, 1)
    sent = threading.Semaphore(0)

    def send() -> None:
        for i in range(20):
            pool.submit(feeds_of(i))
            sent.release()

    thread = threading.Thread(target=send)
    thread.start()
    count = 0
    while sent.acquire(timeout=0.2):
        count += 1
    assert 1 <= count < 20
    gate.open.set()
    thread.join(20)
    assert not thread.is_alive()


def test_a_callback_may_submit_though_the_queue_is_full(pools: Any) -> None:
    gate = Gate()
    pool = pools(gate, 1)
    inner: list[Future[Outputs]] = []
    first = pool.submit(feeds_of(0))
    first.add_done_callback(lambda _: inner.extend(pool.submit(feeds_of(9)) for _ in range(9)))
    waiting = [pool.submit(feeds_of(i)) for i in range(4)]
    gate.open.set()
    assert [future.result(20)["x"][0] for future in waiting] == list(range(4))
    assert [future.result(20)["x"][0] for future in inner] == [9] * 9


def test_close_finishes_what_was_taken(pools: Any) -> None:
    gate = Gate()
    pool = pools(gate, 1)
    futures = [pool.submit(feeds_of(i)) for i in range(3)]
    closer = threading.Thread(target=pool.close)
    closer.start()
    gate.open.set()
    closer.join(20)
    assert [future.result(0)["x"][0] for future in futures] == [0, 1, 2]


@pytest.mark.parametrize("call", ["run", "submit"])
def test_a_closed_pool_refuses(pools: Any, call: str) -> None:
    pool = pools(echo, 2)
    pool.close()
    with pytest.raises(SessionError, match="after test was closed"):
        getattr(pool, call)(feeds_of(1))


def test_one_of_many_closers_is_told_to_free(pools: Any) -> None:
    pool = pools(echo, 2)
    pool.submit(feeds_of(1)).result(20)
    told: list[bool] = []
    threads = [threading.Thread(target=lambda: told.append(pool.close())) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(told) == [False] * 4 + [True]


def test_closing_leaves_no_thread(pools: Any) -> None:
    before = set(threading.enumerate())
    pool = pools(echo, 3)
    pool.submit(feeds_of(1)).result(20)
    assert set(threading.enumerate()) > before
    pool.close()
    assert set(threading.enumerate()) == before
