"""The sentence head: reading its files, and its numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput, QuestionAnsweringModelOutput
from transformers.utils.generic import ModelOutput

from trt_int8.errors import ModelError
from trt_int8.model.heads import ExportWrapper, SentenceHead, sentence_head_of

MASK = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]])


class Backbone(nn.Module):
    """Hidden states [B, S, 2] made of the token ids alone; remembers what it was given."""

    def forward(self, **inputs: Any) -> ModelOutput:
        self.given = inputs
        ids = inputs["input_ids"].float()
        hidden = torch.stack([ids, -2 * ids], -1)
        return BaseModelOutput(last_hidden_state=hidden, hidden_states=(hidden,))


def embed(head: SentenceHead, ids: Tensor) -> Tensor:
    wrapper = ExportWrapper(Backbone(), ("input_ids", "attention_mask"), head)
    embedding: Tensor = wrapper(ids, MASK)[0]
    return embedding


def ids() -> Tensor:
    return torch.arange(3, 15).reshape(3, 4)


def folder(tmp_path: Path, *kinds: str, pooling: dict[str, Any] | None = None) -> Path:
    """A sentence-transformers folder with modules of the given kinds."""
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{k}", "type": f"sentence_transformers.models.{k}"}
        for i, k in enumerate(kinds)
    ]
    (tmp_path / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    if pooling is not None:
        (tmp_path / "1_Pooling").mkdir()
        (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(pooling), encoding="utf-8")
    return tmp_path


def test_mean_pooling_averages_the_unmasked_tokens() -> None:
    found = embed(SentenceHead("mean", normalize=False), ids())
    np.testing.assert_allclose(found.numpy(), [[4, -8], [7, -14], [0, 0]])


def test_cls_pooling_takes_the_first_token() -> None:
    found = embed(SentenceHead("cls", normalize=False), ids())
    np.testing.assert_allclose(found.numpy(), [[3, -6], [7, -14], [11, -22]])


def test_normalizing_gives_vectors_of_length_one() -> None:
    found = embed(SentenceHead("cls", normalize=True), ids())
    np.testing.assert_allclose(found.numpy(), np.tile([1, -2] / np.sqrt(5), (3, 1)), rtol=1e-6)


def test_a_sentence_without_tokens_gives_zeros_not_nan() -> None:
    found = embed(SentenceHead("mean", normalize=True), ids())
    np.testing.assert_array_equal(found[2].numpy(), [0, 0])


def test_with_a_head_the_embedding_is_the_only_output() -> None:
    wrapper = ExportWrapper(
        Backbone(), ("input_ids", "attention_mask"), SentenceHead("cls", normalize=False)
    )
    assert [tuple(t.shape) for t in wrapper(ids(), MASK)] == [(3, 2)]


def test_without_a_head_there_is_one_output() -> None:
    outputs = ExportWrapper(Backbone(), ("input_ids", "attention_mask"), None)(ids(), MASK)
    assert [tuple(t.shape) for t in outputs] == [(3, 4, 2)]


def test_without_a_head_all_float_tensors_are_outputs_by_name() -> None:
    class Two(nn.Module):
        def forward(self, input_ids: Tensor, return_dict: bool) -> ModelOutput:
            assert return_dict
            return QuestionAnsweringModelOutput(
                start_logits=input_ids.float(), end_logits=-input_ids.float(), attentions=(ids(),)
            )

    found = ExportWrapper(Two(), ("input_ids",), None).outputs(ids())
    assert list(found) == ["start_logits", "end_logits"]
    np.testing.assert_array_equal(found["end_logits"].numpy(), -ids().numpy())


def test_inputs_are_passed_by_name_in_their_order() -> None:
    backbone = Backbone()
    ExportWrapper(backbone, ("attention_mask", "input_ids"), None)(MASK, ids())
    assert backbone.given["attention_mask"] is MASK
    assert backbone.given["return_dict"] is True


def test_too_few_inputs_are_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ExportWrapper(Backbone(), ("input_ids", "attention_mask"), None)(ids())


def test_a_plain_folder_has_no_head(tmp_path: Path) -> None:
    assert sentence_head_of(tmp_path) is None


def test_a_folder_without_pooling_has_no_head(tmp_path: Path) -> None:
    assert sentence_head_of(folder(tmp_path, "Transformer")) is None


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": "cls"}, "cls"),
    ],
)
def test_both_spellings_of_the_pooling_are_read(
    tmp_path: Path, config: dict[str, Any], pooling: str
) -> None:
    head = sentence_head_of(folder(tmp_path, "Transformer", "Pooling", pooling=config))
    assert head is not None
    assert (head.pooling, head.normalize) == (pooling, False)


def test_a_normalize_module_is_seen(tmp_path: Path) -> None:
    path = folder(tmp_path, "Transformer", "Pooling", "Normalize", pooling={"pooling_mode": "mean"})
    assert sentence_head_of(path) == SentenceHead("mean", normalize=True)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"pooling_mode_max_tokens": True}, r"asks for \['pooling_mode_max_tokens'\]"),
        (
            {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
            r"asks for \['pooling_mode_cls_token', 'pooling_mode_mean_tokens'\]",
        ),
        ({}, "wanted mean or cls pooling"),
    ],
)
def test_another_pooling_is_refused(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        sentence_head_of(folder(tmp_path, "Transformer", "Pooling", pooling=config))


def test_an_unknown_module_is_refused_by_its_name(tmp_path: Path) -> None:
    path = folder(tmp_path, "Transformer", "Pooling", "Dense", pooling={"pooling_mode": "mean"})
    with pytest.raises(ModelError, match=r"lists the modules \['Dense'\]"):
        sentence_head_of(path)


def test_a_damaged_listing_is_a_model_error(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text("[{", encoding="utf-8")
    with pytest.raises(ModelError, match=r"modules\.json"):
        sentence_head_of(tmp_path)


def test_a_missing_pooling_config_is_a_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="Pooling"):
        sentence_head_of(folder(tmp_path, "Transformer", "Pooling"))


@pytest.mark.parametrize("listing", ['{"a": 1}', "[1]", '[{"type": "Pooling"}]'])
def test_a_listing_of_another_form_is_a_model_error(tmp_path: Path, listing: str) -> None:
    (tmp_path / "modules.json").write_text(listing, encoding="utf-8")
    with pytest.raises(ModelError, match=r"modules\.json.*not a list of modules"):
        sentence_head_of(tmp_path)


def test_a_pooling_config_that_is_a_list_is_a_model_error(tmp_path: Path) -> None:
    path = folder(tmp_path, "Transformer", "Pooling", pooling={})
    (path / "1_Pooling" / "config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ModelError, match=r"config\.json.*not an object"):
        sentence_head_of(path)
