"""The data set: which files it has, how they are cut into parts, and the rows of a part."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from trt_int8.errors import ScoreError
from trt_int8.runtime.score.lines import (
    read_json_lines,
    read_lines,
    read_table,
    scan_lines,
    scan_table,
)
from trt_int8.runtime.score.rows import Columns, DataFile, Fault, Part, Row, Slice
from trt_int8.runtime.score.tables import TableReader, scan_arrays, scan_parquet, unreadable

STANDARD_INPUT = "-"
_LINES, _TABLES = (".txt", ".jsonl"), (".csv", ".tsv")
_ARRAYS, _PARQUET = ".npz", ".parquet"
SUFFIXES = (*_LINES, *_TABLES, _PARQUET, _ARRAYS)


@dataclass(frozen=True)
class DataSet:
    """Files in the order of their names, cut into parts of one size (the last one smaller).

    Attributes:
        files: what was read, with sha256.
        parts: in order; they hold no rows, only where the rows are.
        columns: where the texts are in files with named columns.
    """

    files: tuple[DataFile, ...]
    parts: tuple[Part, ...]
    columns: Columns

    @property
    def rows(self) -> int:
        """Number of rows, those that cannot be scored included."""
        return sum(file.rows for file in self.files)

    @property
    def holds_arrays(self) -> bool:
        """Whether rows are arrays instead of texts."""
        return Path(self.files[0].name).suffix.lower() == _ARRAYS


def copy_standard_input(target: Path, stream: BinaryIO | None = None) -> Path:
    """Keep standard input as a text file: it can be read once, and a part is cut from it later.

    Raises:
        ScoreError: it is closed.
    """
    if stream is None and sys.stdin is None:
        raise ScoreError(
            "standard input is closed", wanted="lines of text on it", todo="pipe them in"
        )
    with target.open("wb") as out:
        shutil.copyfileobj(stream or sys.stdin.buffer, out)
    return target


def read_data(path: Path, rows_per_part: int, columns: Columns | None = None) -> DataSet:
    """Read a file, or all files of a folder, once: check, count and cut them.

    Args:
        path: a file or folder; in a folder, names with a leading dot or underscore are left out.
        rows_per_part: at least 1.
        columns: where the texts are in files with named columns.

    Raises:
        ScoreError: it is missing, has no rows, or holds files of an unknown kind.
        MissingPackageError: a Parquet file, and pyarrow is not installed.
    """
    columns = columns or Columns()
    cutter = _Cutter(rows_per_part)
    files = []
    for file in _files(path):
        try:
            found, slices = _scan(file, cutter.sizes(), columns)
        except OSError as error:
            raise unreadable(file, str(error.strerror)) from error
        files.append(found)
        cutter.add(slices)
    data = DataSet(tuple(files), tuple(cutter.parts()), columns)
    if not data.rows:
        raise ScoreError(f"{str(path)!r} has no rows", wanted="rows to score", todo="fill it")
    return data


class PartReader:
    """Reads the rows of parts."""

    def __init__(self, columns: Columns) -> None:
        """Nothing is read yet."""
        self._columns, self._tables = columns, TableReader()

    def read(self, part: Part) -> list[Row | Fault]:
        """All rows of a part, in order; a row that cannot be scored is a fault.

        Raises:
            ScoreError: a file is missing or has changed.
        """
        return [row for piece in part.slices for row in self._slice(piece)]

    def _slice(self, piece: Slice) -> list[Row | Fault]:
        suffix = Path(piece.path).suffix.lower()
        if suffix in _TABLES:
            return read_table(piece, self._columns)
        if suffix == _PARQUET:
            return self._tables.read_parquet(piece, self._columns)
        if suffix == _ARRAYS:
            return self._tables.read_arrays(piece)
        return read_json_lines(piece, self._columns) if suffix == ".jsonl" else read_lines(piece)


class _Cutter:
    """Deals slices of files out to parts."""

    def __init__(self, rows_per_part: int) -> None:
        self._size, self._slices, self._rows = rows_per_part, list[list[Slice]](), 0

    def sizes(self) -> Iterator[int]:
        """Rows that the next slices may have, without end."""
        yield self._size - self._rows % self._size
        while True:
            yield self._size

    def add(self, slices: list[Slice]) -> None:
        for piece in slices:
            if self._rows % self._size == 0:
                self._slices.append([])
            self._slices[-1].append(piece)
            self._rows += piece.rows

    def parts(self) -> Iterator[Part]:
        for number, slices in enumerate(self._slices):
            yield Part(number, number * self._size, tuple(slices))


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise ScoreError(
            f"{str(path)!r} does not exist", wanted="a file or folder", todo="check --data"
        )
    # A node of a cluster has another current folder.
    path = path.resolve()
    if not path.is_dir():
        paths = [path]
    else:
        paths = sorted(p for p in path.iterdir() if p.is_file() and p.name[0] not in "._")
    unknown = [p for p in paths if p.suffix.lower() not in SUFFIXES]
    if unknown or not paths:
        came = (
            f"{str(unknown[0])!r} is of an unknown kind" if unknown else f"{str(path)!r} is empty"
        )
        raise ScoreError(
            came,
            wanted=f"files that end in {', '.join(SUFFIXES)}",
            todo="rename or remove it" if unknown else "name another folder with --data",
        )
    arrays = [p for p in paths if p.suffix.lower() == _ARRAYS]
    if arrays and len(arrays) < len(paths):
        raise ScoreError(
            f"{str(path)!r} holds {_ARRAYS} files and texts",
            wanted="one of them",
            todo="put them into two folders",
        )
    return paths


def _scan(path: Path, sizes: Iterator[int], columns: Columns) -> tuple[DataFile, list[Slice]]:
    suffix = path.suffix.lower()
    if suffix in _TABLES:
        return scan_table(path, sizes, columns)
    if suffix == _PARQUET:
        return scan_parquet(path, sizes, columns)
    return scan_arrays(path, sizes) if suffix == _ARRAYS else scan_lines(path, sizes)
