"""Files that are not text: `.parquet` with a column of texts, `.npz` with an array per input."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from trt_int8 import optional
from trt_int8.calibrate.arrays import ArrayFile, read_arrays
from trt_int8.engine.bundle import file_sha256
from trt_int8.errors import CalibrationError, ScoreError, first_line
from trt_int8.runtime.score.lines import changed, no_column
from trt_int8.runtime.score.rows import Columns, DataFile, Fault, Row, Slice, text_row


def scan_parquet(
    path: Path, sizes: Iterator[int], columns: Columns
) -> tuple[DataFile, list[Slice]]:
    """Cut a Parquet file.

    Raises:
        ScoreError: it cannot be read, or lacks a column.
        MissingPackageError: pyarrow is not installed.
    """
    with _opened(path) as table:
        names = table.schema_arrow.names
        missing = [name for name in columns.names if name not in names]
        if missing:
            raise no_column(path, missing[0], names)
        rows = int(table.metadata.num_rows)
    return _cut(path, sizes, rows)


def scan_arrays(path: Path, sizes: Iterator[int]) -> tuple[DataFile, list[Slice]]:
    """Cut an `.npz` file, whose arrays have their samples along the first axis.

    Raises:
        ScoreError: it cannot be read, or its arrays differ in the number of samples.
    """
    return _cut(path, sizes, _samples(_arrays(path)))


def _cut(path: Path, sizes: Iterator[int], rows: int) -> tuple[DataFile, list[Slice]]:
    size_bytes, mark = path.stat().st_size, file_sha256(path)
    slices, start = [], 0
    while start < rows:
        taken = min(next(sizes), rows - start)
        slices.append(Slice(str(path), start, taken, 0, size_bytes, mark))
        start += taken
    return DataFile(name=path.name, sha256=mark, size_bytes=size_bytes, rows=rows), slices


class TableReader:
    """Reads slices of such files; each file is checked once, and the last `.npz` is kept."""

    def __init__(self) -> None:
        """Nothing is read yet."""
        self._checked: set[tuple[str, str]] = set()
        self._last: tuple[str, ArrayFile] | None = None

    def read_parquet(self, piece: Slice, columns: Columns) -> list[Row | Fault]:
        """Rows of a slice.

        Raises:
            ScoreError: the file cannot be read or has changed.
        """
        self._check(piece)
        rows: list[Row | Fault] = []
        start = 0
        with _opened(Path(piece.path)) as table:
            for group in range(table.num_row_groups):
                stop = start + table.metadata.row_group(group).num_rows
                first, last = max(start, piece.start), min(stop, piece.start + piece.rows)
                if first < last:
                    found = table.read_row_group(group, columns=list(columns.names))
                    values = found.slice(first - start, last - first)
                    listed = (values.column(name).to_pylist() for name in columns.names)
                    rows.extend(text_row(fields) for fields in zip(*listed, strict=True))
                start = stop
        return rows

    def read_arrays(self, piece: Slice) -> list[Row | Fault]:
        """Rows of a slice: per input the array of one sample.

        Raises:
            ScoreError: the file cannot be read or has changed.
        """
        self._check(piece)
        if self._last is None or self._last[0] != piece.path:
            self._last = (piece.path, _arrays(Path(piece.path)))
        arrays = self._last[1].arrays
        return [
            {name: array[row] for name, array in arrays.items()}
            for row in range(piece.start, piece.start + piece.rows)
        ]

    def _check(self, piece: Slice) -> None:
        if (piece.path, piece.sha256) not in self._checked:
            try:
                same = file_sha256(Path(piece.path)) == piece.sha256
            except OSError as error:
                raise unreadable(Path(piece.path), str(error.strerror)) from error
            if not same:
                raise changed(piece)
            self._checked.add((piece.path, piece.sha256))


def unreadable(path: Path, why: str) -> ScoreError:
    """The error for a file that cannot be read."""
    return ScoreError(
        f"{str(path)!r} cannot be read ({why})",
        wanted="a whole file, at the same path on every machine",
        todo="check its path and its rights, or make it anew",
    )


def _opened(path: Path) -> Any:
    parquet = optional.load("pyarrow.parquet")
    try:
        return parquet.ParquetFile(path)
    except (OSError, ValueError) as error:  # pyarrow's own errors derive from these
        raise unreadable(path, first_line(error)) from error


def _arrays(path: Path) -> ArrayFile:
    try:
        return read_arrays(path).files[0]
    except CalibrationError as error:
        came = error.came.removeprefix("calibration ")
        raise ScoreError(came, wanted=error.wanted, todo="write it with np.savez") from error


def _samples(file: ArrayFile) -> int:
    sizes = {name: array.shape[0] if array.ndim else -1 for name, array in file.arrays.items()}
    if len(set(sizes.values())) > 1 or -1 in sizes.values():
        listed = ", ".join(f"{name} {list(a.shape)}" for name, a in file.arrays.items())
        raise ScoreError(
            f"the arrays of {str(file.path)!r} are {listed}",
            wanted="as many samples in each, along the first axis",
            todo="make the arrays from the same samples",
        )
    return int(np.max(list(sizes.values())))
