"""What `trt-int8 run` writes for programs: JSON lines, or a NumPy file."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from trt_int8.errors import SessionError
from trt_int8.runtime.text.items import Item
from trt_int8.runtime.text.stream import TextResult
from trt_int8.spec.text import Task

_NAMES: dict[Task, str] = {
    "classification": "labels",
    "token-classification": "tags",
    "question-answering": "answers",
}


def json_lines(
    task: Task, items: Sequence[Item], results: Iterable[TextResult[Any]]
) -> Iterator[str]:
    """A line per text: `index`, `text` (a pair is a list), `tokens`, `cut`, and its result.

    The result is `embedding`, a list of numbers that give the same float32 again, or a list of
    objects: `labels`, `tags` or `answers`.

    Raises:
        TrtInt8Error: of the first text that failed, or whose result is no number.
    """
    for result in results:
        value = result.get()
        record: dict[str, Any] = {
            "index": result.index,
            "text": items[result.index],
            "tokens": result.tokens,
            "cut": result.cut,
        }
        record |= _fields(task, value)
        try:
            line = json.dumps(record, ensure_ascii=False, allow_nan=False)
        except ValueError as error:
            raise SessionError(
                f"the model gave infinity or NaN for text {result.index}",
                wanted="numbers, as JSON has them",
                todo="look into the bundle's report.html, or try --precision fp16",
            ) from error
        yield f"{line}\n"


def _fields(task: Task, value: Any) -> dict[str, Any]:
    if isinstance(value, np.ndarray):
        # The shortest digits that give the same float32, not those of the float64 of its value.
        return {"embedding": [float(str(number)) for number in value]}
    return {_NAMES[task]: [asdict(each) for each in value]}


def write_results(
    path: Path, task: Task, items: Sequence[Item], results: Iterable[TextResult[Any]]
) -> int:
    """Write all results, as they come, to a file that appears whole or not at all.

    Args:
        path: `.npy` for embeddings, float32 [number of texts, H]; else JSON lines.
        task: of the model.
        items: the texts.
        results: one for each of them.

    Returns:
        How many.

    Raises:
        TrtInt8Error: of the first text that failed; an old file stays as it was.
        OSError: the file cannot be written.
    """
    with _whole(path) as partial:
        if path.suffix == ".npy":
            return _write_vectors(partial, len(items), results)
        with partial.open("w", encoding="utf-8", newline="\n") as stream:
            count = 0
            for line in json_lines(task, items, results):
                stream.write(line)
                count += 1
            return count


def _write_vectors(path: Path, count: int, results: Iterable[TextResult[Any]]) -> int:
    table: Any = None
    for result in results:
        vector = result.get()
        if table is None:
            shape = (count, len(vector))
            table = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        table[result.index] = vector
    if table is not None:
        table.flush()
    return count


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A place beside `path` that becomes it when the block ends without an error."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
