"""How a pool of workers ends: in a callback, dropped, with the interpreter, after a fork."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from tests.runtime.test_pool import Gate, echo, feeds_of
from trt_int8.errors import SessionError
from trt_int8.runtime.backend import Outputs
from trt_int8.runtime.pool import WorkerPool


def finished(work: Callable[[], object]) -> bool:
    """Whether it ends; a thread that hangs for ever is left behind."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(20)
    return not thread.is_alive()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_callback_may_close_though_the_queue_is_full(pools: Any, workers: int) -> None:
    gate, closed = Gate(), threading.Event()
    pool = pools(gate, workers)
    first = pool.submit(feeds_of(0))
    assert gate.entered.acquire(timeout=20)
    told: list[bool] = []

    def close(_future: object) -> None:
        told.append(pool.close())
        closed.set()

    first.add_done_callback(close)
    waiting = [pool.submit(feeds_of(i)) for i in range(5 * workers - 1)]
    gate.open.set()
    assert closed.wait(20)
    assert told == [True]
    assert [future.result(0)["x"][0] for future in waiting] == list(range(5 * workers - 1))
    assert finished(pool.close)


def test_a_callback_may_close_while_others_wait_to_submit(pools: Any) -> None:
    gate, closed = Gate(), threading.Event()
    pool = pools(gate, 1)
    first = pool.submit(feeds_of(0))
    assert gate.entered.acquire(timeout=20)

    def close(_future: object) -> None:
        pool.close()
        closed.set()

    first.add_done_callback(close)
    waiting = [pool.submit(feeds_of(i)) for i in range(4)]
    late: list[Future[Outputs]] = []
    threads = [
        threading.Thread(target=lambda: late.append(pool.submit(feeds_of(9))), daemon=True)
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    while pool._busy < 3:
        threading.Event().wait(0.001)
    gate.open.set()
    assert closed.wait(20)
    assert [future.result(0)["x"][0] for future in (*waiting, *late)] == [0, 1, 2, 3, 9, 9, 9]


def test_callbacks_and_another_thread_may_close_at_once(pools: Any) -> None:
    gate = Gate()
    pool = pools(gate, 2)
    meet = threading.Barrier(2)
    told: list[bool] = []

    def close(_future: object) -> None:
        meet.wait(20)
        told.append(pool.close())

    for number in range(2):
        pool.submit(feeds_of(number)).add_done_callback(close)
    closer = threading.Thread(target=lambda: told.append(pool.close()), daemon=True)
    gate.open.set()
    closer.start()
    closer.join(20)
    assert not closer.is_alive()
    assert finished(pool.close)
    assert sorted(told) == [False, False, True]


def test_a_pool_that_is_dropped_finishes_its_requests_and_ends_its_threads() -> None:
    before = set(threading.enumerate())
    gate = Gate()
    pool = WorkerPool(gate, 2, "test")
    futures = [pool.submit(feeds_of(i)) for i in range(5)]
    seen = weakref.ref(pool)
    del pool
    gc.collect()
    gate.open.set()
    assert [future.result(20)["x"][0] for future in futures] == list(range(5))
    for thread in set(threading.enumerate()) - before:
        thread.join(20)
        gc.collect()
    assert seen() is None
    assert set(threading.enumerate()) == before


def test_an_interpreter_that_ends_waits_for_what_was_taken() -> None:
    child = (
        "import threading, time\n"
        "from trt_int8.runtime.pool import WorkerPool\n"
        "def work(_worker, feeds):\n"
        "    time.sleep(0.05)\n"
        "    print('done', flush=True)\n"
        "    return feeds\n"
        "pool = WorkerPool(work, 1, 'test')\n"
        "[pool.submit({}) for _ in range(3)]\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", child], capture_output=True, text=True, timeout=60, check=True
    )
    assert found.stdout.split() == ["done"] * 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("call", ["run", "submit"])
def test_a_process_that_was_forked_is_told_so_instead_of_waiting_for_ever(
    pools: Any, call: str
) -> None:
    pool = pools(echo, 1)
    pool.submit(feeds_of(1)).result(20)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            getattr(pool, call)(feeds_of(2))
        except SessionError as error:
            pool.close()
            code = 0 if "before it was forked" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert pool.submit(feeds_of(3)).result(20)["x"][0] == 3
