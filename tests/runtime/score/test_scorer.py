"""Scoring with real bundles: the same bits as a text session or a session gives."""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.runtime.score.conftest import bundle_of
from tests.support import tiny_int8
from tests.support.fake_scorer import Watcher
from tests.support.text_models import write_wordpiece
from trt_int8.errors import BundleError, ScoreError
from trt_int8.runtime import intake
from trt_int8.runtime.cpu.openvino import OpenVinoBackend
from trt_int8.runtime.cpu.options import CpuOptions
from trt_int8.runtime.cpu.threads import default_threads
from trt_int8.runtime.score import scorer as scorer_module
from trt_int8.runtime.score.opener import BundleScorer
from trt_int8.runtime.score.rows import Columns
from trt_int8.runtime.score.run import ScoreOptions, run_score
from trt_int8.runtime.session import Session
from trt_int8.runtime.text.session import TextSession

TEXTS = ["The quick fox", "", "naïve café", "x " * 60, "fox", "a b c d e f g", "Marie Curie", "z"]
PAIRS = [("Who?", "Marie Curie was born."), ("Where?", "in Warsaw " * 9), ("a", "b c d")]


def scorer(bundle: Path, **changes: Any) -> BundleScorer:
    return BundleScorer(str(bundle), device="cpu", **changes)


def score(
    folder: Path, bundle: BundleScorer, rows: list[Any], **changes: Any
) -> list[dict[str, Any]]:
    """Lines of all parts."""
    data = folder / "x.jsonl"
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    options = ScoreOptions(bundle, data, folder / "out", rows_per_part=3)
    run_score(replace(options, **changes), Watcher())
    parts = sorted((folder / "out").glob("part-*.jsonl"))
    return [json.loads(line) for part in parts for line in part.read_text("utf-8").splitlines()]


def test_vectors_are_those_of_a_text_session_bit_for_bit(encoder: Path, tmp_path: Path) -> None:
    """Whatever the parts, and the order of the rows."""
    with TextSession.open(encoder, "cpu") as session:
        wanted = np.stack([session.embed([text])[0] for text in TEXTS])
    for order, size in ((1, 3), (-1, 5), (1, 100)):
        out = tmp_path / f"{order}{size}"
        out.mkdir()
        changes: dict[str, Any] = {"form": "npy", "rows_per_part": size}
        score(out, scorer(encoder), TEXTS[::order], **changes)
        parts = sorted((out / "out").glob("part-*.npy"))
        found = np.concatenate([np.load(part) for part in parts])
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found[::order], wanted)


def test_classes_come_with_all_their_scores_in_the_order_of_the_model(
    classifier: Path, tmp_path: Path
) -> None:
    with TextSession.open(classifier, "cpu") as session:
        wanted = session.classify(TEXTS)
    for line, labels in zip(score(tmp_path, scorer(classifier), TEXTS), wanted, strict=True):
        by_name = {label.name: np.float32(label.score) for label in labels}
        assert (line["label"], line["score"]) == (labels[0].name, labels[0].score)
        assert [np.float32(value) for value in line["scores"]] == [
            by_name[name] for name in ("sad", "glad", "neither")
        ]


def test_tags_are_those_of_a_text_session(tagger: Path, tmp_path: Path) -> None:
    with TextSession.open(tagger, "cpu") as session:
        wanted = session.tag(TEXTS)
    found = score(tmp_path, scorer(tagger), TEXTS)
    assert [line["tags"] for line in found] == [[asdict(t) for t in tags] for tags in wanted]
    assert any(line["tags"] for line in found)


def test_questions_are_answered_from_two_columns(answerer: Path, tmp_path: Path) -> None:
    with TextSession.open(answerer, "cpu") as session:
        wanted = session.answer_pairs(PAIRS)
    rows = [{"q": question, "ctx": context} for question, context in PAIRS]
    found = score(tmp_path, scorer(answerer), rows, columns=Columns("q", "ctx"))
    assert [line["answers"] for line in found] == [[asdict(s) for s in spans] for spans in wanted]


def test_a_single_text_to_a_model_that_answers_questions_fails_alone(
    answerer: Path, tmp_path: Path
) -> None:
    first, second = score(tmp_path, scorer(answerer), [["Who?", "Marie."], "Who?"])
    assert first["answers"]
    assert second["error"].startswith("the question has no context; wanted ")


def test_a_text_that_is_too_long_fails_alone_if_it_may_not_be_cut(
    classifier: Path, tmp_path: Path
) -> None:
    found = score(tmp_path, scorer(classifier, truncate=False), TEXTS)
    assert [line["row"] for line in found if "error" in line] == [3]
    assert re.fullmatch("the text has [0-9]+ tokens; wanted at most 40", found[3]["error"])
    whole = score(tmp_path, scorer(classifier), TEXTS, force=True)
    assert [line for line in whole if line["row"] != 3] == [
        line for line in found if line["row"] != 3
    ]
    assert "label" in whole[3]


def test_tokens_and_padding_are_counted(encoder: Path, tmp_path: Path) -> None:
    with TextSession.open(encoder, "cpu") as session:
        tokens = sum(result.tokens for result in session.iter_embed(TEXTS))
    data = tmp_path / "x.txt"
    data.write_text("\n".join(TEXTS), encoding="utf-8")
    tally = run_score(ScoreOptions(scorer(encoder), data, tmp_path / "out"), Watcher()).index.tally
    assert tally.tokens == tokens
    assert tally.padded_tokens > tokens
    assert tally.batches >= 2


