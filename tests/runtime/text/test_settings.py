from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trt_int8.errors import BundleError
from trt_int8.runtime.tensors import Signature, TensorInfo
from trt_int8.runtime.text.settings import least, longest_of, model_settings, read_settings
from trt_int8.spec.text import TextSettings

LOGITS_2 = TensorInfo("logits", "float32", ("batch", 3))
LOGITS_3 = TensorInfo("logits", "float32", ("batch", "sequence", 3))
HIDDEN = TensorInfo("last_hidden_state", "float32", ("batch", "sequence", 64))
SENTENCE = TensorInfo("sentence_embedding", "float32", ("batch", 64))
SPANS = tuple(
    TensorInfo(name, "float32", ("batch", "sequence")) for name in ("start_logits", "end_logits")
)


def config(architecture: str, **more: Any) -> dict[str, Any]:
    return {"architectures": [architecture], **more}


@pytest.mark.parametrize(
    ("outputs", "given", "task"),
    [
        ((SENTENCE,), {}, "embedding"),
        ((HIDDEN, SENTENCE), config("BertModel"), "embedding"),
        (SPANS, {}, "question-answering"),
        ((LOGITS_2,), config("BertForSequenceClassification"), "classification"),
        ((LOGITS_3,), config("BertForTokenClassification"), "token-classification"),
        ((HIDDEN,), config("BertModel"), "features"),
        # Not sure, so only features.
        ((LOGITS_2,), {}, "features"),
        ((LOGITS_3,), {}, "features"),
        ((LOGITS_3,), config("BertForMaskedLM"), "features"),
        ((LOGITS_3,), config("BertForSequenceClassification"), "features"),
        ((HIDDEN,), config("BertForTokenClassification"), "features"),
        ((SPANS[0],), config("BertForQuestionAnswering"), "features"),
        ((LOGITS_2,), {"architectures": None}, "features"),
        ((LOGITS_2,), {"architectures": {"a": 1}}, "features"),
        ((LOGITS_2,), {"architectures": 7}, "features"),
    ],
)
def test_a_task_needs_outputs_and_configuration_that_agree(
    outputs: tuple[TensorInfo, ...], given: dict[str, Any], task: str
) -> None:
    assert model_settings(outputs, given).task == task


@pytest.mark.parametrize(
    ("named", "labels"),
    [
        ({2: "c", 0: "a", 1: "b"}, ("a", "b", "c")),
        ({"2": "c", "0": "a", "1": "b"}, ("a", "b", "c")),
        ({str(n): str(n) for n in range(12)}, ()),
        ({"0": "a", "1": "b"}, ()),
        ({"1": "a", "2": "b", "3": "c"}, ()),
        (None, ()),
    ],
)
def test_labels_come_in_the_order_of_the_logits_or_not_at_all(
    named: Any, labels: tuple[str, ...]
) -> None:
    given = config("BertForSequenceClassification", id2label=named)
    assert model_settings((LOGITS_2,), given).labels == labels


@pytest.mark.parametrize(
    ("problem", "count", "wanted"),
    [
        (None, 3, "single_label"),
        (None, 1, "multi_label"),
        ("regression", 1, "regression"),
        ("multi_label_classification", 3, "multi_label"),
        ("single_label_classification", 3, "single_label"),
        ("single_label_classification", 1, "multi_label"),
    ],
)
def test_the_problem_is_that_of_transformers_pipeline(
    problem: str | None, count: int, wanted: str
) -> None:
    output = TensorInfo("logits", "float32", ("batch", count))
    given = config("BertForSequenceClassification", problem_type=problem)
    assert model_settings((output,), given).problem == wanted


def signature(largest: int) -> Signature:
    info = TensorInfo("input_ids", "int64", ("batch", "sequence"), (1, 1), (4, largest))
    return Signature((info,), (SENTENCE,), {"input_ids": 1}, None)


def test_the_limit_is_the_least_that_is_one() -> None:
    assert least(None, 10**30, float("inf"), 512, 384, 0) == 384
    assert least(None, 10**30) is None
    assert longest_of(signature(96)) == 96
    assert longest_of(signature(2**31 - 1)) is None


def write(folder: Path, **files: Any) -> None:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")


def test_settings_of_an_older_bundle_come_from_the_tokenizers_folder(tmp_path: Path) -> None:
    added = [{"id": 0, "content": "<s>"}, {"id": 7, "content": "<pad>"}]
    write(
        tmp_path,
        tokenizer={"added_tokens": added},
        tokenizer_config={
            "pad_token": {"content": "<pad>"},
            "model_max_length": 50,
            "padding_side": "left",
            "truncation_side": "left",
        },
    )
    assert read_settings(tmp_path, signature(96)) == TextSettings(
        task="embedding",
        pad_token_id=7,
        padding_side="left",
        truncation_side="left",
        max_tokens=50,
    )


def test_without_any_file_the_defaults_and_the_profile_count(tmp_path: Path) -> None:
    assert read_settings(tmp_path, signature(96)) == TextSettings(task="embedding", max_tokens=96)


@pytest.mark.parametrize("content", ["{", "[]", "\xff"])
def test_a_damaged_file_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(BundleError, match=r"config\.json' cannot be read"):
        read_settings(tmp_path, signature(96))


def test_tokens_have_one_tag_each_whatever_the_configuration_says() -> None:
    given = config("BertForTokenClassification", problem_type="multi_label_classification")
    assert model_settings((LOGITS_3,), given).problem == "single_label"


def test_a_number_of_classes_that_is_none_does_no_harm() -> None:
    output = TensorInfo("logits", "float32", ("batch", "classes"))
    given = config("BertForSequenceClassification", num_labels="three")
    assert model_settings((output,), given).problem == "single_label"
