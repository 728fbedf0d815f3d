"""Text sessions over ONNX Runtime, and over the real session of a bundle."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from tests.support.text_models import LONGEST, OrtSession, TinyText, scores_of_pipeline
from trt_int8.errors import RequestError
from trt_int8.runtime.tensors import TensorInfo
from trt_int8.runtime.text.pooling import normalized
from trt_int8.runtime.text.session import TextSession
from trt_int8.runtime.text.tokens import load_tokenizer

TEXTS = [
    "The quick brown fox",
    "",
    "naïve café 🙂",
    "Marie Curie, born in Warsaw.\r\n",
    "שלום עולם",
    "x " * 99,
    "fox",
]


def test_labels_are_those_of_transformers_pipeline_best_first(classifier: TinyText) -> None:
    with classifier.open() as session:
        found = session.classify(TEXTS)
    for text, labels in zip(TEXTS, found, strict=True):
        wanted = scores_of_pipeline(classifier, text)
        scores = [each.score for each in labels]
        assert scores == sorted(scores, reverse=True)
        assert {each.name for each in labels} == {"sad", "glad", "neither"}
        for each in labels:
            assert each.score == pytest.approx(wanted[each.name], rel=1e-5)


def test_pairs_are_classified_with_both_texts(classifier: TinyText) -> None:
    pairs = [("Who?", "The fox"), ("fox " * 30, "dog"), ("", "")]
    with classifier.open() as session:
        found = session.classify(pairs, top_k=1)
    assert [len(labels) for labels in found] == [1, 1, 1]
    for pair, labels in zip(pairs[:2], found, strict=False):
        wanted = scores_of_pipeline(classifier, *pair)
        assert labels[0].score == pytest.approx(max(wanted.values()), rel=1e-5)


@pytest.mark.parametrize("problem", ["multi_label", "regression"])
def test_scores_follow_the_models_problem(problem: str, classifier: TinyText) -> None:
    logits = classifier.outputs("fox")["logits"].astype(np.float64)
    wanted = 1 / (1 + np.exp(-logits)) if problem == "multi_label" else logits
    with classifier.open(problem=problem) as session:
        found = {each.name: each.score for each in session.classify(["fox"])[0]}
    np.testing.assert_allclose([found[n] for n in ("sad", "glad", "neither")], wanted, rtol=1e-4)


def test_vectors_are_the_mean_or_first_hidden_state_of_each_text_alone(encoder: TinyText) -> None:
    with encoder.open() as session:
        mean, first = session.embed(TEXTS), session.embed(TEXTS, pooling="cls", normalize=True)
    assert mean.dtype == np.float32
    assert mean.shape == (len(TEXTS), 64)
    for place, text in enumerate(TEXTS):
        hidden = encoder.outputs(text)["last_hidden_state"]
        np.testing.assert_allclose(mean[place], hidden.mean(0), rtol=0, atol=1e-5)
        np.testing.assert_allclose(first[place], normalized(hidden[:1])[0], rtol=0, atol=1e-5)


def test_a_stream_has_the_same_bits_as_the_list_in_the_same_order(encoder: TinyText) -> None:
    texts = [f"{'fox ' * (number % 17)}{number}" for number in range(150)]
    with encoder.open() as session:
        whole = session.embed(texts)
        streamed = list(session.iter_embed(iter(texts)))
        alone = session.embed([texts[99]])
    assert [each.index for each in streamed] == list(range(150))
    assert np.array_equal(np.stack([each.get() for each in streamed]), whole)
    assert np.array_equal(alone[0], whole[99])


def test_texts_are_batched_by_length(encoder: TinyText) -> None:
    with encoder.open() as session:
        session.embed(["fox", "fox " * 9] * 8)
        assert isinstance(session.session, OrtSession)
        shapes = session.session.batches
    assert sum(shape[0] for shape in shapes) == 16
    assert len(shapes) == 4
    assert len({shape[1] for shape in shapes}) == 2


def test_an_endless_source_is_read_as_it_is_needed(encoder: TinyText) -> None:
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield f"fox {taken}"

    with encoder.open() as session:
        stream = session.iter_embed(endless())
        assert [next(stream).index for _ in range(3)] == [0, 1, 2]
        stream.close()  # type: ignore[attr-defined]
    assert taken < 20_000


def test_a_bad_text_in_a_stream_does_not_end_the_others(encoder: TinyText) -> None:
    texts: list[Any] = [None, "fox", "a\ud800", 7, "dog", b"x"]
    with encoder.open() as session:
        found = list(session.iter_embed(texts))
        assert session.statistics.failed == 4
    assert [each.error is None for each in found] == [False, True, False, False, True, False]
    assert "text 2 has a lone surrogate" in str(found[2].error)
    with pytest.raises(RequestError, match="text 3 is a int"):
        found[3].get()


def test_a_bad_text_in_a_list_is_an_error_before_anything_runs(encoder: TinyText) -> None:
    with encoder.open() as session:
        with pytest.raises(RequestError, match="text 1 is None"):
            session.embed(["fox", None])  # type: ignore[list-item]
        with pytest.raises(RequestError, match="put it into a list"):
            session.embed("fox")
        assert isinstance(session.session, OrtSession)
        assert session.session.batches == []


def test_empty_lists_give_empty_results(
    encoder: TinyText, classifier: TinyText, tagger: TinyText, answerer: TinyText
) -> None:
    with encoder.open() as session:
        assert session.embed([]).shape == (0, 64)
        assert list(session.iter_embed([])) == []
    for model in (classifier, tagger, answerer):
        with model.open() as session:
            assert session([]) == []


def test_cut_texts_are_counted(encoder: TinyText) -> None:
    tokens = [len(encoder.tokenizer(text, verbose=False)["input_ids"]) for text in TEXTS]
    with encoder.open() as session:
        found = list(session.iter_embed(TEXTS))
        statistics = session.statistics
    assert [each.tokens for each in found] == [min(LONGEST, count) for count in tokens]
    assert [each.cut for each in found] == [max(0, count - LONGEST) for count in tokens]
    assert statistics.texts == len(TEXTS)
    assert statistics.tokens == sum(each.tokens for each in found)
    assert statistics.cut_texts == sum(count > LONGEST for count in tokens) > 0
    assert statistics.cut_tokens == sum(each.cut for each in found)


def test_without_truncation_a_long_text_is_an_error_by_its_place(encoder: TinyText) -> None:
    with encoder.open(truncate=False) as session:
        assert session.embed(["fox"]).shape == (1, 64)
        with pytest.raises(RequestError, match=rf"text 5 has \d+ tokens; wanted at most {LONGEST}"):
            session.embed(TEXTS)
        found = list(session.iter_embed(TEXTS))
    assert [each.index for each in found if each.error is not None] == [5]


def test_progress_counts_every_text_once(tagger: TinyText) -> None:
    done: list[int] = []
    with tagger.open() as session:
        session.tag(TEXTS, progress=done.append)
    assert sum(done) == len(TEXTS)


def test_a_call_does_what_the_task_is(
    encoder: TinyText, classifier: TinyText, tagger: TinyText, answerer: TinyText
) -> None:
    with encoder.open() as session:
        assert np.array_equal(session(TEXTS), session.embed(TEXTS))
    with classifier.open() as session:
        assert session(TEXTS) == session.classify(TEXTS)
    with tagger.open() as session:
        assert session(TEXTS) == session.tag(TEXTS)
    with answerer.open() as session:
        pairs = [("Who?", text) for text in TEXTS]
        assert session(pairs) == session.answer_pairs(pairs)


def test_another_tasks_method_is_refused_with_the_right_one(classifier: TinyText) -> None:
    with classifier.open() as session:
        for call in (session.embed, session.tag, session.answer_pairs):
            with pytest.raises(RequestError, match=r"call classify\(\)"):
                call([])


def test_threads_get_what_one_gets(encoder: TinyText) -> None:
    with encoder.open() as session:
        alone = session.embed(TEXTS)
        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(lambda _: session.embed(TEXTS), range(18)))
        assert session.statistics.texts == 19 * len(TEXTS)
    assert all(np.array_equal(each, alone) for each in found)


def test_an_input_that_no_tokenizer_makes_is_named(encoder: TinyText) -> None:
    class Odd:
        signature = type(encoder.signature)(
            (*encoder.signature.inputs, TensorInfo("bbox", "int64", ("batch", "sequence", 4))),
            encoder.signature.outputs,
            encoder.signature.token_axes,
            "attention_mask",
        )

    tokenizer = load_tokenizer(encoder.folder, encoder.settings)
    with pytest.raises(RequestError, match="the model reads 'bbox'"):
        TextSession(Odd(), tokenizer, encoder.settings)  # type: ignore[arg-type]


def test_a_model_of_int32_without_token_types_gets_what_it_reads(encoder: TinyText) -> None:
    seen: list[dict[str, np.ndarray]] = []

    class Recorder:
        signature = type(encoder.signature)(
            tuple(
                TensorInfo(name, "int32", ("batch", "sequence"))
                for name in ("input_ids:0", "attention_mask:0")
            ),
            encoder.signature.outputs,
            {},
            None,
        )

        def map(self, requests: Any, *, max_batch_tokens: int | None) -> list[Any]:
            assert max_batch_tokens is None
            seen.extend(requests)
            return []

    tokenizer = load_tokenizer(encoder.folder, encoder.settings)
    session = TextSession(Recorder(), tokenizer, encoder.settings)  # type: ignore[arg-type]
    list(session.iter_embed(["fox"]))
    assert {name: value.dtype.name for name, value in seen[0].items()} == {
        "input_ids:0": "int32",
        "attention_mask:0": "int32",
    }
    ids = encoder.tokenizer("fox")["input_ids"]
    assert seen[0]["input_ids:0"].tolist() == ids
    assert seen[0]["attention_mask:0"].tolist() == [1] * len(ids)
