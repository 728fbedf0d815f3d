"""What a scorer says of rows, and the bytes it becomes in a file of the results."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from trt_int8 import optional
from trt_int8.errors import ScoreError
from trt_int8.runtime.score.rows import Fault, Row
from trt_int8.spec.base import Frozen

Format = Literal["npy", "npz", "jsonl", "parquet"]
FORMATS: tuple[Format, ...] = ("npy", "npz", "jsonl", "parquet")
# Answer of one row: arrays by output name, or what can be written as JSON.
Answer = Mapping[str, Any]


class Tally(Frozen):
    """How much was computed.

    Attributes:
        tokens: real tokens of the rows that were scored.
        padded_tokens: the same with the padding of their batches.
        batches: how many.
    """

    tokens: int = 0
    padded_tokens: int = 0
    batches: int = 0

    def __add__(self, other: Tally) -> Tally:
        """Both together."""
        return Tally(
            tokens=self.tokens + other.tokens,
            padded_tokens=self.padded_tokens + other.padded_tokens,
            batches=self.batches + other.batches,
        )

    @property
    def padding_share(self) -> float:
        """Share of computed tokens that are padding, 0 to 1."""
        return 1 - self.tokens / self.padded_tokens if self.padded_tokens else 0.0


@dataclass(frozen=True)
class Scored:
    """Answers to a list of rows.

    Attributes:
        answers: one per row, in their order.
        tally: what was computed.
    """

    answers: list[Answer | Fault]
    tally: Tally = field(default_factory=Tally)


class Scorer(Protocol):
    """A loaded model that answers rows.

    Attributes:
        backend: package and version that runs the model.
        shapes: per output that every row has as an array its shape and NumPy type; empty if
            answers are records only.
        example: an answer, or the parts of it that are not in `shapes`; a table's columns have its
            types, also in a part where no row could be scored.
    """

    backend: str
    shapes: Mapping[str, tuple[tuple[int, ...], str]]
    example: Answer

    def score(self, rows: list[Row]) -> Scored:
        """Answer rows.

        Raises:
            TrtInt8Error: the model cannot be run at all; what is wrong with one row is a fault.
        """

    def close(self) -> None:
        """Free everything."""


class RowFault(Frozen):
    """A row that could not be scored.

    Attributes:
        row: its number in the data set, from 0.
        error: why.
    """

    row: int
    error: str


def encode(
    answers: list[Answer | Fault],
    start: int,
    form: Format,
    shapes: Mapping[str, tuple[tuple[int, ...], str]],
    example: Answer = MappingProxyType({}),
) -> bytes:
    """The file of a part.

    Args:
        answers: one per row.
        start: number of the first row.
        form: `npy` array [rows, ...] of the only output; `npz` such an array per output, by name;
            `jsonl` an object per row with `row` and the answer or `error`; `parquet` the same as a
            table. In arrays a row that could not be scored is NaN (0 in integer arrays).
        shapes: of the arrays.
        example: see `Scorer`.

    Raises:
        ScoreError: the answers are no arrays, or several, and `form` cannot hold that.
    """
    check_format(form, shapes)
    if form == "jsonl":
        return b"".join(_line(record) for record in _records(answers, start))
    if form == "parquet":
        arrays = {name: np.empty((0,) * len(shape), kind) for name, (shape, kind) in shapes.items()}
        return _parquet(answers, start, {**example, **arrays})
    stacked = {name: _stacked(answers, name, *shapes[name]) for name in shapes}
    if form == "npy":
        return _array_bytes(next(iter(stacked.values())))
    buffer = io.BytesIO()
    # np.savez would refuse an output that is called `file`.
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in stacked.items():
            # With the fixed date of ZipInfo, equal arrays give equal bytes.
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), _array_bytes(array))
    return buffer.getvalue()


def _array_bytes(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def check_format(form: Format, shapes: Mapping[str, object]) -> None:
    """Refuse a format that cannot hold the answers.

    Raises:
        ScoreError: as said.
    """
    if form in ("jsonl", "parquet") or (form == "npz" and shapes) or len(shapes) == 1:
        return
    if shapes:
        came = f"the model has {len(shapes)} outputs ({', '.join(shapes)})"
    else:
        came = "answers of this model have no fixed shape"
    raise ScoreError(
        f"{came}, which {form} cannot hold",
        wanted="npz or jsonl" if shapes else "jsonl",
        todo=f"pass --format {'npz' if shapes else 'jsonl'}",
    )


def _stacked(
    answers: list[Answer | Fault], name: str, shape: tuple[int, ...], dtype: str
) -> NDArray[Any]:
    kind = np.dtype(dtype)
    filled = np.full((len(answers), *shape), np.nan if kind.kind == "f" else 0, kind)
    for index, answer in enumerate(answers):
        if not isinstance(answer, Fault):
            filled[index] = answer[name]
    return filled


def _records(answers: list[Answer | Fault], start: int) -> Iterator[dict[str, Any]]:
    for number, answer in enumerate(answers, start=start):
        content = {"error": answer.reason} if isinstance(answer, Fault) else dict(answer)
        yield {"row": number, **content}


def _line(record: dict[str, Any]) -> bytes:
    text = json.dumps({name: _plain(value) for name, value in record.items()}, ensure_ascii=False)
    return f"{text}\n".encode()


def _plain(value: Any) -> Any:
    if not isinstance(value, (np.ndarray, np.generic)):
        return _finite(value)
    if value.dtype == np.float32:
        # The shortest decimal that gives the same float32 again; a plain cast would print float64.
        value = value.astype(str).astype(np.float64)
    return _finite(value.tolist())


def _finite(value: Any) -> Any:
    """NaN and infinity as strings: JSON (RFC 8259) has no such numbers."""
    if isinstance(value, list):
        return [_finite(each) for each in value]
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _parquet(answers: list[Answer | Fault], start: int, example: Answer) -> bytes:
    """A table whose columns do not depend on the answers, so that parts can be read as one."""
    arrow = optional.load("pyarrow")
    given = (name for answer in answers if not isinstance(answer, Fault) for name in answer)
    columns: dict[str, Any] = {"row": np.arange(start, start + len(answers), dtype=np.int64)}
    for name in dict.fromkeys((*example, *given)):
        values = (None if isinstance(a, Fault) else a.get(name) for a in answers)
        listed = [v.tolist() if isinstance(v, np.ndarray) else v for v in values]
        kind = _column_type(arrow, example[name]) if name in example else None
        columns[name] = arrow.array(listed, kind)
    columns["error"] = arrow.array(
        [a.reason if isinstance(a, Fault) else None for a in answers], arrow.string()
    )
    sink = arrow.BufferOutputStream()
    optional.load("pyarrow.parquet").write_table(arrow.table(columns), sink)
    return bytes(sink.getvalue())


def _column_type(arrow: Any, value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return arrow.array([value]).type
    kind = arrow.from_numpy_dtype(value.dtype)
    for _ in range(value.ndim):
        kind = arrow.list_(kind)
    return kind
