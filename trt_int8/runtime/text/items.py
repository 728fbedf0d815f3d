"""What a caller may pass as text, checked once at the border."""

from __future__ import annotations

import re
from collections.abc import Iterable

from trt_int8.errors import RequestError
from trt_int8.runtime.text.tokens import Texts

# One text, or a pair.
Item = str | tuple[str, str]
_SURROGATE = re.compile("[\ud800-\udfff]")


def check_collection(texts: object) -> None:
    """Refuse one text where several are wanted: its characters would count as texts.

    Raises:
        RequestError: saying so.
    """
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable):
        raise RequestError(
            f"texts is {_kind(texts)}", wanted="a list of texts", todo="put it into a list"
        )


def as_texts(item: object, index: int, *, pairs: bool = True) -> Texts:
    """One text or pair, as a tuple of one or two.

    Args:
        item: what the caller gave. Empty texts are texts.
        index: its place among the others, for messages.
        pairs: whether a pair will do.

    Raises:
        RequestError: it is neither, or holds half a surrogate pair, which no encoding of text has.
    """
    parts = item if isinstance(item, (tuple, list)) else (item,)
    shapes = (1, 2) if pairs else (1,)
    wrong = [part for part in parts if not isinstance(part, str)]
    if wrong or len(parts) not in shapes:
        is_pair = parts is item and len(parts) in shapes
        came = f"a pair with {_kind(wrong[0])}" if is_pair else _kind(item)
        raise RequestError(
            f"text {index} is {came}",
            wanted="a str, or a tuple of two" if pairs else "a str",
            todo="convert it first",
        )
    for part in parts:
        found = _SURROGATE.search(part)
        if found is not None:
            raise RequestError(
                f"text {index} has a lone surrogate (U+{ord(found[0]):04X}) at character"
                f" {found.start()}",
                wanted="text that UTF-8 can hold",
                todo="decode it with errors='replace'",
            )
    return tuple(parts)


def _kind(value: object) -> str:
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return "None" if value is None else f"a {type(value).__name__}"
