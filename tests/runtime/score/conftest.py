"""Bundles of tiny models, made once per test process; a run over 23 rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.bundles import make_bundle
from tests.support.score_runs import TEXTS
from tests.support.text_models import TinyText, write_byte_bpe, write_unigram, write_wordpiece
from trt_int8.runtime.score.opener import BundleScorer
from trt_int8.runtime.score.run import ScoreOptions


def bundle_of(make: pytest.TempPathFactory, write: Any, kind: str, **config: Any) -> Path:
    folder = make.mktemp("score")
    return TinyText(folder / "model", write, kind, **config).bundle(folder / "bundle")


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    labels = {0: "sad", 1: "glad", 2: "neither"}
    kind = "ForSequenceClassification"
    return bundle_of(tmp_path_factory, write_wordpiece, kind, id2label=labels)


@pytest.fixture(scope="session")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    labels = {0: "O", 1: "B-PER", 2: "I-PER"}
    kind = "ForTokenClassification"
    return bundle_of(tmp_path_factory, write_wordpiece, kind, id2label=labels)


@pytest.fixture(scope="session")
def answerer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle_of(tmp_path_factory, write_byte_bpe, "ForQuestionAnswering")


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle_of(tmp_path_factory, write_unigram, "Model")


@pytest.fixture
def options(tmp_path: Path) -> ScoreOptions:
    """23 rows, 2 of which fail, in parts of 5."""
    (tmp_path / "x.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    bundle = make_bundle(tmp_path / "bundle")
    return ScoreOptions(
        scorer=BundleScorer(str(bundle)),
        data=tmp_path / "x.txt",
        out=tmp_path / "out",
        form="npy",
        rows_per_part=5,
    )
