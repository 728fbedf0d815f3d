from __future__ import annotations

import pytest

from tests.support.collected import one_batch


@pytest.fixture(autouse=True, scope="session")
def loops_ready() -> None:
    """Compile the loops before any test: hypothesis looks at the time of each example."""
    one_batch([1.0, 2.0])
