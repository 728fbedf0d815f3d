from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.text_models import TinyText, write_byte_bpe, write_unigram, write_wordpiece
from trt_int8.cli.app import main
from trt_int8.runtime.text.answers import AnswerOptions
from trt_int8.runtime.text.session import TextSession

CONTEXT = "Marie Curie was born in Warsaw; she moved to Paris. 🙂 " * 3


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["run", *map(str, arguments), "--device", "cpu"])
    return int(ended.value.code or 0)


def made(folder: Path, write_tokenizer: Any, kind: str, **config: Any) -> Path:
    model = TinyText(folder / "model", write_tokenizer, kind, **config)
    return model.bundle(folder / "bundle")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("encoder"), write_unigram, "Model")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classifier")
    names = {0: "sad", 1: "glad"}
    return made(folder, write_wordpiece, "ForSequenceClassification", id2label=names)


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tagger")
    names = {0: "PER", 1: "LOC"}
    return made(folder, write_wordpiece, "ForTokenClassification", id2label=names)


@pytest.fixture(scope="module")
def answerer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("answerer"), write_byte_bpe, "ForQuestionAnswering")


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_embeddings_are_shown_with_norm_and_similarity(
    encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(encoder, "--text", "The fox", "--text", "The fox", "--text", "🙂") == 0
    shown = capsys.readouterr().out
    assert "3 embeddings of 64 numbers" in shown
    assert "cosine similarity" in shown
    assert re.search(r"│ 0 │ 1\.000 │ 1\.000 │ -?0\.\d{3} │", shown)


def test_one_embedding_is_compared_with_nothing(
    encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(encoder, "--text", "The fox") == 0
    shown = capsys.readouterr()
    assert "1 embedding of 64 numbers" in shown.out
    assert "similarity" not in shown.out
    assert re.match(r"note: m on cpu, \w+", shown.err)


def test_labels_are_shown_best_first_with_bars(
    classifier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(classifier, "--text", "The fox") == 0
    shown = capsys.readouterr().out
    scores = [float(score) for score in re.findall(r"(?:sad|glad)\s+│ (0\.\d+)", shown)]
    assert len(scores) == 2
    assert scores == sorted(scores, reverse=True)
    assert "█" in shown


def test_tags_are_shown_with_their_characters(
    tagger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tagger, "--text", "Marie Curie") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Marie Curie\n")
    assert re.search(r"^  (PER|LOC)  .*characters \d+ to \d+$", shown, re.MULTILINE)


def test_answers_are_shown_in_their_context(
    answerer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(answerer, "--text", "Who?", "--context", CONTEXT, "--top-k", 2) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Who?\n")
    assert len(re.findall(r"characters \d+ to \d+", shown)) == 2


def test_json_has_an_object_per_text_and_nothing_else(
    encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(encoder, "--text", "The fox", "--text", "naïve 🙂", "--json") == 0
    found = lines(capsys.readouterr().out)
    assert [each["text"] for each in found] == ["The fox", "naïve 🙂"]
    with TextSession.open(encoder, "cpu") as session:
        wanted = session.embed(["The fox", "naïve 🙂"])
    assert np.array_equal(np.array([each["embedding"] for each in found], np.float32), wanted)


def test_json_of_the_other_tasks_is_what_the_session_gives(
    classifier: Path, tagger: Path, answerer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with TextSession.open(classifier, "cpu") as session:
        label = session.classify(["fox"], top_k=1)[0][0]
    assert run(classifier, "--text", "fox", "--json", "--top-k", 1) == 0
    assert lines(capsys.readouterr().out)[0]["labels"] == [
        {"name": label.name, "score": label.score}
    ]
    assert run(tagger, "--text", "", "--json") == 0
    assert lines(capsys.readouterr().out)[0]["tags"] == []
    with TextSession.open(answerer, "cpu") as session:
        spans = session.answer("Who?", CONTEXT, AnswerOptions(top_k=3))
    assert run(answerer, "--text", "Who?", "--context", CONTEXT, "--json", "--top-k", 3) == 0
    found = lines(capsys.readouterr().out)[0]
    assert found["text"] == ["Who?", CONTEXT]
    assert [(each["start"], each["end"]) for each in found["answers"]] == [
        (span.start, span.end) for span in spans
    ]


def test_line_n_of_a_file_is_result_n(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "texts.txt"
    file.write_bytes("\ufeffThe fox\r\n\r\n東京\none\ttwo\nlast".encode())
    assert run(encoder, "--file", file, "--json") == 0
    found = [each["text"] for each in lines(capsys.readouterr().out)]
    assert found == ["The fox", "", "東京", ["one", "two"], "last"]


def test_a_npy_file_holds_the_embeddings(encoder: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "texts.txt", tmp_path / "out.npy"
    texts = [f"fox {'again ' * (number % 9)}" for number in range(70)]
    file.write_text("\n".join(texts) + "\n", encoding="utf-8")
    assert run(encoder, "--file", file, "--out", out) == 0
    with TextSession.open(encoder, "cpu") as session:
        wanted = session.embed(texts)
    found = np.load(out)
    assert found.dtype == np.float32
    assert np.array_equal(found, wanted)
    assert [each.name for each in tmp_path.iterdir() if each not in (file, out)] == []


def test_a_jsonl_file_has_the_lines_that_json_prints(
    classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    assert run(classifier, "--text", "🙂 fox", "--out", out) == 0
    assert "1 result: " in capsys.readouterr().out
    assert run(classifier, "--text", "🙂 fox", "--json") == 0
    assert out.read_text(encoding="utf-8") == capsys.readouterr().out


def test_a_failure_leaves_the_old_file_and_nothing_beside_it(
    answerer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, file = tmp_path / "out.jsonl", tmp_path / "in.txt"
    out.write_text("old", encoding="utf-8")
    file.write_text(f"Who?\t{CONTEXT}\nno context\n", encoding="utf-8")
    assert run(answerer, "--file", file, "--out", out, "--force") == 1
    assert "text 1: the question has no context" in capsys.readouterr().err
    assert out.read_text(encoding="utf-8") == "old"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["in.txt", "out.jsonl"]


def test_cut_texts_are_noted_on_standard_error(
    encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(encoder, "--text", "fox " * 90, "--json") == 0
    shown = capsys.readouterr()
    assert len(lines(shown.out)) == 1
    assert re.fullmatch(r"note: 1 text was cut to 40 tokens \(\d+ tokens left out\)\n", shown.err)


WRONG = {
    "no text": ((), "there is no text"),
    "missing file": (("--file", "missing.txt"), "cannot be read"),
    "top-k": (("--text", "a", "--top-k", "2"), "--top-k with a model for features"),
    "suffix": (("--text", "a", "--out", "o.csv"), "ends in neither"),
    "no folder": (("--text", "a", "--out", "no/o.npy"), "in none that exists"),
    "device": (("--text", "a", "--device", "tpu"), "tpu"),
    "workers": (("--text", "a", "--workers", "0"), "0"),
    "precision": (("--text", "a", "--precision", "int4"), "int4"),
    "tokenizer": (("--text", "a", "--tokenizer", "no"), "the tokenizer in 'no'"),
    "surrogate": (("--text", "a\udcff"), "lone surrogate"),
}


@pytest.mark.parametrize("case", list(WRONG))
def test_a_wrong_option_is_one_line_and_code_1(
    case: str,
    encoder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    options, message = WRONG[case]
    device = () if "--device" in options else ("--device", "cpu")
    with pytest.raises(SystemExit) as ended:
        main(["run", str(encoder), *options, *device])
    shown = capsys.readouterr()
    assert (ended.value.code, shown.out) == (1, "")
    assert len(shown.err.splitlines()) == 1
    assert message in shown.err


def test_a_file_that_is_no_text_or_has_three_fields_is_refused(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "in.txt"
    for data, message in (
        (b"\xff\xfe", "is not UTF-8 (byte 0)"),
        (b"a\na\tb\tc\n", "line 2 has 3 tab-separated fields"),
        (b"", "there is no text"),
    ):
        file.write_bytes(data)
        assert run(encoder, "--file", file) == 1
        assert message in capsys.readouterr().err
    file.write_text("a\tb\n", encoding="utf-8")
    assert run(encoder, "--file", file, "--context", "c") == 1
    assert "the file has pairs, and --context" in capsys.readouterr().err


def test_a_place_that_must_stay_is_not_written(
    encoder: Path, classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.npy"
    out.write_bytes(b"old")
    assert run(encoder, "--text", "a", "--out", out) == 1
    assert "add --force" in capsys.readouterr().err
    assert run(encoder, "--text", "a", "--out", encoder / "out.npy") == 1
    assert "lies in what is read" in capsys.readouterr().err
    assert run(classifier, "--text", "a", "--out", out, "--force") == 1
    assert ".npy is for embeddings" in capsys.readouterr().err
    assert out.read_bytes() == b"old"


def test_control_characters_of_a_text_do_not_reach_the_terminal(
    encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(encoder, "--text", "a\x1b[2Jb\x07[red]c[/red]") == 0
    shown = capsys.readouterr().out
    assert "\x1b[2J" not in shown
    assert "a [2Jb [red]c[/red]" in shown
