"""Text sessions over the real session of a bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.text_models import TinyText, scores_of_pipeline
from trt_int8.engine.bundle import list_files
from trt_int8.engine.manifest_reader import load_manifest
from trt_int8.errors import BundleError, ChangedFileError, SessionError
from trt_int8.runtime.session import Session
from trt_int8.runtime.text import opening
from trt_int8.runtime.text.session import TextSession
from trt_int8.runtime.text.tokens import TextTokenizer, load_tokenizer
from trt_int8.spec.manifest import MANIFEST_NAME
from trt_int8.spec.text import TextSettings

TEXTS = ["The quick brown fox", "", "naïve café 🙂", "x " * 99, "fox"]


@pytest.fixture(scope="module")
def bundle(classifier: TinyText, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier.bundle(tmp_path_factory.mktemp("bundle") / "b")


def test_a_bundle_answers_texts_as_its_model_does(bundle: Path, classifier: TinyText) -> None:
    with TextSession.open(bundle, "cpu") as session:
        found = session.classify(TEXTS)
    for text, labels in zip(TEXTS, found, strict=True):
        wanted = scores_of_pipeline(classifier, text)
        for each in labels:
            assert each.score == pytest.approx(wanted[each.name], abs=2e-2)


def test_every_way_gives_the_same_bits(encoder: TinyText, tmp_path: Path) -> None:
    made = encoder.bundle(tmp_path / "b")
    with TextSession.open(made, "cpu") as texts, Session.open(made, "cpu") as session:
        found = texts.embed(TEXTS, pooling="cls")
        for text, vector in zip(TEXTS, found, strict=True):
            read = encoder.tokenizer(text, truncation=True, max_length=40, return_tensors="np")
            feeds = {one.name: read[one.name].astype(np.int64) for one in session.inputs}
            outputs = session.run(feeds)["last_hidden_state"]
            assert np.array_equal(outputs[0, 0], vector)


def test_a_closed_session_answers_no_more(bundle: Path) -> None:
    session = TextSession.open(bundle, "cpu")
    session.close()
    session.close()
    with pytest.raises(SessionError):
        session.classify(["fox"])


def test_a_bundle_without_a_tokenizer_says_how_to_give_one(
    classifier: TinyText, tmp_path: Path
) -> None:
    older = classifier.bundle(tmp_path / "b", with_tokenizer=False)
    with pytest.raises(BundleError, match="pass tokenizer=FOLDER"):
        TextSession.open(older, "cpu")
    with TextSession.open(older, "cpu", tokenizer=classifier.folder) as session:
        assert session.settings == classifier.settings
        assert session.classify(["fox"], top_k=1)[0][0].name in ("sad", "glad", "neither")


def test_a_changed_tokenizer_is_refused(classifier: TinyText, tmp_path: Path) -> None:
    made = classifier.bundle(tmp_path / "b")
    file = made / "tokenizer" / "tokenizer.json"
    file.write_text(file.read_text(encoding="utf-8").replace("fox", "dog", 1) + " ")
    with pytest.raises(ChangedFileError, match=r"tokenizer/tokenizer\.json"):
        TextSession.open(made, "cpu")


def test_a_tokenizer_is_loaded_from_the_checked_files_and_nothing_beside_them(
    classifier: TinyText, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = classifier.bundle(tmp_path / "b")
    listed = {p.name: p.read_bytes() for p in (made / "tokenizer").iterdir()}
    (made / "tokenizer" / "added_tokens.json").write_text("{}", encoding="utf-8")
    seen: dict[str, bytes] = {}

    def loaded(folder: Path, settings: TextSettings) -> TextTokenizer:
        seen.update({p.name: p.read_bytes() for p in folder.iterdir()})
        for file in (made / "tokenizer").iterdir():  # replaced at the last moment
            file.write_text("{}", encoding="utf-8")
        return load_tokenizer(folder, settings)

    monkeypatch.setattr(opening, "load_tokenizer", loaded)
    with TextSession.open(made, "cpu") as session:
        assert len(session.classify(["fox"])) == 1
    assert seen == listed


def test_a_damaged_tokenizer_is_named_by_its_place_in_the_bundle(
    classifier: TinyText, tmp_path: Path
) -> None:
    made = classifier.bundle(tmp_path / "b")
    file = made / "tokenizer" / "tokenizer.json"
    file.write_text("{", encoding="utf-8")
    changed = load_manifest(made).model_copy(update={"files": list_files(made)})
    (made / MANIFEST_NAME).write_text(changed.to_json(), encoding="utf-8")
    with pytest.raises(BundleError) as caught:
        TextSession.open(made, "cpu")
    assert f"the tokenizer in {str(made / 'tokenizer')!r} cannot be loaded" in caught.value.came
