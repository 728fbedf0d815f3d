"""Tags against transformers' pipeline on the same logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TokenClassificationPipeline
from transformers.pipelines.token_classification import AggregationStrategy

from tests.runtime.text.conftest import NAMES
from tests.support.text_models import TinyText
from trt_int8.errors import RequestError
from trt_int8.runtime.text.labels import softmax
from trt_int8.runtime.text.tags import find_tags
from trt_int8.runtime.text.tokens import load_tokenizer

STRATEGIES = ("none", "simple", "first")
words = st.lists(
    st.sampled_from(
        ["Marie", "Curie", "in", "Unbelievable", "Warsaw,", "東京", "🙂", "(x-y)", "fox"]
    ),
    min_size=1,
    max_size=12,
)


def of_pipeline(model: TinyText, text: str, logits: np.ndarray, strategy: str) -> list[Any]:
    pipeline = TokenClassificationPipeline(model=model.model, tokenizer=model.tokenizer)
    read = model.tokenizer(
        text, return_tensors="pt", return_offsets_mapping=True, return_special_tokens_mask=True
    )
    outputs = {
        "logits": torch.from_numpy(logits)[None],
        "sentence": text,
        **{name: read[name] for name in ("input_ids", "offset_mapping", "special_tokens_mask")},
    }
    found = pipeline.postprocess([outputs], AggregationStrategy(strategy), ["O"])
    return list(found)


@settings(max_examples=40, deadline=None)
@given(parts=words, seed=st.integers(0, 999), strategy=st.sampled_from(STRATEGIES))
def test_tags_are_those_of_transformers_pipeline(
    parts: list[str], seed: int, strategy: Any, tagger: TinyText
) -> None:
    text = " ".join(parts)
    encoded = load_tokenizer(tagger.folder, tagger.settings.model_copy(update={"max_tokens": None}))
    read = encoded.encode([(text,)])[0]
    # Few levels, so that neighbours often agree.
    levels = np.random.default_rng(seed).integers(0, 3, (len(read.ids), len(NAMES)))
    logits = (levels + np.linspace(0, 0.1, len(NAMES))).astype(np.float32)
    found = find_tags(softmax(logits), NAMES, text, read.layout, strategy)
    wanted = of_pipeline(tagger, text, logits, strategy)
    name = "entity" if strategy == "none" else "entity_group"
    assert [(t.label, t.start, t.end) for t in found] == [
        (each[name], each["start"], each["end"]) for each in wanted
    ]
    scores = [each["score"] for each in wanted]
    np.testing.assert_allclose([t.score for t in found], scores, rtol=1e-6)
    assert all(text[t.start : t.end] == t.text for t in found)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_session_tags_with_the_logits_of_the_model(strategy: Any, tagger: TinyText) -> None:
    text = "Marie Curie was born in Warsaw; 東京 🙂"
    logits = tagger.outputs(text)["logits"]
    wanted = of_pipeline(tagger, text, logits, strategy)
    with tagger.open() as session:
        found = session.tag(["fox", text], aggregate=strategy)[1]
    name = "entity" if strategy == "none" else "entity_group"
    assert [(t.label, t.start, t.end) for t in found] == [
        (each[name], each["start"], each["end"]) for each in wanted
    ]
    np.testing.assert_allclose(
        [t.score for t in found], [each["score"] for each in wanted], rtol=1e-5
    )


def test_pairs_and_unknown_ways_to_aggregate_are_refused(tagger: TinyText) -> None:
    with tagger.open() as session:
        with pytest.raises(RequestError, match="text 1 is a tuple of 2"):
            session.tag(["a", ("a", "b")])  # type: ignore[list-item]
        with pytest.raises(RequestError, match="aggregate is 'max'"):
            session.tag(["a"], aggregate="max")  # type: ignore[arg-type]


def test_a_text_without_own_tokens_has_no_tags(tagger: TinyText) -> None:
    with tagger.open() as session:
        assert session.tag(["", " \r\n"]) == [[], []]
