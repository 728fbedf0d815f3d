"""Answers against a search of every span of every window."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.text_models import LONGEST, TinyText
from trt_int8.errors import RequestError
from trt_int8.runtime.text.answers import AnswerOptions, Span, Window, find_answers
from trt_int8.runtime.text.tokens import Layout, load_tokenizer

CONTEXT = "Marie Curie, born in Warsaw,  moved to 東京 🙂 Paris\r\nمرحبا and died unbelievably."  # noqa: RUF001 - right to left on purpose


def words_of(text: str) -> list[tuple[int, int]]:
    """Places of what white space separates."""
    found: list[tuple[int, int]] = []
    start = None
    for place, character in enumerate(f"{text} "):
        if character.isspace() and start is not None:
            found.append((start, place))
            start = None
        elif not character.isspace() and start is None:
            start = place
    return found


def one_token_per_word(text: str, first: int, last: int) -> Layout:
    """A question of two tokens, then the words `first` to `last - 1` of the text."""
    own = words_of(text)[first:last]
    special = (0, 0)
    return Layout(
        offsets=(special, (0, 3), (3, 4), special, *own, special),
        words=(None, 0, 1, None, *range(first, last), None),
        parts=(None, 0, 0, None, *(1 for _ in own), None),
    )


def every_answer(
    windows: list[Window], context: str, longest: int, *, no_answer: bool
) -> list[Span]:
    """By definition, with plain loops and exact sums."""
    total, nothing = 0.0, math.inf
    best: dict[tuple[int, int], float] = {}
    for window in windows:
        inside = [i for i, part in enumerate(window.layout.parts) if part == 1]
        counted = [*inside, 0]
        total += math.fsum(math.exp(window.start[i]) for i in counted) * math.fsum(
            math.exp(window.end[i]) for i in counted
        )
        nothing = min(nothing, math.exp(window.start[0]) * math.exp(window.end[0]))
        for i in inside:
            for j in inside:
                if i <= j < i + longest:
                    place = (window.layout.offsets[i][0], window.layout.offsets[j][1])
                    value = math.exp(window.start[i]) * math.exp(window.end[j])
                    best[place] = max(best.get(place, 0.0), value)
    if no_answer:
        best[0, 0] = nothing
    order = sorted(best.items(), key=lambda item: (-item[1], item[0]))
    return [Span(context[s:e], value / total, s, e) for (s, e), value in order]


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 9999),
    shared=st.integers(0, 4),
    top_k=st.integers(1, 40),
    longest=st.integers(1, 20),
    no_answer=st.booleans(),
)
def test_answers_are_the_best_of_all_spans(
    seed: int, shared: int, top_k: int, longest: int, no_answer: bool
) -> None:
    generator = np.random.default_rng(seed)
    count = len(words_of(CONTEXT))
    windows = []
    for first in range(0, count - shared, 5):
        layout = one_token_per_word(CONTEXT, first, min(first + 5 + shared, count))
        start, end = generator.normal(0, 3, (2, len(layout.parts))).astype(np.float32)
        windows.append(Window(start, end, layout))
    options = AnswerOptions(top_k=top_k, max_answer_tokens=longest, no_answer=no_answer)
    found = find_answers(windows, CONTEXT, options)
    wanted = every_answer(windows, CONTEXT, longest, no_answer=no_answer)[:top_k]
    assert [(s.start, s.end, s.text) for s in found] == [(s.start, s.end, s.text) for s in wanted]
    np.testing.assert_allclose([s.score for s in found], [s.score for s in wanted], rtol=1e-9)


def test_of_equal_spans_the_earlier_and_shorter_come_first() -> None:
    layouts = [one_token_per_word(CONTEXT, 4, 9), one_token_per_word(CONTEXT, 0, 6)]
    windows = [Window(np.zeros(len(o.parts)), np.zeros(len(o.parts)), o) for o in layouts]
    found = find_answers(windows, CONTEXT, AnswerOptions(top_k=4, max_answer_tokens=3))
    ends = [end for _, end in words_of(CONTEXT)]
    assert [(s.start, s.end) for s in found] == [(0, end) for end in ends[:3]] + [(6, ends[1])]


def test_with_one_window_a_score_is_the_product_of_two_softmaxes() -> None:
    layout = one_token_per_word(CONTEXT, 0, 6)
    start, end = np.random.default_rng(3).normal(size=(2, len(layout.parts)))
    found = find_answers([Window(start, end, layout)], CONTEXT, AnswerOptions(top_k=1))[0]
    kept = [0, *range(4, 10)]
    first = next(i for i in kept if layout.offsets[i][0] == found.start and i)
    last = next(i for i in kept if layout.offsets[i][1] == found.end and i)
    product = np.exp(start[first]) / np.exp(start[kept]).sum()
    product *= np.exp(end[last]) / np.exp(end[kept]).sum()
    assert found.score == pytest.approx(product, rel=1e-12)


def test_the_question_and_special_tokens_are_never_an_answer() -> None:
    layout = one_token_per_word(CONTEXT, 0, 3)
    logits = np.array([50, 60, 70, 50, 0, 1, 0, 50.0])
    found = find_answers([Window(logits, logits, layout)], CONTEXT, AnswerOptions(top_k=99))
    assert {(s.start, s.end) for s in found} <= {
        (a, b) for a, _ in words_of(CONTEXT)[:3] for _, b in words_of(CONTEXT)[:3]
    }
    assert found[0].text == "Curie,"


def test_no_answer_wins_only_where_it_is_asked_for_and_every_window_says_so() -> None:
    layout = one_token_per_word(CONTEXT, 0, 3)
    sure = np.array([9, 0, 0, 0, 1, 2, 1, 0.0])
    unsure = np.array([-9, 0, 0, 0, 1, 2, 1, 0.0])
    both = AnswerOptions(top_k=1, no_answer=True)
    one, two = Window(sure, sure, layout), Window(unsure, unsure, layout)
    empty = find_answers([one, one], CONTEXT, both)[0]
    assert (empty.text, empty.start, empty.end) == ("", 0, 0)
    assert find_answers([one, two], CONTEXT, both)[0].text == "Curie,"
    assert find_answers([one, one], CONTEXT, AnswerOptions())[0].text == "Curie,"


def test_parts_of_a_word_are_widened_to_it_and_blanks_are_left_out() -> None:
    context = "an unbelievable thing"
    places = ((0, 0), (0, 1), (0, 0), (0, 2), (2, 5), (5, 9), (9, 15), (15, 21), (0, 0))
    words = (None, 0, None, 0, 0, 0, 0, 0, None)
    layout = Layout(places, words, (None, 0, None, 1, 1, 1, 1, 1, None))
    logits = np.array([0, 0, 0, 0, 0, 9, 0, 0, 0.0])
    found = find_answers([Window(logits, logits, layout)], context, AnswerOptions(top_k=3))
    assert (found[0].text, found[0].start, found[0].end) == ("unbelievable", 3, 15)
    assert len({(s.start, s.end) for s in found}) == 3


@pytest.mark.parametrize(
    ("options", "came"),
    [
        (AnswerOptions(top_k=0), "top_k is 0"),
        (AnswerOptions(max_answer_tokens=0), "max_answer_tokens is 0"),
        (AnswerOptions(stride=-1), "stride is -1"),
    ],
)
def test_options_out_of_range_are_refused(
    options: AnswerOptions, came: str, answerer: TinyText
) -> None:
    with answerer.open() as session, pytest.raises(RequestError, match=came):
        session.answer("Who?", "fox", options)


def windows_of_oracle(model: TinyText, question: str, context: str, stride: int) -> list[Window]:
    """Windows as transformers cuts them, each run alone without padding."""
    import onnxruntime

    read = model.tokenizer(
        question,
        context,
        truncation="only_second",
        max_length=LONGEST,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    session = onnxruntime.InferenceSession(str(model.path))
    windows = []
    for entry, ids in enumerate(read["input_ids"]):
        feeds = {"input_ids": [ids], "attention_mask": [[1] * len(ids)]}
        outputs = session.run(
            ["start_logits", "end_logits"],
            {given.name: np.array(feeds[given.name]) for given in model.signature.inputs},
        )
        layout = Layout(
            tuple(read["offset_mapping"][entry]),
            tuple(read.word_ids(entry)),
            tuple(read.sequence_ids(entry)),
        )
        windows.append(Window(outputs[0][0], outputs[1][0], layout))
    return windows


@pytest.mark.parametrize("stride", [0, 9])
def test_a_session_answers_from_all_windows_of_a_long_context(
    stride: int, answerer: TinyText
) -> None:
    context = f"{CONTEXT} " * 4
    windows = windows_of_oracle(answerer, "Who?", context, stride)
    assert len(windows) > 5
    options = AnswerOptions(top_k=7, stride=stride, no_answer=True)
    with answerer.open() as session:
        found = session.answer("Who?", context, options)
        assert session.statistics.cut_texts == 0
    wanted = find_answers(windows, context, options)
    assert [(s.start, s.end, s.text) for s in found] == [(s.start, s.end, s.text) for s in wanted]
    np.testing.assert_allclose([s.score for s in found], [s.score for s in wanted], rtol=1e-4)


def test_an_empty_context_has_no_answer_and_a_missing_one_is_an_error(answerer: TinyText) -> None:
    with answerer.open() as session:
        assert session.answer("Who?", "") == []
        assert [s.text for s in session.answer("Who?", "", AnswerOptions(no_answer=True))] == [""]
        with pytest.raises(RequestError, match="text 1: the question has no context"):
            session.answer_pairs([("Who?", "fox"), "Who?"])  # type: ignore[list-item]


def test_a_bad_question_does_not_end_the_others(answerer: TinyText) -> None:
    pairs: list[Any] = [("Who?", CONTEXT), ("w " * 99, CONTEXT), None, ("Where?", CONTEXT)]
    with answerer.open() as session:
        found = list(session.iter_answers(pairs))
    kinds = [type(each.error) for each in found]
    assert kinds == [type(None), RequestError, RequestError, type(None)]
    assert "text 1: the question has" in str(found[1].error)
    assert [each.index for each in found] == [0, 1, 2, 3]


def test_offsets_of_a_real_tokenizer_point_at_the_answer(answerer: TinyText) -> None:
    tokenizer = load_tokenizer(answerer.folder, answerer.settings)
    window = tokenizer.windows("Who?", "Marie Curie 🙂 ok", None)[0]
    layout = window.layout
    target = next(
        i for i, o in enumerate(layout.offsets) if layout.parts[i] == 1 and o[0] <= 12 < o[1]
    )
    logits = np.zeros(len(layout.parts))
    logits[target] = 20
    found = find_answers([Window(logits, logits, layout)], "Marie Curie 🙂 ok", AnswerOptions())
    assert found[0].text == "🙂"
