"""Score one part: the same code in this process and on every machine of a cluster."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from trt_int8.runtime.score.answers import (
    Answer,
    Format,
    RowFault,
    Scored,
    Scorer,
    Tally,
    encode,
)
from trt_int8.runtime.score.data import PartReader
from trt_int8.runtime.score.rows import Columns, Fault, Part, Row
from trt_int8.spec.base import Frozen

# Opens a scorer; it can be pickled.
Opener = Callable[[], Scorer]


class PartRecord(Frozen):
    """A finished part.

    Attributes:
        number: of the part, from 0.
        start: number of its first row in the data set, from 0.
        rows: how many it has, those that could not be scored included.
        sha256: of its file.
        size_bytes: of its file.
        faults: how many rows could not be scored.
        tally: what was computed.
        seconds: how long it took to read, score and encode.
        backend: what ran the model.
    """

    number: int
    start: int
    rows: int
    sha256: str
    size_bytes: int
    faults: int
    tally: Tally
    seconds: float
    backend: str


@dataclass(frozen=True)
class PartResult:
    """A part that is not written yet.

    Attributes:
        record: what is kept of it beside its file.
        data: the file.
        faults: the rows that could not be scored, in order.
    """

    record: PartRecord
    data: bytes
    faults: tuple[RowFault, ...]


class PartWorker:
    """Reads, scores and encodes parts, one at a time."""

    def __init__(self, opener: Opener, columns: Columns, form: Format) -> None:
        """Load the model."""
        self._scorer, self._form = opener(), form
        self._reader = PartReader(columns)

    def work(self, part: Part) -> PartResult:
        """Score a part.

        What comes out depends on the rows of the part alone: batches never hold rows of two parts.

        Raises:
            ScoreError: the data cannot be read or have changed.
            TrtInt8Error: the model cannot be run.
        """
        start = time.perf_counter()
        found = score_rows(self._scorer, self._reader.read(part))
        scorer = self._scorer
        data = encode(found.answers, part.start, self._form, scorer.shapes, scorer.example)
        faults = tuple(
            RowFault(row=row, error=answer.reason)
            for row, answer in enumerate(found.answers, start=part.start)
            if isinstance(answer, Fault)
        )
        record = PartRecord(
            number=part.number,
            start=part.start,
            rows=part.rows,
            sha256=hashlib.sha256(data).hexdigest(),
            size_bytes=len(data),
            faults=len(faults),
            tally=found.tally,
            seconds=time.perf_counter() - start,
            backend=self._scorer.backend,
        )
        return PartResult(record, data, faults)

    def close(self) -> None:
        """Free the model."""
        self._scorer.close()


def score_rows(scorer: Scorer, rows: list[Row | Fault]) -> Scored:
    """Score the rows that can be; the others keep their faults."""
    sound = [row for row in rows if not isinstance(row, Fault)]
    found = scorer.score(sound) if sound else Scored([])
    answers = iter(found.answers)
    merged: list[Answer | Fault] = [
        row if isinstance(row, Fault) else next(answers) for row in rows
    ]
    return Scored(merged, found.tally)
