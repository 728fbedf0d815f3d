"""The folder of the results: whole parts, a journal of them, and at the end `scored.json`."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from trt_int8.engine.bundle import file_sha256
from trt_int8.errors import ScoreError
from trt_int8.files import write_whole
from trt_int8.runtime.score.answers import RowFault, Tally
from trt_int8.runtime.score.index import (
    ERRORS_NAME,
    INDEX_NAME,
    JOURNAL_NAME,
    ScoredIndex,
    check_folder,
    compare,
    is_partial,
    read_index,
)
from trt_int8.runtime.score.work import PartRecord, PartResult

_PART = re.compile(r"part-\d{5,}\.(npy|npz|jsonl|parquet)")


class Ledger:
    """An open folder of results; one process at a time.

    A part is written whole under its final name, then its line goes to the journal: a part without
    a line does not count. Nothing of this depends on the order in which parts are finished.
    """

    def __init__(self, folder: Path, index: ScoredIndex, *, force: bool = False) -> None:
        """Begin, or go on with what is there.

        Args:
            folder: made if it is missing.
            index: without parts.
            force: throw away results of other terms, or whole ones, and begin anew.

        Raises:
            ScoreError: the folder holds something else, results of another model, other data or
                other settings, or another process works on it.
        """
        self.folder, self._index = folder, index
        self.finished: dict[int, PartRecord] = {}
        self.damaged: list[str] = []
        old = None if force else read_index(folder)
        check_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._journal: IO[bytes] = (folder / JOURNAL_NAME).open("a+b")
        try:
            _lock(self._journal, folder)
            for path in filter(is_partial, folder.iterdir()):
                path.unlink()
            if old is not None:
                compare(old, index, folder)
                self._go_on()
            else:
                self._clear()
                write_whole(folder / INDEX_NAME, index.to_json().encode())
        except BaseException:
            self._journal.close()
            raise

    def __enter__(self) -> Ledger:
        """Itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let the folder go; what is finished stays."""
        self._journal.close()

    def path_of(self, number: int) -> Path:
        """The file of a part."""
        return self.folder / f"part-{number:05d}.{self._index.terms.format}"

    def add(self, result: PartResult) -> None:
        """Keep a part.

        Raises:
            OSError: it cannot be written; it then does not count as finished.
        """
        write_whole(self.path_of(result.record.number), result.data)
        entry = {
            "part": json.loads(result.record.model_dump_json()),
            "faults": [each.model_dump() for each in result.faults],
        }
        # One write: a line is there whole, or cut off at the end of the file.
        self._journal.write(json.dumps(entry).encode() + b"\n")
        self._journal.flush()
        os.fsync(self._journal.fileno())
        self.finished[result.record.number] = result.record

    def finish(self) -> ScoredIndex:
        """Write `errors.jsonl` (if rows failed) and the final `scored.json`."""
        parts = tuple(self.finished[number] for number in sorted(self.finished))
        tally = sum((part.tally for part in parts), Tally())
        update = {"complete": True, "parts": parts, "tally": tally}
        index = self._index.model_copy(update=update)
        if any(part.faults for part in parts):
            faults = (f"{fault.model_dump_json()}\n".encode() for fault in self.faults())
            _write_lines(self.folder / ERRORS_NAME, faults)
        write_whole(self.folder / INDEX_NAME, index.to_json().encode())
        return index

    def faults(self) -> Iterator[RowFault]:
        """Rows that could not be scored, in the order of the data."""
        # A part that was made twice has two lines; the last one counts.
        places: dict[int, int] = {}
        for offset, entry in _entries(self.folder / JOURNAL_NAME):
            if entry["faults"]:
                places[int(entry["part"]["number"])] = offset
        with (self.folder / JOURNAL_NAME).open("rb") as stream:
            for number in sorted(set(places) & set(self.finished)):
                stream.seek(places[number])
                for fault in json.loads(stream.readline())["faults"]:
                    yield RowFault.model_validate(fault)

    def _go_on(self) -> None:
        _cut_off(self._journal)
        for _, entry in _entries(self.folder / JOURNAL_NAME):
            record = PartRecord.model_validate(entry["part"])
            self.finished[record.number] = record
        for number in sorted(self.finished):
            path = self.path_of(number)
            if not path.is_file() or file_sha256(path) != self.finished[number].sha256:
                self.damaged.append(path.name)
                del self.finished[number]

    def _clear(self) -> None:
        self._journal.truncate(0)
        for path in self.folder.iterdir():
            if path.name == ERRORS_NAME or _PART.fullmatch(path.name):
                path.unlink()


def _entries(journal: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(place, content) of every whole line."""
    with journal.open("rb") as stream:
        while line := stream.readline():
            place = stream.tell() - len(line)
            entry = _entry(line)
            if entry is not None:
                yield place, entry


def _entry(line: bytes) -> dict[str, Any] | None:
    """The content of a line; None for what a disk left where it lost what was not synced."""
    with contextlib.suppress(ValueError):
        entry = json.loads(line)
        if isinstance(entry, dict) and isinstance(entry.get("faults"), list):
            PartRecord.model_validate(entry.get("part"))
            return entry
    return None


def _cut_off(journal: IO[bytes]) -> None:
    """Take away a last line that was not written to its end."""
    size = journal.seek(0, os.SEEK_END)
    while size:
        journal.seek(size - 1)
        if journal.read(1) == b"\n":
            break
        size -= 1
    journal.truncate(size)


def _lock(journal: IO[bytes], folder: Path) -> None:
    """Hold the folder until the file is closed, or the process ends, however it ends."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise ScoreError(
            f"another process works on {str(folder)!r}",
            wanted="one at a time",
            todo="wait for it, or choose another --out",
        ) from error


def _write_lines(path: Path, lines: Iterator[bytes]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as stream:
        stream.writelines(lines)
    partial.replace(path)