def arrays(count: int, length: int) -> dict[str, np.ndarray]:
    ids = np.arange(count * length).reshape(count, length) % 90 + 5
    mask = (np.arange(length) < np.arange(1, count + 1)[:, None] + 3).astype(np.int64)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def test_rows_of_arrays_give_the_outputs_of_a_session_bit_for_bit(
    classifier: Path, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    files = {"a": arrays(5, 12), "b": arrays(2, 9)}
    for name, each in files.items():
        np.savez(tmp_path / "in" / f"{name}.npz", **each)  # type: ignore[arg-type]
    with Session.open(classifier, "cpu") as session:
        wanted = [
            session.run({name: array[row : row + 1] for name, array in each.items()})["logits"][0]
            for each in files.values()
            for row in range(len(each["input_ids"]))
        ]
    options = ScoreOptions(
        scorer(classifier), tmp_path / "in", tmp_path / "out", form="npz", rows_per_part=3
    )
    run_score(options, Watcher())
    parts = sorted((tmp_path / "out").glob("part-*.npz"))
    found = np.concatenate([np.load(part)["logits"] for part in parts])
    np.testing.assert_array_equal(found, np.stack(wanted))


def test_an_array_that_does_not_fit_the_model_fails_alone(classifier: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    np.savez(tmp_path / "in" / "a.npz", **arrays(2, 9))  # type: ignore[arg-type]
    long = arrays(1, 77)
    np.savez(tmp_path / "in" / "b.npz", **long)  # type: ignore[arg-type]
    options = ScoreOptions(scorer(classifier), tmp_path / "in", tmp_path / "out", form="npy")
    assert run_score(options, Watcher()).faults == 1
    found = np.load(tmp_path / "out" / "part-00000.npy")
    assert np.isnan(found).all(axis=1).tolist() == [False, False, True]


def test_arrays_per_token_are_refused_as_npy(tagger: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **arrays(2, 9))  # type: ignore[arg-type]
    options = ScoreOptions(scorer(tagger), tmp_path / "x.npz", tmp_path / "out", form="npy")
    with pytest.raises(ScoreError, match=r"no fixed shape, which npy cannot hold; .*jsonl"):
        run_score(options, Watcher())


def test_texts_for_a_format_that_holds_arrays_only_are_refused_for_tags(
    tagger: Path, tmp_path: Path
) -> None:
    with pytest.raises(ScoreError, match="--format jsonl"):
        score(tmp_path, scorer(tagger), TEXTS, form="npy")


class Hurried:
    """A clock on which a minute passes between any two looks."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 60.0
        return self.now


def test_batches_depend_on_the_rows_alone(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source that is slow now and then does not close a window early."""
    seen: list[tuple[int, ...]] = []
    submit = Session.submit

    def note(self: Session, feeds: Any) -> Any:
        seen.append(feeds["input_ids"].shape)
        return submit(self, feeds)

    monkeypatch.setattr(Session, "submit", note)
    texts = [*TEXTS] * 20
    for name, clock in (("calm", time), ("hurried", Hurried())):
        monkeypatch.setattr(intake, "time", clock)
        (tmp_path / name).mkdir()
        changes: dict[str, Any] = {"rows_per_part": 160}
        score(tmp_path / name, scorer(encoder, max_batch_tokens=96), texts, **changes)
    half = len(seen) // 2
    assert seen[:half] == seen[half:]
    assert max(rows * tokens for rows, tokens in seen) <= 96


def test_a_bundle_that_reads_no_text_is_refused_for_texts(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"has no tokenizer; .*--tokenizer"):
        score(tmp_path, scorer(tiny_int8.bundle(tmp_path / "b")), TEXTS)


def test_two_classes_of_one_name_keep_their_own_scores(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    names = {0: "same", 1: "other", 2: "same"}
    kind = "ForSequenceClassification"
    twins = bundle_of(tmp_path_factory, write_wordpiece, kind, id2label=names)
    with Session.open(twins, "cpu") as session:
        text = TextSession.over(session)
        scores = sorted(label.score for label in text.classify(["The quick fox"])[0])
    found = score(tmp_path, scorer(twins), ["The quick fox"])[0]["scores"]
    assert sorted(found) == pytest.approx(scores, rel=1e-6)
    assert len(set(found)) == 3


def test_sessions_that_share_a_machine_share_its_cores_and_give_the_same_bits(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    asked: list[int] = []
    start = OpenVinoBackend.__init__

    def note(self: OpenVinoBackend, model: bytes, outputs: Any, given: CpuOptions) -> None:
        asked.append(given.threads)
        start(self, model, outputs, given)

    monkeypatch.setattr(OpenVinoBackend, "__init__", note)
    monkeypatch.setattr(scorer_module, "default_threads", lambda: 8)
    found = []
    for sharing in (1, 3, 99):
        (tmp_path / str(sharing)).mkdir()
        found.append(score(tmp_path / str(sharing), scorer(encoder, sharing=sharing), TEXTS))
    assert asked == [default_threads(), 2, 1]
    assert found[0] == found[1] == found[2]
