"""Files whose rows are lines of text: `.txt`, `.jsonl`, `.csv`, `.tsv`."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from trt_int8.errors import ScoreError
from trt_int8.runtime.score.rows import Columns, DataFile, Fault, Row, Slice, text_row

_MARK = b"\xef\xbb\xbf"
# Bytes that are not UTF-8 spoil their own row, not the file.
_DECODING = "surrogateescape"


def scan_lines(path: Path, sizes: Iterator[int]) -> tuple[DataFile, list[Slice]]:
    """Cut a file of one row per line.

    Args:
        path: the file.
        sizes: rows of each slice; the last one may get fewer.

    Returns:
        What it holds; the slices in order.
    """
    with path.open("rb") as stream:

        def take(count: int) -> tuple[bytes, int]:
            lines = list(islice(stream, count))
            return b"".join(lines), len(lines)

        return _cut(path, sizes, take, b"")


def scan_table(path: Path, sizes: Iterator[int], columns: Columns) -> tuple[DataFile, list[Slice]]:
    """Cut a `.csv` or `.tsv` file, whose first row names the columns; empty lines are no rows.

    Raises:
        ScoreError: it lacks a column, or its quotes are wrong.
    """
    with path.open("rb") as stream:
        taken: list[bytes] = []

        def lines() -> Iterator[bytes]:
            for line in stream:
                taken.append(line)
                yield line

        rows = _rows(path, _unmarked(lines()))

        def take(count: int) -> tuple[bytes, int]:
            taken.clear()
            found = sum(1 for _ in islice(rows, count))
            return b"".join(taken), found

        head, _ = take(1)
        _places(path, head, columns)
        return _cut(path, sizes, take, head)


def _cut(
    path: Path, sizes: Iterator[int], take: Callable[[int], tuple[bytes, int]], head: bytes
) -> tuple[DataFile, list[Slice]]:
    digest, offset, rows = hashlib.sha256(head), len(head), 0
    slices = []
    for size in sizes:
        raw, found = take(size)
        digest.update(raw)
        if found:
            mark = hashlib.sha256(raw).hexdigest()
            slices.append(Slice(str(path), rows, found, offset, len(raw), mark))
        offset, rows = offset + len(raw), rows + found
        if found < size:
            break
    file = DataFile(name=path.name, sha256=digest.hexdigest(), size_bytes=offset, rows=rows)
    return file, slices


def read_lines(piece: Slice) -> list[Row | Fault]:
    """Rows of a slice of a text file: a text, or a tab-separated pair, per line."""
    return [_text(line) for line in _lines(_raw(piece))]


def read_json_lines(piece: Slice, columns: Columns) -> list[Row | Fault]:
    """Rows of a slice of a `.jsonl` file: an object, a string, or a list of strings per line."""
    return [_json(line, columns) for line in _lines(_raw(piece))]


def read_table(piece: Slice, columns: Columns) -> list[Row | Fault]:
    """Rows of a slice of a `.csv` or `.tsv` file.

    Raises:
        ScoreError: the file has changed.
    """
    path, data = Path(piece.path), _raw(piece)
    with path.open("rb") as stream:
        places = _places(path, stream, columns)
    return [
        text_row(tuple(row[place] for place in places))
        if max(places) < len(row)
        else Fault(f"the row has no more than {len(row)} fields")
        for row in _rows(path, map(_decoded, io.BytesIO(data)))
    ]


def _raw(piece: Slice) -> bytes:
    try:
        with Path(piece.path).open("rb") as stream:
            stream.seek(piece.offset)
            data = stream.read(piece.size_bytes)
    except OSError as error:
        raise ScoreError(
            f"{piece.path!r} cannot be read ({error.strerror})",
            wanted="the data at the same path on every machine",
            todo="put it on a file system that all of them share",
        ) from error
    if hashlib.sha256(data).hexdigest() != piece.sha256:
        raise changed(piece)
    return data if piece.offset else data.removeprefix(_MARK)


def _lines(data: bytes) -> Iterator[bytes]:
    # Only \n ends a line: bytes.splitlines would also cut at a single \r.
    return (line.removesuffix(b"\n").removesuffix(b"\r") for line in io.BytesIO(data))


def changed(piece: Slice) -> ScoreError:
    """The error for a file that is no longer what it was when it was cut."""
    return ScoreError(
        f"rows {piece.start} to {piece.start + piece.rows - 1} of {piece.path!r} have changed"
        " since the data were read",
        wanted="data that stay as they are, the same on every machine",
        todo="run again once nothing writes to them",
    )


def _text(line: bytes) -> Row | Fault:
    # Blanks stay: many tokenizers tell a word at the beginning from one after a blank.
    fields = tuple(_decoded(line).split("\t"))
    if len(fields) > 2:
        return Fault(f"the line has {len(fields)} tab-separated fields, not one or two")
    return text_row(fields)


def _json(line: bytes, columns: Columns) -> Row | Fault:
    if not line.strip():
        return Fault("the line is empty")
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:  # ValueError: bad JSON, bad UTF-8, huge integer
        return Fault(f"the line is not JSON ({error})")
    if isinstance(value, dict):
        missing = [name for name in columns.names if name not in value]
        if missing:
            return Fault(f"the line has no {missing[0]!r}")
        return text_row(tuple(value[name] for name in columns.names))
    if isinstance(value, list):
        wrong = Fault(f"the list has {len(value)} elements, not one or two")
        return text_row(tuple(value)) if len(value) in (1, 2) else wrong
    return text_row((value,))


def _decoded(line: bytes) -> str:
    return line.decode("utf-8", _DECODING)


def _unmarked(lines: Iterable[bytes]) -> Iterator[str]:
    """Text without the byte order mark, which would hide the quote of the first field."""
    for number, line in enumerate(lines):
        yield _decoded(line if number else line.removeprefix(_MARK))


def _rows(path: Path, lines: Iterable[str]) -> Iterator[list[str]]:
    """Rows of a table but the empty ones; a row takes no more lines than it needs."""
    comma = "\t" if path.suffix.lower() == ".tsv" else ","
    try:
        # strict: else a quote that is never closed would swallow the rest of the file.
        yield from filter(None, csv.reader(lines, delimiter=comma, strict=True))
    except csv.Error as error:
        raise ScoreError(
            f"{str(path)!r} cannot be read as a table ({error})",
            wanted=f"fields below {csv.field_size_limit()} characters, every quote closed",
            todo="mend that file, or write it as .jsonl",
        ) from error


def _places(path: Path, head: bytes | Iterable[bytes], columns: Columns) -> list[int]:
    lines = io.BytesIO(head) if isinstance(head, bytes) else head
    names = next(_rows(path, _unmarked(lines)), [])
    missing = [name for name in columns.names if name not in names]
    if missing:
        raise no_column(path, missing[0], names)
    return [names.index(name) for name in columns.names]


def no_column(path: Path, missing: str, names: Iterable[str]) -> ScoreError:
    """The error for a table without a column that was asked for."""
    return ScoreError(
        f"{str(path)!r} has no column {missing!r}",
        wanted=f"one of {', '.join(map(repr, names)) or 'its columns (it has none)'}",
        todo="name it with --column (and --pair-column)",
    )
