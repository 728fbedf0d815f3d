"""A model that answers texts by arithmetic on their bytes."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_int8.errors import SessionError
from trt_int8.runtime.score.answers import Answer, Scored, Tally
from trt_int8.runtime.score.rows import Fault, Row
from trt_int8.runtime.score.work import PartRecord

WIDTH = 3


def vector_of(text: str) -> NDArray[np.float32]:
    """What the model says of a text."""
    raw = text.encode()
    return np.array([len(raw), zlib.crc32(raw) % 997, zlib.adler32(raw) / 7], np.float32)


@dataclass(frozen=True)
class FakeOpener:
    """Opens the fake; texts that begin with `poison` are faults, one that is `fatal` ends it all.

    `opened` and `held` count over all scorers of the process.
    """

    fatal: str | None = None
    two_outputs: bool = False

    def __call__(self) -> FakeScorer:
        return FakeScorer(self)


class FakeScorer:
    """See `FakeOpener`."""

    backend = "fake 1"

    def __init__(self, opener: FakeOpener) -> None:
        self.opener = opener
        self.shapes: Mapping[str, tuple[tuple[int, ...], str]] = {"v": ((WIDTH,), "float32")}
        if opener.two_outputs:
            self.shapes = {**self.shapes, "file": ((), "int64")}
        self.example: Answer = {}
        self.calls: list[int] = []
        self.closed = False

    def score(self, rows: list[Row]) -> Scored:
        self.calls.append(len(rows))
        texts = ["|".join(row) for row in rows]
        if self.opener.fatal in texts:
            raise SessionError("the model broke", wanted="it whole", todo="mend it")
        answers: list[Answer | Fault] = [
            Fault("poisoned") if text.startswith("poison") else self.answer(text) for text in texts
        ]
        words = [len(text.split()) for text in texts]
        padded = max(words) * len(words)
        return Scored(answers, Tally(tokens=sum(words), padded_tokens=padded, batches=1))

    def answer(self, text: str) -> dict[str, Any]:
        found: dict[str, Any] = {"v": vector_of(text)}
        return {**found, "file": len(text)} if self.opener.two_outputs else found

    def close(self) -> None:
        self.closed = True


class Watcher:
    """Remembers what a run tells."""

    def __init__(self) -> None:
        self.begun: tuple[int, int] | None = None
        self.records: list[PartRecord] = []
        self.notes: list[str] = []

    def begin(self, rows: int, done: int) -> None:
        self.begun = rows, done

    def advance(self, record: PartRecord) -> None:
        self.records.append(record)

    def note(self, text: str) -> None:
        self.notes.append(text)
