from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from trt_int8.runtime.backend import Feeds, Outputs
from trt_int8.runtime.pool import WorkerPool


@pytest.fixture
def no_thread_is_left_behind() -> Iterator[None]:
    """Fails a test that ends with a thread still running which it began."""
    before = set(threading.enumerate())
    yield
    left = [one for one in threading.enumerate() if one not in before]
    for one in left:
        one.join(5)
    assert [one.name for one in left if one.is_alive()] == []


@pytest.fixture
def pools() -> Any:
    made: list[WorkerPool] = []

    def make(work: Callable[[int, Feeds], Outputs], workers: int) -> WorkerPool:
        made.append(WorkerPool(work, workers, "test"))
        return made[-1]

    yield make
    for pool in made:
        pool.close()
