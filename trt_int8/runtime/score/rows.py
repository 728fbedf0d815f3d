"""One row of a data set, and the pieces a data set is cut into."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from trt_int8.spec.base import Frozen

Text = tuple[str, ...]
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Fault:
    """Why a row cannot be scored."""

    reason: str


# A text or a pair of them; or one array per input of the model, without the axis of samples.
Row = Text | Arrays


@dataclass(frozen=True)
class Columns:
    """Where the texts are in files with named columns.

    Attributes:
        first: column of the text.
        second: column of its partner; None if rows are single texts.
    """

    first: str = "text"
    second: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The columns in the order the model reads them."""
        return (self.first,) if self.second is None else (self.first, self.second)


class DataFile(Frozen):
    """One input file.

    Attributes:
        name: its name without folders.
        sha256: of its bytes.
        size_bytes: its size.
        rows: how many it holds, those that cannot be scored included.
    """

    name: str
    sha256: str
    size_bytes: int
    rows: int


@dataclass(frozen=True)
class Slice:
    """Neighbouring rows of one file.

    Attributes:
        path: of the file.
        start: number of the first row in the file, from 0.
        rows: how many.
        offset: first byte of a text file; 0 elsewhere.
        size_bytes: number of bytes; of the whole file where rows are not runs of bytes.
        sha256: of these bytes.
    """

    path: str
    start: int
    rows: int
    offset: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Part:
    """Rows that are scored together and become one file of the results.

    Attributes:
        number: from 0, in the order of the data.
        start: number of its first row in the data set, from 0.
        slices: where its rows are.
    """

    number: int
    start: int
    slices: tuple[Slice, ...]

    @property
    def rows(self) -> int:
        """Number of rows, those that cannot be scored included."""
        return sum(each.rows for each in self.slices)


def text_row(fields: tuple[object, ...]) -> Row | Fault:
    """Check that the fields of a row are texts that a tokenizer takes; empty texts are texts."""
    texts = []
    for field in fields:
        if not isinstance(field, str):
            return Fault(f"the text is {type(field).__name__}, not a string")
        try:
            # Bytes that are not UTF-8 arrive as halves of surrogate pairs, as JSON may write them.
            field.encode()
        except UnicodeEncodeError:
            return Fault("the text is not UTF-8")
        texts.append(field)
    return tuple(texts)
