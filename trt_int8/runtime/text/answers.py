"""Start and end logits of question answering to the best spans of the context."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trt_int8.errors import RequestError
from trt_int8.runtime.text.labels import Floats, check_top_k
from trt_int8.runtime.text.tokens import Layout

_CONTEXT = 1


@dataclass(frozen=True)
class Span:
    """An answer: characters `start` to `end` (the one after the last) of the context.

    Attributes:
        text: those characters; empty where the model says that the context has no answer.
        score: probability among all pairs of a start and an end in all windows.
        start: 0 for no answer.
        end: 0 for no answer.
    """

    text: str
    score: float
    start: int
    end: int


@dataclass(frozen=True)
class AnswerOptions:
    """How answers are looked for.

    Attributes:
        top_k: how many at most.
        max_answer_tokens: longest answer (15 as in transformers' pipeline).
        stride: tokens of a long context that neighbouring windows share; None for 128, or half of
            a window if that is less.
        no_answer: let "no answer" be one of the results, for models trained on SQuAD 2.
    """

    top_k: int = 1
    max_answer_tokens: int = 15
    stride: int | None = None
    no_answer: bool = False

    def check(self) -> None:
        """Refuse values out of range.

        Raises:
            RequestError: naming the value.
        """
        check_top_k(self.top_k)
        for name, value, least in (
            ("max_answer_tokens", self.max_answer_tokens, 1),
            ("stride", self.stride, 0),
        ):
            if value is not None and value < least:
                raise RequestError(
                    f"{name} is {value}", wanted=f"{least} or more", todo="correct it"
                )


@dataclass(frozen=True, eq=False)
class Window:
    """What the model says of one window: logits [S] of a start and of an end at each token."""

    start: NDArray[np.floating]
    end: NDArray[np.floating]
    layout: Layout


def find_answers(windows: Sequence[Window], context: str, options: AnswerOptions) -> list[Span]:
    """The best answers over all windows, best first.

    p(i, j) = exp(s_i + e_j) / Z, where Z sums exp(s_i) times the sum of exp(e_j) over the windows;
    i and j are the context's tokens and the first special token, which stands for no answer. With
    one window this is the product of two softmaxes, as in transformers' pipeline. A span must lie
    in the context, with i <= j < i + max_answer_tokens; it is widened to whole words, and the best
    of those that then are the same counts. "No answer" has the least probability that a window
    gives it, as in BERT's run_squad.

    Args:
        windows: at least one.
        context: the text.
        options: how many answers, how long.
    """
    each = [_Candidates.of(window) for window in windows]
    total = float(np.logaddexp.reduce([one.total for one in each]))
    best: dict[tuple[int, int], float] = {}
    for one in each:
        for places, log in _best_spans(one, context, options).items():
            best[places] = max(best.get(places, -np.inf), log - total)
    if options.no_answer:
        nothing = [one.nothing for one in each if one.nothing is not None]
        if nothing:
            best[0, 0] = min(nothing) - total
    # Equal scores: the earlier, then the shorter.
    chosen = heapq.nsmallest(options.top_k, best.items(), key=lambda item: (-item[1], item[0]))
    return [
        Span(context[start:end], float(np.exp(log)), start, end) for (start, end), log in chosen
    ]


@dataclass(frozen=True, eq=False)
class _Candidates:
    """Logits of a window's context, float64 [C], and the places of these tokens."""

    start: Floats
    end: Floats
    places: NDArray[np.int64]
    nothing: float | None
    total: float
    layout: Layout

    @classmethod
    def of(cls, window: Window) -> _Candidates:
        parts = window.layout.parts
        inside = np.array([i for i, part in enumerate(parts) if part == _CONTEXT], np.int64)
        special = next((i for i, part in enumerate(parts) if part is None), None)
        start, end = (np.asarray(logits, np.float64) for logits in (window.start, window.end))
        counted = inside if special is None else np.append(inside, special)
        if len(counted) == 0:
            return cls(start[:0], end[:0], inside, None, -np.inf, window.layout)
        sums = [np.logaddexp.reduce(logits[counted]) for logits in (start, end)]
        nothing = None if special is None else float(start[special] + end[special])
        total = float(sum(sums))
        return cls(start[inside], end[inside], inside, nothing, total, window.layout)

    def spans(self, longest: int) -> Iterator[tuple[float, int, int]]:
        """(logit sum, first token, last token) of every span of up to `longest`, best first."""
        count = len(self.places)
        lengths = np.arange(min(longest, count))
        lasts = np.arange(count)[:, None] + lengths[None, :]
        inside = lasts < count
        sums = self.start[:, None] + self.end[np.minimum(lasts, count - 1)]
        firsts, extra = np.nonzero(inside)
        values = sums[inside]
        for index in np.argsort(-values, kind="stable"):
            first = int(firsts[index])
            last = first + int(extra[index])
            yield float(values[index]), int(self.places[first]), int(self.places[last])


def _best_spans(
    candidates: _Candidates, context: str, options: AnswerOptions
) -> dict[tuple[int, int], float]:
    """The logit sums of the best spans of one window, by their characters; ties in text order."""
    found: dict[tuple[int, int], float] = {}
    for log, first, last in candidates.spans(options.max_answer_tokens):
        if len(found) >= options.top_k:
            break
        places = _places(candidates.layout, first, last, context)
        if places[0] < places[1] and places not in found:
            found[places] = log
    return found


def _places(layout: Layout, first: int, last: int, context: str) -> tuple[int, int]:
    """Characters of the whole words around two tokens, without white space at the ends."""
    while layout.continues(first, context):
        first -= 1
    while last + 1 < len(layout.parts) and layout.continues(last + 1, context):
        last += 1
    start, end = layout.offsets[first][0], layout.offsets[last][1]
    while start < end and context[start].isspace():
        start += 1
    while start < end and context[end - 1].isspace():
        end -= 1
    return start, end
