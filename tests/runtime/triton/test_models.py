"""The `model.py` files of a repository, run against a stand-in for the server's Python API."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.runtime.triton.python_backend import LoadedModel, loaded, strings
from tests.runtime.triton.tiny import CLASSES, WORDS, make_bundle
from trt_int8.runtime.triton.export import export_triton
from trt_int8.runtime.triton.options import TritonOptions

TEXTS = ("a small word in the ship", "ship", "北京 the 🙂", "a word " * 9, "")


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    bundle = make_bundle(folder / "bundle", text=CLASSES)
    options = TritonOptions(device="cpu", text=True)
    return export_triton(bundle, folder / "repo", options).folder


@pytest.fixture(scope="module")
def tokenizer(repo: Path) -> Iterator[LoadedModel]:
    with loaded(repo / "tiny_tokenizer") as model:
        yield model


def transformers_tokenizer(repo: Path) -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(repo / "tiny_tokenizer" / "1" / "tokenizer" / "tokenizer.json"),
        pad_token="[PAD]",
        unk_token="[UNK]",
    )


@pytest.mark.parametrize("texts", [(text,) for text in TEXTS] + [TEXTS])
def test_arrays_are_those_of_transformers(
    repo: Path, tokenizer: LoadedModel, texts: tuple[str, ...]
) -> None:
    known = transformers_tokenizer(repo)
    cut = known(list(texts), truncation=True, max_length=20)
    longest = max(len(row) for row in cut["input_ids"])
    length = next(size for size in (8, 16, 20) if size >= longest)
    wanted = known.pad(cut, padding="max_length", max_length=length, return_tensors="np")
    (response,) = tokenizer.execute(strings(*texts))
    assert response.error is None
    assert set(response.arrays) == {"input_ids", "attention_mask"}
    for name, array in response.arrays.items():
        assert array.dtype == np.int64
        np.testing.assert_array_equal(array, wanted[name])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.lists(st.lists(st.sampled_from(WORDS[4:]), max_size=30), min_size=1, max_size=4),
        min_size=1,
        max_size=4,
    )
)
def test_requests_keep_their_order_and_do_not_see_each_other(
    tokenizer: LoadedModel, requests: list[list[list[str]]]
) -> None:
    given_texts = [[" ".join(words) for words in request] for request in requests]
    responses = tokenizer.execute(*(strings(*texts) for texts in given_texts))
    for words_of, response in zip(requests, responses, strict=True):
        ids, mask = response.arrays["input_ids"], response.arrays["attention_mask"]
        assert ids.shape[1] in (8, 16, 20)
        for words, row, real in zip(words_of, ids, mask, strict=True):
            kept = [WORDS.index(word) for word in words][:18]
            assert row[real == 1].tolist() == [2, *kept, 3]
            assert set(row[real == 0].tolist()) <= {1}
            assert real.tolist() == sorted(real.tolist(), reverse=True)


def test_a_text_that_is_not_utf_8_fails_alone(tokenizer: LoadedModel) -> None:
    good, bad, other = tokenizer.execute(strings("ship"), strings(b"\xff\xfe"), strings("a"))
    assert bad.error is not None
    assert bad.error.code == "INVALID_ARG"
    assert good.error is None
    assert other.arrays["input_ids"][0, :3].tolist() == [2, 4, 3]


def test_a_long_text_loses_its_start_where_the_model_wants_that(tmp_path: Path) -> None:
    text = CLASSES.model_copy(update={"truncation_side": "left", "max_tokens": 5})
    bundle = make_bundle(tmp_path / "bundle", text=text)
    made = export_triton(bundle, tmp_path / "repo", TritonOptions(device="cpu", text=True))
    with loaded(made.folder / "tiny_tokenizer") as model:
        (response,) = model.execute(strings("a small word in the ship"))
    assert response.arrays["input_ids"].tolist() == [[2, 7, 8, 9, 3, 1, 1, 1]]


def test_padding_goes_to_the_left_where_the_model_wants_it(tmp_path: Path, repo: Path) -> None:
    del repo
    text = CLASSES.model_copy(update={"padding_side": "left", "task": "token-classification"})
    bundle = make_bundle(tmp_path / "bundle", text=text)
    made = export_triton(bundle, tmp_path / "repo", TritonOptions(device="cpu", text=True))
    with loaded(made.folder / "tiny_tokenizer") as model:
        (response,) = model.execute(strings("a ship"))
    assert response.arrays["input_ids"].tolist() == [[1, 1, 1, 1, 2, 4, 9, 3]]
    assert response.arrays["attention_mask"].tolist() == [[0, 0, 0, 0, 1, 1, 1, 1]]
    characters = response.arrays["offsets"][0, 4:].tolist()
    assert characters == [[0, 0], [0, 1], [2, 6], [0, 0]]


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_the_network_answers_each_request_of_a_batch(
    repo: Path, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(runtime)
    if runtime == "onnxruntime":
        monkeypatch.setitem(sys.modules, "openvino", None)
    counts = ([3], [5, 1], [2])
    sizes = (8, 8, 16)
    requests = []
    for real, size in zip(counts, sizes, strict=True):
        mask = (np.arange(size) < np.array(real)[:, None]).astype(np.int64)
        requests.append({"input_ids": mask * 7, "attention_mask": mask})
    with loaded(repo / "tiny") as model:
        responses = model.execute(*requests)
    for real, response in zip(counts, responses, strict=True):
        wanted = np.array(real, np.float32)[:, None] * np.array([0.5, -0.25, 0.125], np.float32)
        np.testing.assert_array_equal(response.arrays["logits"], wanted)


def test_equal_shapes_run_as_one_batch(repo: Path) -> None:
    batches: list[tuple[int, ...]] = []
    one = {name: np.ones((1, 8), np.int64) for name in ("input_ids", "attention_mask")}
    two = {name: np.ones((1, 16), np.int64) for name in ("input_ids", "attention_mask")}
    with loaded(repo / "tiny") as model:
        run = model._model._run

        def counted(feeds: dict[str, Any]) -> Any:
            batches.append(feeds["input_ids"].shape)
            return run(feeds)

        model._model._run = counted
        model.execute(one, two, one, one)
    assert batches == [(3, 8), (1, 16)]


def test_a_network_that_fails_answers_with_its_error(repo: Path) -> None:
    one = {name: np.ones((1, 8), np.int64) for name in ("input_ids", "attention_mask")}
    wrong = {"input_ids": np.ones((1, 8), np.int64), "attention_mask": np.ones((1, 9), np.int64)}
    with loaded(repo / "tiny") as model:
        failed, fine = model.execute(wrong, one)
    assert failed.error is not None
    assert failed.arrays == {}
    assert fine.error is None


def test_scores_are_a_softmax_and_the_label_is_the_best(repo: Path) -> None:
    scipy = pytest.importorskip("scipy.special")
    logits = np.array([[1, 2, 3], [1e4, 0, -1e4], [-5, -5, -7]], np.float32)
    with loaded(repo / "tiny_scores") as model:
        (response,) = model.execute({"logits": logits})
    scores = response.arrays["scores"]
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, scipy.softmax(logits, axis=-1), rtol=1e-6, atol=1e-12)
    assert response.arrays["label"].tolist() == [[b"so so"], [b"good"], [b"good"]]


def test_float16_logits_are_scored_in_float32(repo: Path) -> None:
    with loaded(repo / "tiny_scores") as model:
        (response,) = model.execute({"logits": np.array([[1, 2, 3]], np.float16)})
    assert response.arrays["scores"].dtype == np.float32


def test_classes_that_do_not_exclude_each_other_get_a_sigmoid_and_no_label(tmp_path: Path) -> None:
    scipy = pytest.importorskip("scipy.special")
    text = CLASSES.model_copy(update={"problem": "multi_label"})
    bundle = make_bundle(tmp_path / "bundle", text=text)
    made = export_triton(bundle, tmp_path / "repo", TritonOptions(device="cpu", text=True))
    logits = np.array([[0, 2, -200], [200, -3, 0.5]], np.float32)
    with loaded(made.folder / "tiny_scores") as model:
        (response,) = model.execute({"logits": logits})
    assert set(response.arrays) == {"scores"}
    np.testing.assert_allclose(response.arrays["scores"], scipy.expit(logits), rtol=1e-6)


def test_a_text_goes_through_all_three_models(repo: Path) -> None:
    with loaded(repo / "tiny_tokenizer") as model:
        (tokens,) = model.execute(strings("a ship", "the small word"))
    with loaded(repo / "tiny") as model:
        (logits,) = model.execute(tokens.arrays)
    with loaded(repo / "tiny_scores") as model:
        (scores,) = model.execute(logits.arrays)
    # 4 and 5 tokens with [CLS] and [SEP]; the first class has the largest weight.
    np.testing.assert_array_equal(logits.arrays["logits"][:, 0], [2.0, 2.5])
    assert scores.arrays["label"].tolist() == [[b"good"], [b"good"]]


def test_settings_are_plain_json(repo: Path) -> None:
    for model in ("tiny", "tiny_tokenizer", "tiny_scores"):
        json.loads((repo / model / "1" / "settings.json").read_text(encoding="utf-8"))
