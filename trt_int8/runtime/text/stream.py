"""Any number of texts through a session: tokens in, outputs out, in the order they came."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from trt_int8.errors import RequestError, TrtInt8Error
from trt_int8.runtime.backend import Feeds, Outputs
from trt_int8.runtime.tensors import Signature
from trt_int8.runtime.text.items import as_texts
from trt_int8.runtime.text.tokens import Encoded, Texts, TextTokenizer

T = TypeVar("T")
# Texts tokenized in one call: enough for all cores, few enough to begin at once.
_CHUNK = 64
MAKES = ("input_ids", "attention_mask", "token_type_ids")
Progress = Callable[[int], object]


class Mapper(Protocol):
    """What a `Session` is for texts."""

    @property
    def signature(self) -> Signature:
        """Inputs and outputs of the model."""

    def map(
        self, requests: Iterable[Feeds], *, max_batch_tokens: int | None = None
    ) -> Iterable[Any]:
        """Run samples, arrays without batch axis; answers with `outputs` or `error`, in order."""

    def close(self) -> None:
        """Free everything."""


@dataclass(frozen=True)
class TextResult(Generic[T]):
    """What became of one text.

    Attributes:
        index: its place among the texts, from 0.
        value: the result; None if it failed.
        error: why it failed; None if it did not.
        tokens: tokens that the model read, special ones included; of all windows.
        cut: tokens left out because the text was too long.
    """

    index: int
    value: T | None
    error: Exception | None
    tokens: int = 0
    cut: int = 0

    def get(self) -> T:
        """The value.

        Raises:
            Exception: the error, if the text failed.
        """
        if self.error is not None:
            raise self.error
        assert self.value is not None
        return self.value


@dataclass(frozen=True)
class TextStatistics:
    """What went through a text session since it was opened.

    Attributes:
        texts: texts and pairs, failed ones too.
        tokens: tokens that the model read, without padding.
        cut_texts: texts that were too long.
        cut_tokens: tokens left out of them.
        failed: texts that gave an error.
    """

    texts: int = 0
    tokens: int = 0
    cut_texts: int = 0
    cut_tokens: int = 0
    failed: int = 0

    def plus(self, result: TextResult[Any]) -> TextStatistics:
        """With one more text."""
        return TextStatistics(
            texts=self.texts + 1,
            tokens=self.tokens + result.tokens,
            cut_texts=self.cut_texts + bool(result.cut),
            cut_tokens=self.cut_tokens + result.cut,
            failed=self.failed + (result.error is not None),
        )


@dataclass(frozen=True)
class Job(Generic[T]):
    """What is wanted of every text.

    Attributes:
        read: makes the result from the text, its tokens and the model's outputs, one of both for
            each window. Outputs have no batch axis.
        split: tokens of each text; None for one window each.
        pairs: whether a pair will do.
        truncate: cut texts that are too long; else they are errors.
        progress: called with a number of texts that are done.
    """

    read: Callable[[Texts, list[Encoded], list[Outputs]], T]
    split: Callable[[Texts], list[Encoded]] | None = None
    pairs: bool = True
    truncate: bool = True
    progress: Progress | None = None


@dataclass
class _Waiting:
    """A text whose answers are not all there yet."""

    index: int
    texts: Texts = ()
    parts: list[Encoded] = field(default_factory=list)
    outputs: list[Outputs] = field(default_factory=list)
    error: Exception | None = None
    answered: int = 0

    @property
    def done(self) -> bool:
        return self.answered == len(self.parts)


class TextStream:
    """Sends texts through a session; any number of threads may do so at once."""

    def __init__(
        self, session: Mapper, tokenizer: TextTokenizer, max_batch_tokens: int | None = None
    ) -> None:
        """Check that a tokenizer makes all that the model reads.

        Raises:
            RequestError: the model has an input that no tokenizer makes.
        """
        self._session, self._tokenizer = session, tokenizer
        self._max_batch_tokens = max_batch_tokens
        signature = session.signature
        self._inputs = {
            given.name: (_kind(given.name), np.dtype(given.dtype)) for given in signature.inputs
        }
        unknown = [name for name, (kind, _) in self._inputs.items() if kind not in MAKES]
        if unknown:
            raise RequestError(
                f"the model reads {', '.join(map(repr, unknown))}",
                wanted=f"no other inputs than {', '.join(MAKES)}",
                todo="use Session, and give it arrays",
            )
        self._lock = threading.Lock()
        self._statistics = TextStatistics()

    @property
    def statistics(self) -> TextStatistics:
        """Totals so far."""
        with self._lock:
            return self._statistics

    def run(self, texts: Iterable[object], job: Job[T]) -> Iterator[TextResult[T]]:
        """Results in the order of the texts, which are read as they are needed.

        Args:
            texts: any number.
            job: what is wanted of them.

        Raises:
            TrtInt8Error: the session failed as a whole; errors of one text are in its result.
        """
        waiting: deque[_Waiting] = deque()
        requests = self._requests(texts, job, waiting)
        answers = self._session.map(requests, max_batch_tokens=self._max_batch_tokens)
        try:
            for answer in answers:
                yield from self._finished(waiting, job)
                head = waiting[0]
                head.answered += 1
                if answer.error is not None:
                    head.error = head.error or answer.error
                else:
                    head.outputs.append(answer.outputs)
                yield from self._finished(waiting, job)
            yield from self._finished(waiting, job)
        finally:
            close = getattr(answers, "close", None)
            if close is not None:
                close()

    def _requests(
        self, texts: Iterable[object], job: Job[T], waiting: deque[_Waiting]
    ) -> Iterator[Feeds]:
        numbered = enumerate(texts)
        while chunk := list(islice(numbered, _CHUNK)):
            for entry in self._tokenized(chunk, job):
                waiting.append(entry)
                for part in entry.parts:
                    yield self._feeds(part)

    def _tokenized(self, chunk: Sequence[tuple[int, object]], job: Job[T]) -> list[_Waiting]:
        entries = []
        for index, item in chunk:
            entry = _Waiting(index)
            entries.append(entry)
            try:
                entry.texts = as_texts(item, index, pairs=job.pairs)
                if job.split is not None:
                    entry.parts = job.split(entry.texts)
            except RequestError as error:
                entry.error = _named(error, index)
        sound = [entry for entry in entries if entry.error is None]
        if job.split is None and sound:
            encoded = self._tokenizer.encode([entry.texts for entry in sound])
            for entry, part in zip(sound, encoded, strict=True):
                entry.parts = [part]
        for entry in sound:
            entry.error = _refused(entry, truncate=job.truncate)
            if entry.error is not None:
                entry.parts = []
        return entries

    def _feeds(self, part: Encoded) -> dict[str, NDArray[Any]]:
        made = {
            "input_ids": part.ids,
            "attention_mask": np.ones_like(part.ids),
            "token_type_ids": part.type_ids,
        }
        return {
            name: made[kind].astype(dtype, copy=False)
            for name, (kind, dtype) in self._inputs.items()
        }

    def _finished(self, waiting: deque[_Waiting], job: Job[T]) -> Iterator[TextResult[T]]:
        while waiting and waiting[0].done:
            result = _result(waiting.popleft(), job)
            with self._lock:
                self._statistics = self._statistics.plus(result)
            if job.progress is not None:
                job.progress(1)
            yield result


def _named(error: RequestError, index: int) -> RequestError:
    """The error with the text's place in front, if it does not say it."""
    name = f"text {index}"
    if error.came.startswith(name):
        return error
    return RequestError(f"{name}: {error.came}", wanted=error.wanted, todo=error.todo)


