"""Texts to tokens: the `tokenizers` library alone where it can, transformers where it must.

Importing transformers costs seconds, so it is loaded only for a tokenizer without `tokenizer.json`.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trt_int8 import optional
from trt_int8.errors import BundleError, RequestError, first_line
from trt_int8.spec.text import TextSettings

FAST_FILE, CONFIGURED_FILE = "tokenizer.json", "tokenizer_config.json"
# Tokens that windows share (BERT's run_squad calls it doc_stride).
_STRIDE = 128
# One text, or a pair of them.
Texts = tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """Where tokens come from in the text.

    Attributes:
        offsets: per token its first character and the one after its last, in its own text.
        words: per token the number of its word; None for special tokens.
        parts: per token 0 or 1 for the first or second text; None for special tokens.
    """

    offsets: tuple[tuple[int, int], ...]
    words: tuple[int | None, ...]
    parts: tuple[int | None, ...]

    def continues(self, index: int, text: str) -> bool:
        """Whether a token goes on with the word of the one before it.

        Some tokenizers take a whole text for one word, so white space between two tokens, or at
        the beginning of the second, separates words too.
        """
        if index == 0 or self.words[index] is None:
            return False
        before = (self.parts[index - 1], self.words[index - 1])
        if before != (self.parts[index], self.words[index]):
            return False
        between = text[self.offsets[index - 1][1] : self.offsets[index][0] + 1]
        return not any(character.isspace() for character in between)


@dataclass(frozen=True, eq=False)
class Encoded:
    """One text, pair or window as the model reads it, without padding.

    Attributes:
        ids: vocabulary numbers, int64 [S], special tokens included.
        type_ids: int64 [S]: 0 for the first text, 1 for the second (if the model tells them apart).
        cut: tokens that were left out because the text was too long.
        whole: the tokenizer's own result, if it knows places; its lists are made when asked for.
    """

    ids: NDArray[np.int64]
    type_ids: NDArray[np.int64]
    cut: int = 0
    whole: Any = None

    @property
    def layout(self) -> Layout:
        """Where the tokens come from.

        Raises:
            RequestError: the tokenizer cannot tell.
        """
        if self.whole is None:
            raise RequestError(
                "the tokenizer gives no character offsets",
                wanted="one with tokenizer.json",
                todo="convert it, and pass tokenizer=FOLDER",
            )
        found = self.whole
        return Layout(tuple(found.offsets), tuple(found.word_ids), tuple(found.sequence_ids))


class TextTokenizer(Protocol):
    """Makes tokens; any number of threads may call it at once."""

    def encode(self, items: Sequence[Texts]) -> list[Encoded]:
        """Tokens of each text or pair, cut to the longest the model takes."""

    def windows(self, question: str, context: str, stride: int | None) -> list[Encoded]:
        """A question with a context, in as many overlapping windows as the context needs.

        Args:
            question: kept whole in each window.
            context: shared out; every token of it is in a window.
            stride: tokens of the context that two windows share; None for 128 (as in BERT's
                run_squad), or half of a window's context if that is less.

        Raises:
            RequestError: the question leaves no room.
        """


def load_tokenizer(
    folder: Path, settings: TextSettings, *, as_configured: bool = False
) -> TextTokenizer:
    """Load a tokenizer from its files.

    Args:
        folder: with the files.
        settings: how texts are cut.
        as_configured: `tokenizer_config.json` may ask for what `tokenizer.json` does not do
            (another case, say); transformers knows how to obey, where it is installed. The files
            of a bundle need no such care: a build tries them.

    Raises:
        BundleError: they are missing or damaged.
    """
    file = folder / FAST_FILE
    if as_configured and file.is_file() and (configured := _configured(folder)) is not None:
        return FastTokenizer(configured, settings)
    if file.is_file():
        try:
            loaded = optional.load("tokenizers").Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises the bare class
            if type(error) is not Exception:
                raise
            raise _damaged(folder, error) from error
        return FastTokenizer(loaded, settings)
    transformers = optional.load("transformers")
    try:
        # Without the last one transformers would ask on the terminal whether to run Python code.
        known = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, error) from error
    backend = getattr(known, "backend_tokenizer", None)
    return SlowTokenizer(known, settings) if backend is None else FastTokenizer(backend, settings)


def _configured(folder: Path) -> Any:
    """What transformers makes of `tokenizer.json` by its configuration; None if it cannot tell."""
    if not ((folder / CONFIGURED_FILE).is_file() and optional.is_installed("transformers")):
        return None
    try:
        known = optional.load("transformers").AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception:  # noqa: BLE001 - it raises nearly anything, and the file alone may do
        return None
    return getattr(known, "backend_tokenizer", None)


def _damaged(folder: Path, error: Exception) -> BundleError:
    return BundleError(
        f"the tokenizer in {str(folder)!r} cannot be loaded ({first_line(error)})",
        wanted="tokenizer.json, or files that transformers reads",
        todo="build the bundle again, or pass tokenizer=FOLDER",
    )


class FastTokenizer:
    """A tokenizer of the `tokenizers` library."""

    def __init__(self, tokenizer: Any, settings: TextSettings) -> None:
        """Take over `tokenizer`, which nobody else may use: its options are changed."""
        self._limit = settings.max_tokens
        self._side = settings.truncation_side
        self._extra = [tokenizer.num_special_tokens_to_add(pair) for pair in (False, True)]
        # Windows and cuts are made before special tokens are added, which is done by hand: the
        # byte-level processors trim offsets each time they run, and must run once.
        self._processor = tokenizer.post_processor
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.post_processor = None
        self._tokenizer = tokenizer

    def encode(self, items: Sequence[Texts]) -> list[Encoded]:
        """Tokens of each text or pair; the longer of a pair is cut first."""
        flat = [text for item in items for text in item]
        parts = iter(self._tokenizer.encode_batch(flat, add_special_tokens=False))
        return [self._fitted([next(parts) for _ in item]) for item in items]

    def windows(self, question: str, context: str, stride: int | None) -> list[Encoded]:
        """Question and context, in windows that share `stride` tokens of the context."""
        asked, given = self._tokenizer.encode_batch([question, context], add_special_tokens=False)
        if self._limit is None:
            return [self._encoded([asked, given])]
        room = self._limit - self._extra[True] - len(asked.ids)
        stride = min(_STRIDE, room // 2) if stride is None else stride
        if room < 1 or (stride >= room and len(given.ids) > room):
            raise RequestError(
                f"the question has {len(asked.ids)} tokens, which leaves {max(room, 0)} for the"
                f" context, with a stride of {stride}",
                wanted=f"both to fit {self._limit} tokens, and a stride below what is left",
                todo="shorten the question, or lower stride",
            )
        if len(given.ids) > room:
            given.truncate(room, stride=stride)
        return [self._encoded([asked, window]) for window in (given, *given.overflowing)]

    def _fitted(self, parts: list[Any]) -> Encoded:
        sizes = [len(part.ids) for part in parts]
        if self._limit is None:
            return self._encoded(parts)
        room = self._limit - self._extra[len(parts) - 1]
        kept = cut_sizes(sizes, max(room, 0))
        for part, size, wanted in zip(parts, sizes, kept, strict=True):
            if wanted < size:
                part.truncate(wanted, direction=self._side)
        return self._encoded(parts, sum(sizes) - sum(kept))

    def _encoded(self, parts: list[Any], cut: int = 0) -> Encoded:
        first, second = parts[0], parts[1] if len(parts) == 2 else None
        if self._processor is not None:
            whole = self._processor.process(first, second, add_special_tokens=True)
        else:
            whole = self._tokenizer.post_process(first, second, add_special_tokens=True)
        return Encoded(_numbers(whole.ids), _numbers(whole.type_ids), cut, whole)


def cut_sizes(sizes: list[int], room: int) -> list[int]:
    """Tokens that stay of one text, or of each of a pair, so that all fit.

    Of a pair the longer is shortened to the length of the other, then both alike; an odd token
    goes to the longer, or else the second (transformers' `longest_first`).
    """
    if sum(sizes) <= room:
        return sizes
    if len(sizes) == 1:
        return [room]
    short, half = min(sizes), room // 2
    kept_short = min(short, half)
    kept_long = room - kept_short
    return [kept_long, kept_short] if sizes[0] > sizes[1] else [kept_short, kept_long]


class SlowTokenizer:
    """A tokenizer that only transformers has, written in Python; it knows no character places."""

    def __init__(self, tokenizer: Any, settings: TextSettings) -> None:
        """Take over `tokenizer`."""
        self._tokenizer, self._limit = tokenizer, settings.max_tokens
        tokenizer.truncation_side = settings.truncation_side
        self._lock = threading.Lock()

    def encode(self, items: Sequence[Texts]) -> list[Encoded]:
        """Tokens of each text or pair; the longer of a pair is cut first."""
        with self._lock:
            return [self._encoded(item) for item in items]

    def windows(self, question: str, context: str, stride: int | None) -> list[Encoded]:
        """One window: without places in the text there are no answers to find."""
        return self.encode([(question, context)])

    def _encoded(self, item: Texts) -> Encoded:
        whole = self._tokenizer(*item, return_token_type_ids=True, verbose=False)
        kept, limit = whole, self._limit
        if limit is not None and len(whole["input_ids"]) > limit:
            options = {"truncation": True, "max_length": limit, "return_token_type_ids": True}
            kept = self._tokenizer(*item, **options)
        ids, types = kept["input_ids"], kept.get("token_type_ids")
        types = types or [0] * len(ids)
        return Encoded(_numbers(ids), _numbers(types), len(whole["input_ids"]) - len(ids))


def _numbers(values: list[int]) -> NDArray[np.int64]:
    return np.array(values, np.int64)
