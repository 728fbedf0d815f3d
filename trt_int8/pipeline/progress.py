"""What the main job tells whoever watches it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Protocol

Advance = Callable[[float], None]


class Reporter(Protocol):
    """Shows progress; the command line has one with bars, tests use `SilentReporter`."""

    def task(
        self, title: str, total: float | None = None
    ) -> contextlib.AbstractContextManager[Advance]:
        """A stage of the work; call the result with the amount that is newly done."""

    def note(self, text: str) -> None:
        """Something the user should know."""


class SilentReporter:
    """Shows nothing; keeps the notes."""

    def __init__(self) -> None:
        """Start without notes."""
        self.notes: list[str] = []

    @contextlib.contextmanager
    def task(self, title: str, total: float | None = None) -> Iterator[Advance]:
        """Ignore progress."""
        yield lambda amount: None

    def note(self, text: str) -> None:
        """Keep the note."""
        self.notes.append(text)
