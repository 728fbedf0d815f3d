"""Protocol Buffers' text format, as far as a Triton model configuration needs it.

Format: https://protobuf.dev/reference/protobuf/textformat-spec/
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

_INDENT = "  "


@dataclass(frozen=True)
class Name:
    """A value of an enumeration, which is written without quotes."""

    text: str


Scalar: TypeAlias = "str | int | bool | Name"
Value: TypeAlias = "Scalar | Message | Sequence[Value]"
Message: TypeAlias = Mapping[str, Value]


def write_text(message: Message) -> str:
    """A message in text format, one field a line, in the order given.

    A list becomes a repeated field: of scalars in one pair of brackets, of messages one after the
    other. An empty list is left out; an empty message is written, for it says that it is there.

    Args:
        message: values by field name; a map field is what `entries` makes of it.

    Returns:
        ASCII text that ends with a newline.
    """
    return "".join(f"{line}\n" for line in _lines(message, ""))


def entries(table: Mapping[str, Value]) -> list[Message]:
    """A map field, in the order of the table."""
    return [{"key": key, "value": value} for key, value in table.items()]


def _lines(message: Message, indent: str) -> Iterator[str]:
    for field, value in message.items():
        if isinstance(value, Mapping):
            yield from _block(field, value, indent)
        elif isinstance(value, (str, int, Name)):
            yield f"{indent}{field}: {_scalar(value)}"
        else:
            yield from _repeated(field, value, indent)


def _repeated(field: str, values: Sequence[Value], indent: str) -> Iterator[str]:
    scalars = [_scalar(value) for value in values if isinstance(value, (str, int, Name))]
    if scalars:
        yield f"{indent}{field}: [{', '.join(scalars)}]"
    for value in values:
        if isinstance(value, Mapping):
            yield from _block(field, value, indent)


def _block(field: str, message: Message, indent: str) -> Iterator[str]:
    inner = list(_lines(message, indent + _INDENT))
    if not inner:
        yield f"{indent}{field} {{}}"
        return
    yield f"{indent}{field} {{"
    yield from inner
    yield f"{indent}}}"


def _scalar(value: Scalar) -> str:
    if isinstance(value, Name):
        return value.text
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else f'"{_escaped(value)}"'


def _escaped(text: str) -> str:
    """Bytes of UTF-8; all but printable ASCII as three octal digits."""
    plain = range(0x20, 0x7F)
    return "".join(
        chr(byte) if byte in plain and byte not in b'"\\' else f"\\{byte:03o}"
        for byte in text.encode("utf-8")
    )