def _kind(name: str) -> str:
    """An input's name without the output number that TensorFlow adds (`input_ids:0`)."""
    return name.removesuffix(":0")


def _refused(entry: _Waiting, *, truncate: bool) -> RequestError | None:
    if any(len(part.ids) == 0 for part in entry.parts):
        return RequestError(
            f"text {entry.index} has no token",
            wanted="at least one (this tokenizer adds none of its own)",
            todo="leave empty texts out",
        )
    cut = sum(part.cut for part in entry.parts)
    if truncate or not cut:
        return None
    tokens = sum(len(part.ids) for part in entry.parts)
    return RequestError(
        f"text {entry.index} has {tokens + cut} tokens",
        wanted=f"at most {tokens}",
        todo="shorten it, pass truncate=True, or build the bundle with a larger seq in --shapes",
    )


def _result(entry: _Waiting, job: Job[T]) -> TextResult[T]:
    value = None
    if entry.error is None:
        try:
            value = job.read(entry.texts, entry.parts, entry.outputs)
        except TrtInt8Error as error:
            entry.error = error
    found: TextResult[T] = TextResult(
        index=entry.index,
        value=value,
        error=entry.error,
        tokens=sum(len(part.ids) for part in entry.parts),
        cut=sum(part.cut for part in entry.parts),
    )
    return replace(found, tokens=0, cut=0) if entry.error is not None else found
