"""Calibration texts: reading, splitting, tokenizing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_int8.errors import CalibrationError

TokenArrays = dict[str, NDArray[np.int64]]
HELD_OUT_EVERY = 4
# Three models run on each held-out text. The cosines of texts scatter by less than 0.01, so their
# mean over 512 is good to 0.0005: more texts would only cost time.
MAX_HELD_OUT = 512
_REMEDY = "pass --calib FILE with one sentence, or a tab-separated pair, per line (a few hundred)"


@dataclass(frozen=True)
class Texts:
    """Texts in file order; each is one sentence or a pair.

    Attributes:
        items: (sentence,) or (first, second).
        origin: the file they came from.
    """

    items: tuple[tuple[str, ...], ...]
    origin: str


def builtin_texts() -> Path:
    """The English sentences shipped with the package."""
    return Path(__file__).parent.parent / "data" / "sentences.txt"


def read_texts(path: Path) -> Texts:
    """Read one sentence, or one tab-separated pair, per line; blank lines are skipped.

    Raises:
        CalibrationError: the file is missing, binary, empty, has only blank lines, or too few.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise CalibrationError(
            f"calibration file {str(path)!r} cannot be read ({error.strerror})",
            wanted="a text file",
            todo=_REMEDY,
        ) from error
    if not raw:
        raise CalibrationError(
            f"calibration file {str(path)!r} is empty", wanted="text", todo=_REMEDY
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CalibrationError(
            f"calibration file {str(path)!r} is not UTF-8 (byte {error.start})",
            wanted="a text file in UTF-8",
            todo=_REMEDY,
        ) from error
    if "\0" in text:
        raise CalibrationError(
            f"calibration file {str(path)!r} is binary", wanted="a text file in UTF-8", todo=_REMEDY
        )
    return Texts(_items(text, path), str(path))


def _items(text: str, path: Path) -> tuple[tuple[str, ...], ...]:
    items = []
    for number, line in enumerate(re.split(r"\r?\n", text), start=1):
        fields = tuple(field.strip() for field in line.split("\t"))
        if not any(fields):
            continue
        if len(fields) > 2 or not all(fields):
            raise CalibrationError(
                f"line {number} of {str(path)!r} has {len(fields)} tab-separated fields"
                f"{'' if all(fields) else ', one of them empty'}",
                wanted="a sentence or a pair",
                todo=_REMEDY,
            )
        items.append(fields)
    if not items:
        raise CalibrationError(
            f"all lines of calibration file {str(path)!r} are empty", wanted="text", todo=_REMEDY
        )
    if len(items) < 2:
        raise CalibrationError(
            f"calibration file {str(path)!r} has one text",
            wanted="at least 2 (one is held out to measure accuracy)",
            todo=_REMEDY,
        )
    return tuple(items)


def split(texts: Texts, max_samples: int) -> tuple[Texts, Texts]:
    """Split into calibration and held-out texts: every fourth different text is held out.

    Returns:
        At most `max_samples` texts to calibrate with, and at most 512 held-out ones; in file
        order, without repetitions, never overlapping.

    Raises:
        CalibrationError: all texts are the same.
    """
    items = tuple(dict.fromkeys(texts.items))
    if len(items) < 2:
        raise CalibrationError(
            f"all texts of {texts.origin!r} are the same", wanted="different texts", todo=_REMEDY
        )
    step = min(HELD_OUT_EVERY, len(items))
    held = items[step - 1 :: step][:MAX_HELD_OUT]
    used = tuple(item for i, item in enumerate(items, start=1) if i % step)[:max_samples]
    return Texts(used, texts.origin), Texts(held, texts.origin)


def tokenize(
    tokenizer: Any, texts: Texts, names: Iterable[str], max_length: int
) -> list[TokenArrays]:
    """Tokenize each text alone, cut to `max_length` tokens: int64 [1, S] per input name."""
    wanted = tuple(names)
    arrays = []
    for item in texts.items:
        encoded: Mapping[str, Any] = tokenizer(
            *item, truncation=True, max_length=max_length, return_tensors="np"
        )
        arrays.append({name: np.asarray(encoded[name], np.int64) for name in wanted})
    return arrays


def batches_of_one_length(tokens: list[TokenArrays], batch_size: int) -> list[TokenArrays]:
    """Group texts of the same token count, so that no padding ever enters the statistics.

    Returns:
        int64 [B, S] per input name; B <= batch_size; ordered by S, then by file order.
    """
    by_length: dict[int, list[TokenArrays]] = {}
    for item in tokens:
        by_length.setdefault(next(iter(item.values())).shape[1], []).append(item)
    return [
        _stack(chunk)
        for _, same in sorted(by_length.items())
        for chunk in _chunks(same, batch_size)
    ]


def padded_batches(
    tokens: list[TokenArrays], batch_size: int, length: int, padding: Mapping[str, int]
) -> list[TokenArrays]:
    """Group texts in file order and fill each up to `length` tokens, as an application would.

    Args:
        tokens: int64 [1, S] per input name, S <= length.
        batch_size: texts per batch.
        length: tokens per text.
        padding: what to fill each input with; 0 where it says nothing.

    Returns:
        int64 [B, length] per input name; `attention_mask` is 0 at the padding.

    Raises:
        CalibrationError: there is no attention mask, so the model could not ignore the padding.
    """
    if tokens and "attention_mask" not in tokens[0]:
        raise CalibrationError(
            f"pad_to = {length} with a model that reads only {', '.join(tokens[0])}",
            wanted="an input attention_mask",
            todo="leave pad_to out of the recipe",
        )

    def filled(name: str, array: NDArray[np.int64]) -> NDArray[np.int64]:
        value = 0 if name == "attention_mask" else padding.get(name, 0)
        missing = length - array.shape[1]
        return np.pad(array, ((0, 0), (0, missing)), constant_values=value)

    return [
        {name: np.concatenate([filled(name, item[name]) for item in chunk]) for name in chunk[0]}
        for chunk in _chunks(tokens, batch_size)
    ]


def _chunks(items: list[TokenArrays], size: int) -> Iterator[list[TokenArrays]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _stack(items: list[TokenArrays]) -> TokenArrays:
    return {name: np.concatenate([item[name] for item in items]) for name in items[0]}
