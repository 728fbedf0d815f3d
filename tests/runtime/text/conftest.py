"""Tiny models of every task, made once per test process."""

from __future__ import annotations

import pytest

from tests.support.text_models import TinyText, write_byte_bpe, write_unigram, write_wordpiece

NAMES = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC")


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> TinyText:
    labels = {0: "sad", 1: "glad", 2: "neither"}
    folder = tmp_path_factory.mktemp("text") / "classifier"
    return TinyText(folder, write_wordpiece, "ForSequenceClassification", id2label=labels)


@pytest.fixture(scope="session")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> TinyText:
    folder = tmp_path_factory.mktemp("text") / "tagger"
    labels = dict(enumerate(NAMES))
    return TinyText(folder, write_wordpiece, "ForTokenClassification", id2label=labels)


@pytest.fixture(scope="session")
def answerer(tmp_path_factory: pytest.TempPathFactory) -> TinyText:
    folder = tmp_path_factory.mktemp("text") / "answerer"
    return TinyText(folder, write_byte_bpe, "ForQuestionAnswering")


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> TinyText:
    return TinyText(tmp_path_factory.mktemp("text") / "encoder", write_unigram, "Model")
