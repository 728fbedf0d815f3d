"""A bundle that answers texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

from trt_int8.runtime.session import Session
from trt_int8.runtime.text.answers import AnswerOptions, Span
from trt_int8.runtime.text.items import Item, as_texts, check_collection
from trt_int8.runtime.text.jobs import CALLS, Jobs, Vector
from trt_int8.runtime.text.labels import Label
from trt_int8.runtime.text.opening import open_tokenizer
from trt_int8.runtime.text.options import TextOptions
from trt_int8.runtime.text.stream import (
    Job,
    Mapper,
    Progress,
    TextResult,
    TextStatistics,
    TextStream,
)
from trt_int8.runtime.text.tags import Aggregate, Tag
from trt_int8.runtime.text.tokens import TextTokenizer
from trt_int8.spec.build import Precision
from trt_int8.spec.text import Pooling, Task, TextSettings

T = TypeVar("T")


_NO_OPTIONS = TextOptions()


class TextSession:
    """Tokenizer, session and head: texts in, results out.

    Any number of threads may call any method but `close` at once. Lists of any length are batched
    by number of tokens and come back in their order. Each method that takes a list raises the first
    error of a text; its twin `iter_…` reads any iterable as it goes, yields a `TextResult` per text
    and puts the text's error into it, so that one bad text does not end the others.

    Empty texts are texts: the model reads their special tokens alone. Half a surrogate pair is an
    error. A text that is too long is cut, and counted in `statistics` and `TextResult.cut`.

    Attributes:
        session: what runs the model; closed with this.
        settings: how the model reads text.
        truncate: cut texts that are too long; else each is an error that names its place.
    """

    def __init__(
        self,
        session: Mapper,
        tokenizer: TextTokenizer,
        settings: TextSettings,
        *,
        truncate: bool = True,
        max_batch_tokens: int | None = None,
    ) -> None:
        """Join the parts; see `open`.

        Raises:
            RequestError: the model has an input that no tokenizer makes.
        """
        self.session, self.settings, self.truncate = session, settings, truncate
        self._stream = TextStream(session, tokenizer, max_batch_tokens)
        self._jobs = Jobs(session.signature, settings, tokenizer)

    @classmethod
    def open(
        cls,
        bundle: Path | str,
        device: str = "auto",
        *,
        workers: int = 1,
        precision: Precision = "int8",
        tokenizer: Path | str | None = None,
        options: TextOptions = _NO_OPTIONS,
    ) -> TextSession:
        """Open a bundle and its tokenizer.

        Args:
            bundle: folder.
            device: as for `Session.open`.
            workers: as for `Session.open`.
            precision: as for `Session.open`.
            tokenizer: folder to use instead of the bundle's own; needed for models that came
                without one, and for bundles made before they held one. If the model's
                `config.json` is in it, it names the classes of such a bundle.
            options: what most callers leave as it is.

        Raises:
            BundleError: the bundle, or its tokenizer, is missing or damaged.
            DeviceError: the device cannot run it.
            RequestError: the model has an input that no tokenizer makes, or an option is wrong.
        """
        session = Session.open(
            bundle, device, workers=workers, precision=precision, options=options.session
        )
        try:
            more = options.max_batch_tokens
            return cls.over(session, tokenizer, truncate=options.truncate, max_batch_tokens=more)
        except BaseException:
            session.close()
            raise

    @classmethod
    def over(
        cls,
        session: Session,
        tokenizer: Path | str | None = None,
        *,
        truncate: bool = True,
        max_batch_tokens: int | None = None,
    ) -> TextSession:
        """Put a tokenizer in front of a session that is open.

        `close` closes that session too. Arguments and errors are those of `open`.
        """
        made, settings = open_tokenizer(session.checked, session.signature, tokenizer)
        return cls(session, made, settings, truncate=truncate, max_batch_tokens=max_batch_tokens)

    def __enter__(self) -> TextSession:
        """The session itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close the session below; a second call does nothing."""
        self.session.close()

    @property
    def task(self) -> Task:
        """What the model is for."""
        return self.settings.task

    @property
    def statistics(self) -> TextStatistics:
        """Totals of all texts since opening."""
        return self._stream.statistics

    def __call__(self, texts: Iterable[Item]) -> Any:
        """`embed`, `classify`, `tag` or `answer_pairs`, as the task has it, with their defaults."""
        calls: dict[str, Callable[[Iterable[Any]], Any]] = {
            "embed": self.embed,
            "classify": self.classify,
            "tag": self.tag,
            "answer": self.answer_pairs,
        }
        return calls[CALLS[self.task]](texts)

    def embed(
        self,
        texts: Iterable[Item],
        *,
        normalize: bool | None = None,
        pooling: Pooling | None = None,
        progress: Progress | None = None,
    ) -> Vector:
        """One vector per text.

        Args:
            texts: texts or pairs.
            normalize: divide each by its L2 norm; None: if the settings say so.
            pooling: over tokens, for models of the task `features` (others have it in the graph);
                None: as the settings say.
            progress: called with a number of texts that are done.

        Returns:
            [number of texts, H].

        Raises:
            RequestError: a text is of no use, or the model gives no vectors.
        """
        job = self._jobs.embed(normalize=normalize, pooling=pooling)
        found = self._all(texts, job, progress)
        if found:
            return np.stack(found)
        width = self._jobs.vector_output().axes[-1]
        return np.zeros((0, width if isinstance(width, int) else 0), np.float32)

    def iter_embed(
        self,
        texts: Iterable[Item],
        *,
        normalize: bool | None = None,
        pooling: Pooling | None = None,
    ) -> Iterator[TextResult[Vector]]:
        """`embed` as a stream: one vector [H] after the other."""
        return self._run(texts, self._jobs.embed(normalize=normalize, pooling=pooling))

    def classify(
        self, texts: Iterable[Item], *, top_k: int | None = None, progress: Progress | None = None
    ) -> list[list[Label]]:
        """Labels of each text or pair, best first.

        Scores are a softmax; of a model with several labels at once a sigmoid each, of a regression
        the bare logit (`settings.problem` says which).

        Args:
            texts: texts or pairs.
            top_k: how many labels; None for all.
            progress: called with a number of texts that are done.

        Raises:
            RequestError: a text is of no use, or the model does not classify.
        """
        return self._all(texts, self._jobs.classify(top_k), progress)

    def iter_classify(
        self, texts: Iterable[Item], *, top_k: int | None = None
    ) -> Iterator[TextResult[list[Label]]]:
        """`classify` as a stream."""
        return self._run(texts, self._jobs.classify(top_k))

    def tag(
        self,
        texts: Iterable[str],
        *,
        aggregate: Aggregate = "simple",
        progress: Progress | None = None,
    ) -> list[list[Tag]]:
        """Tagged tokens or entities of each text, with their characters.

        Args:
            texts: texts; no pairs.
            aggregate: `none`: tokens; `simple`: entities of neighbouring tokens; `first`: entities
                of whole words.
            progress: called with a number of texts that are done.

        Raises:
            RequestError: a text is of no use, or the model does not tag tokens.
        """
        return self._all(texts, self._jobs.tag(aggregate), progress)

    def iter_tag(
        self, texts: Iterable[str], *, aggregate: Aggregate = "simple"
    ) -> Iterator[TextResult[list[Tag]]]:
        """`tag` as a stream."""
        return self._run(texts, self._jobs.tag(aggregate))

    def answer(
        self, question: str, context: str, options: AnswerOptions | None = None
    ) -> list[Span]:
        """The best answers to one question, best first; `answer_pairs` is for many."""
        return self.answer_pairs([(question, context)], options)[0]

    def answer_pairs(
        self,
        pairs: Iterable[tuple[str, str]],
        options: AnswerOptions | None = None,
        *,
        progress: Progress | None = None,
    ) -> list[list[Span]]:
        """The best answers to each question in its context, best first.

        A context that is too long is read in overlapping windows; nothing of it is cut.

        Args:
            pairs: (question, context) each.
            options: how many answers, how long.
            progress: called with a number of questions that are done.

        Raises:
            RequestError: a pair is of no use, or the model does not answer questions.
        """
        return self._all(pairs, self._jobs.answer(options or AnswerOptions()), progress)

    def iter_answers(
        self, pairs: Iterable[tuple[str, str]], options: AnswerOptions | None = None
    ) -> Iterator[TextResult[list[Span]]]:
        """`answer_pairs` as a stream."""
        return self._run(pairs, self._jobs.answer(options or AnswerOptions()))

    def _all(self, texts: Iterable[object], job: Job[T], progress: Progress | None) -> list[T]:
        check_collection(texts)
        given = list(texts)
        for index, item in enumerate(given):  # before any is computed
            as_texts(item, index, pairs=job.pairs)
        job = replace(job, progress=progress)
        return [result.get() for result in self._run(given, job)]

    def _run(self, texts: Iterable[object], job: Job[T]) -> Iterator[TextResult[T]]:
        check_collection(texts)
        return self._stream.run(texts, replace(job, truncate=self.truncate))
