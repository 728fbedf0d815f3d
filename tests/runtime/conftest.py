from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest


@pytest.fixture
def no_thread_is_left_behind() -> Iterator[None]:
    """Fails a test that ends with a thread still running which it began."""
    before = set(threading.enumerate())
    yield
    left = [one for one in threading.enumerate() if one not in before]
    for one in left:
        one.join(5)
    assert [one.name for one in left if one.is_alive()] == []
