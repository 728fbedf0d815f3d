"""A bundle that answers rows: texts through its tokenizer and head, arrays as they are."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np

from trt_int8.errors import TrtInt8Error
from trt_int8.runtime.backend import Feeds, Outputs
from trt_int8.runtime.cpu.threads import default_threads
from trt_int8.runtime.mapping import DEFAULT_WINDOW, MapOptions
from trt_int8.runtime.options import SessionOptions
from trt_int8.runtime.packing import DEFAULT_BATCH_TOKENS
from trt_int8.runtime.score.answers import Answer, Scored, Scorer, Tally
from trt_int8.runtime.score.opener import BundleScorer
from trt_int8.runtime.score.rows import Fault, Row, Text
from trt_int8.runtime.session import Session
from trt_int8.runtime.statistics import Statistics
from trt_int8.runtime.tensors import Signature
from trt_int8.runtime.text.answers import Span
from trt_int8.runtime.text.labels import Floats, class_scores, label_names, ranked
from trt_int8.runtime.text.options import TextOptions
from trt_int8.runtime.text.session import TextSession
from trt_int8.runtime.text.settings import LOGITS_OUTPUT
from trt_int8.runtime.text.stream import Job, TextResult
from trt_int8.runtime.text.tags import Tag
from trt_int8.runtime.text.tokens import Encoded, Texts
from trt_int8.spec.text import Task

EMBEDDING = "embedding"
SCORES = "scores"
_EXAMPLES: dict[Task, Answer] = {
    "classification": {"label": "", "score": 0.0},
    "token-classification": {"tags": [asdict(Tag("", 0.0, 0, 0, ""))]},
    "question-answering": {"answers": [asdict(Span("", 0.0, 0, 0))]},
}
_PLACE = re.compile(r"^(?:(?:text|request) [0-9]+: |(text|request) [0-9]+\b)")
# A window is never closed because time has passed: batches then depend on the rows alone.
_NEVER_MS = 1000.0 * 3600 * 24


def open_scorer(bundle: BundleScorer) -> Scorer:
    """Open a bundle.

    Raises:
        BundleError: the bundle, or its tokenizer, is missing or damaged.
        DeviceError: the device cannot run it.
        RequestError: the model reads something else than text, and rows are texts.
    """
    options = MapOptions(
        max_batch_tokens=bundle.max_batch_tokens or DEFAULT_BATCH_TOKENS,
        window=DEFAULT_WINDOW,
        linger_ms=_NEVER_MS,
    )
    how: dict[str, Any] = {"workers": bundle.workers, "precision": bundle.precision}
    threads = max(1, default_threads() // bundle.sharing) if bundle.sharing > 1 else None
    session = SessionOptions(threads=threads)
    if bundle.arrays:
        opened = Session.open(Path(bundle.bundle), bundle.device, **how, options=session)
        return ArrayScorer(opened, options)
    how["options"] = TextOptions(truncate=bundle.truncate, session=session)
    text = CountedText.open(bundle.bundle, bundle.device, **how, tokenizer=bundle.tokenizer)
    assert isinstance(text, CountedText)
    assert isinstance(text.session, Counted)
    text.session.options = options
    return TextScorer(text, text.session)


class Counted:
    """A session whose maps are batched as told, and counted."""

    def __init__(self, session: Any, options: MapOptions | None = None) -> None:
        """Wrap `session`; `close` closes it."""
        self.session, self.options = session, options or MapOptions(linger_ms=_NEVER_MS)
        self.statistics = Statistics()

    @property
    def signature(self) -> Signature:
        """Of the model."""
        found: Signature = self.session.signature
        return found

    def map(
        self, requests: Iterable[Feeds], *, max_batch_tokens: int | None = None
    ) -> Iterator[Any]:
        """Answers in the order of the requests."""
        how = {"max_batch_tokens": max_batch_tokens, "options": self.options}
        with self.session.map(requests, **how) as run:
            yield from run
            self.statistics += run.statistics

    def close(self) -> None:
        """Close the session."""
        self.session.close()

    def taken(self) -> Tally:
        """What was computed since the last call."""
        found, self.statistics = self.statistics, Statistics()
        return Tally(tokens=found.tokens, padded_tokens=found.padded_tokens, batches=found.batches)


class CountedText(TextSession):
    """A text session over a `Counted` session."""

    def __init__(self, session: Any, *rest: Any, **options: Any) -> None:
        """Wrap the session; see `TextSession`."""
        super().__init__(Counted(session), *rest, **options)

    def iter_scores(self, texts: Iterable[Any]) -> Iterator[TextResult[Floats]]:
        """Scores of all classes, float64 [N] in the order of the logits, of each text."""

        def read(_texts: Texts, _parts: list[Encoded], outputs: list[Outputs]) -> Floats:
            return class_scores(outputs[0][LOGITS_OUTPUT], self.settings.problem)

        return self._run(texts, Job(read))


class TextScorer:
    """Answers texts as the model's task has it.

    Answers are `embedding` [H]; or `label`, `score` and all `scores`, which as an array are in the
    order of the model's classes; or `tags`; or `answers`.
    """

    def __init__(self, text: CountedText, counted: Counted) -> None:
        """Read off what the model gives."""
        self._text, self._counted = text, counted
        self.backend = str(counted.session.backend_name)
        self.shapes: Mapping[str, tuple[tuple[int, ...], str]] = {}
        self.example: Answer = _EXAMPLES.get(text.task, {})
        name, size = _array(text, counted.signature)
        if size:
            self.shapes = {name: ((size,), "float32")}

    def score(self, rows: list[Row]) -> Scored:
        """Answer texts; one that cannot be answered is a fault."""
        run, read = self._job()
        texts = (row if len(row) > 1 else row[0] for row in cast("list[Text]", rows))
        answers = [
            Fault(_reason(found.error)) if found.error is not None else read(found.value)
            for found in run(texts)
        ]
        return Scored(answers, self._counted.taken())

    def close(self) -> None:
        """Close the session."""
        self._text.close()

    def _job(self) -> tuple[Callable[[Iterable[Any]], Iterator[Any]], Callable[[Any], Answer]]:
        text = self._text
        if text.task in ("embedding", "features"):
            return text.iter_embed, lambda vector: {EMBEDDING: vector}
        if text.task == "classification":
            return text.iter_scores, self._classified
        if text.task == "question-answering":
            return text.iter_answers, lambda spans: {"answers": [asdict(one) for one in spans]}
        return text.iter_tag, lambda tags: {"tags": [asdict(one) for one in tags]}

    def _classified(self, scores: Floats) -> Answer:
        # By place, not by name: two classes may have one name.
        best = ranked(scores, label_names(self._text.settings.labels, len(scores)), 1)[0]
        return {"label": best.name, "score": best.score, SCORES: scores.astype(np.float32)}


class ArrayScorer:
    """Gives the model's outputs, by name, for rows of arrays."""

    def __init__(self, session: Any, options: MapOptions) -> None:
        """Take over a session."""
        self._counted = Counted(session, options)
        self.backend = str(session.backend_name)
        outputs = session.signature.outputs
        fixed = all(isinstance(axis, int) for one in outputs for axis in one.axes[1:])
        self.shapes: Mapping[str, tuple[tuple[int, ...], str]] = (
            {one.name: (tuple(one.axes[1:]), one.dtype) for one in outputs} if fixed else {}
        )
        self.example: Answer = {
            one.name: np.empty((0,) * len(one.axes[1:]), one.dtype) for one in outputs
        }

    def score(self, rows: list[Row]) -> Scored:
        """Run rows; one that does not fit the model is a fault."""
        answers: list[Answer | Fault] = [
            Fault(_reason(found.error)) if found.error is not None else found.outputs
            for found in self._counted.map(iter(rows))  # type: ignore[arg-type]
        ]
        return Scored(answers, self._counted.taken())

    def close(self) -> None:
        """Close the session."""
        self._counted.close()


def _array(text: TextSession, signature: Signature) -> tuple[str, int]:
    """Name and size of the array that every text gets; the size is 0 if there is none or unknown.

    Raises:
        RequestError: the model has another number of classes than of names.
    """
    if text.task in ("embedding", "features"):
        return EMBEDDING, text.embed([]).shape[1]
    if text.task != "classification":
        return "", 0
    sizes = [one.axes[-1] for one in signature.outputs if one.name == LOGITS_OUTPUT]
    size = next((each for each in sizes if isinstance(each, int)), len(text.settings.labels))
    return SCORES, len(label_names(text.settings.labels, size))


def _reason(error: Exception) -> str:
    """Without what to do, which is about calls of the library, and without the place in a part."""
    if not isinstance(error, TrtInt8Error):
        return str(error)
    came = _PLACE.sub(lambda found: f"the {found[1]}" if found[1] else "", error.came)
    return f"{came}; wanted {error.wanted}"
