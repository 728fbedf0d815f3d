"""Options of a text session, and tokenizers that the caller names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

from tests.support.text_models import TinyText
from trt_int8.errors import BundleError, RequestError
from trt_int8.runtime.options import SessionOptions
from trt_int8.runtime.session import Session
from trt_int8.runtime.text.options import TextOptions
from trt_int8.runtime.text.session import TextSession
from trt_int8.runtime.text.tokens import load_tokenizer

LONG = "The quick brown fox " * 30


@pytest.fixture(scope="module")
def bundle(encoder: TinyText, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoder.bundle(tmp_path_factory.mktemp("bundle") / "b")


def test_texts_are_cut_to_the_longest_of_fixed_shapes(bundle: Path) -> None:
    options = TextOptions(session=SessionOptions(shapes=((2, 8), (2, 16))))
    with TextSession.open(bundle, "cpu", options=options) as session:
        found = list(session.iter_embed([LONG, "fox"]))
    assert [one.error for one in found] == [None, None]
    assert found[0].tokens == 16
    assert found[0].cut > 0


def test_batches_hold_as_many_tokens_as_asked_for(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []
    submit = Session.submit

    def note(self: Session, feeds: Any) -> Any:
        seen.append(feeds["input_ids"].shape)
        return submit(self, feeds)

    monkeypatch.setattr(Session, "submit", note)
    with TextSession.open(bundle, "cpu", options=TextOptions(max_batch_tokens=32)) as session:
        few = session.embed(["fox"] * 9)
    assert max(rows * tokens for rows, tokens in seen) == 32
    seen.clear()
    with TextSession.open(bundle, "cpu") as session:
        many = session.embed(["fox"] * 9)
    assert [rows for rows, _ in seen] == [9]
    np.testing.assert_array_equal(few, many)


def test_a_batch_of_no_tokens_is_refused(bundle: Path) -> None:
    with (
        TextSession.open(bundle, "cpu", options=TextOptions(max_batch_tokens=0)) as session,
        pytest.raises(RequestError, match="max_batch_tokens is 0"),
    ):
        session.embed(["fox"])


def test_a_text_that_is_too_long_is_an_error_where_it_may_not_be_cut(bundle: Path) -> None:
    with (
        TextSession.open(bundle, "cpu", options=TextOptions(truncate=False)) as session,
        pytest.raises(RequestError, match="text 0 has"),
    ):
        session.embed([LONG])


def changed(source: Path, folder: Path, **changes: Any) -> Path:
    """A copy of a tokenizer with another `tokenizer_config.json`."""
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
    known = json.loads((source / "tokenizer_config.json").read_text(encoding="utf-8"))
    text = json.dumps({**known, **changes})
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
    return folder


def test_a_tokenizer_that_is_named_cuts_as_its_own_files_say(
    bundle: Path, encoder: TinyText, tmp_path: Path
) -> None:
    given = changed(encoder.folder, tmp_path / "t", model_max_length=9, truncation_side="left")
    with TextSession.open(bundle, "cpu", tokenizer=given) as session:
        assert session.settings.max_tokens == 9
        assert session.settings.truncation_side == "left"
        assert session.settings.task == "features"
        assert next(session.iter_embed([LONG])).tokens == 9


def test_a_setting_that_only_tokenizer_config_has_is_obeyed(
    classifier: TinyText, tmp_path: Path
) -> None:
    changes = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    given = changed(classifier.folder, tmp_path / "t", **changes)
    text = "The QUICK Fox"
    wanted = transformers.AutoTokenizer.from_pretrained(given)(text)["input_ids"]
    found = load_tokenizer(given, classifier.settings, as_configured=True).encode([(text,)])
    assert found[0].ids.tolist() == wanted
    plain = load_tokenizer(given, classifier.settings).encode([(text,)])
    assert plain[0].ids.tolist() != wanted


def test_a_damaged_tokenizer_that_is_named_is_an_error_with_a_mend(
    bundle: Path, encoder: TinyText, tmp_path: Path
) -> None:
    given = changed(encoder.folder, tmp_path / "t")
    (given / "tokenizer.json").write_text('{"model": 1', encoding="utf-8")
    with pytest.raises(BundleError, match="cannot be"):
        TextSession.open(bundle, "cpu", tokenizer=given)
