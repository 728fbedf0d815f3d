"""Loading transformers folders."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.support.architectures import ARCHITECTURES
from tests.support.tiny_transformers import VOCABULARY, tiny_backbone, tokens
from trt_int8.errors import ModelError
from trt_int8.model import huggingface
from trt_int8.model.huggingface import MediaModel, TextModel, load_model, load_text_model
from trt_int8.model.source import ModelSource, resolve_source


def save(path: Path, family: str = "Bert", kind: str = "Model", **changes: Any) -> ModelSource:
    """Save a tiny model and a WordPiece tokenizer as a user would have them."""
    path.mkdir(parents=True, exist_ok=True)
    tiny_backbone(family, kind, **changes).save_pretrained(path)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    words += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    (path / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    tokenizer = transformers.BertTokenizer(str(path / "vocab.txt"))
    if family != "Bert":
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.save_pretrained(path)
    return resolve_source(str(path))


def test_a_bert_folder_is_loaded_with_its_three_inputs(tmp_path: Path) -> None:
    model = load_text_model(save(tmp_path / "bert"))
    assert model.input_names == ("input_ids", "attention_mask", "token_type_ids")
    assert model.output_names == ("last_hidden_state",)
    assert model.max_length == 40


def test_the_model_is_float32_in_eval_mode_without_a_pooler(tmp_path: Path) -> None:
    source = save(tmp_path / "bert")
    model = load_text_model(source)
    assert {p.dtype for p in model.backbone.parameters()} == {torch.float32}
    assert not any(module.training for module in model.wrapper.modules())
    assert not any("pooler" in name for name, _ in model.backbone.named_parameters())


def test_the_loaded_weights_are_the_saved_ones(tmp_path: Path) -> None:
    model = load_text_model(save(tmp_path / "bert"))
    ids, mask = tokens()
    with torch.no_grad():
        found = model.wrapper(ids, mask, torch.zeros_like(ids))[0]
        expected = tiny_backbone("Bert")(ids, mask).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_half_weights_are_loaded_as_float32(tmp_path: Path) -> None:
    source = save(tmp_path / "bert")
    tiny_backbone("Bert").half().save_pretrained(tmp_path / "bert")
    model = load_text_model(source)
    assert {p.dtype for p in model.backbone.parameters()} == {torch.float32}


def test_token_types_are_dropped_if_the_tokenizer_does_not_make_them(tmp_path: Path) -> None:
    model = load_text_model(save(tmp_path / "distilbert", "DistilBert"))
    assert model.input_names == ("input_ids", "attention_mask")


def test_roberta_loses_its_reserved_positions(tmp_path: Path) -> None:
    source = save(tmp_path / "roberta", "Roberta", pad_token_id=1)
    assert load_text_model(source).max_length == 38


def test_a_limit_that_only_the_config_names_is_read(tmp_path: Path) -> None:
    source = save(tmp_path / "gpt2")
    config = transformers.GPT2Config(
        n_embd=16, n_layer=1, n_head=2, n_positions=24, vocab_size=VOCABULARY
    )
    transformers.GPT2Model(config).save_pretrained(source.path)
    assert load_text_model(source).max_length == 24


@pytest.mark.parametrize(
    "kind", ["ForSequenceClassification", "ForTokenClassification", "ForMaskedLM"]
)
def test_a_model_with_a_task_head_returns_logits(tmp_path: Path, kind: str) -> None:
    model = load_text_model(save(tmp_path / "bert", kind=kind))
    assert type(model.backbone).__name__ == f"Bert{kind}"
    assert model.output_names == ("logits",)


def test_question_answering_returns_both_ends_of_the_answer(tmp_path: Path) -> None:
    model = load_text_model(save(tmp_path / "bert", kind="ForQuestionAnswering"))
    ids, mask = tokens()
    outputs = model.wrapper(ids, mask, torch.zeros_like(ids))
    assert len(outputs) == len(model.output_names) == 2


def test_a_sentence_transformers_folder_gets_its_head(tmp_path: Path) -> None:
    source = save(tmp_path / "bert")
    add_head(source.path)
    assert load_text_model(source).output_names == ("sentence_embedding",)


def add_head(folder: Path) -> None:
    modules = [{"path": "", "type": "x.Transformer"}, {"path": "1_Pooling", "type": "x.Pooling"}]
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    (folder / "1_Pooling").mkdir()
    config = json.dumps({"pooling_mode": "mean"})
    (folder / "1_Pooling" / "config.json").write_text(config, encoding="utf-8")


def test_a_model_in_front_of_a_sentence_head_has_no_pooler(tmp_path: Path) -> None:
    source = save(tmp_path / "bert")
    config = tiny_backbone("Bert").config
    transformers.BertModel(config, add_pooling_layer=True).save_pretrained(source.path)
    add_head(source.path)
    model = load_text_model(source)
    assert type(model.backbone) is transformers.BertModel
    assert not any("pooler" in name for name, _ in model.backbone.named_modules())


def test_the_sentence_head_of_a_hub_model_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save(tmp_path / "bert")
    add_head(source.path)
    fetched: list[str] = []

    def fetch(location: str, name: str, **_: Any) -> str | None:
        fetched.append(name)
        found = Path(location) / name
        return str(found) if found.is_file() else None

    monkeypatch.setattr(huggingface, "cached_file", fetch)
    # The folder stands for a hub id that is in the cache.
    hub = ModelSource("huggingface", source.location, "bert", local=False)
    assert load_text_model(hub).output_names == ("sentence_embedding",)
    assert fetched == ["modules.json", "config.json", "1_Pooling/config.json"]


def test_a_hub_that_cannot_be_asked_for_the_head_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no connection")

    monkeypatch.setattr(huggingface, "cached_file", fail)
    hub = ModelSource("huggingface", save(tmp_path / "bert").location, "bert", local=False)
    with pytest.raises(ModelError, match="no connection"):
        load_text_model(hub)


def test_a_pretraining_model_returns_both_kinds_of_logits(tmp_path: Path) -> None:
    model = load_text_model(save(tmp_path / "bert", kind="ForPreTraining"))
    assert model.output_names == ("prediction_logits", "seq_relationship_logits")


def test_a_vision_model_is_no_text_model(tmp_path: Path) -> None:
    source = resolve_source(str(ARCHITECTURES["vit"](tmp_path / "vit")))
    with pytest.raises(ModelError, match=r"'vit' \(vit\) has no input_ids; wanted a text model"):
        load_text_model(source)


@pytest.mark.parametrize(
    ("name", "wanted", "outputs"),
    [
        ("vit", "pixel_values float32 [samples, 3, 32, 32]", ("logits",)),
        ("deit", "pixel_values float32 [samples, 3, 32, 32]", ("last_hidden_state",)),
        ("whisper", "input_features float32 [samples, 80, 48]", ("last_hidden_state",)),
    ],
)
def test_a_model_of_images_or_sound_says_what_it_reads(
    tmp_path: Path, name: str, wanted: str, outputs: tuple[str, ...]
) -> None:
    model = load_model(resolve_source(str(ARCHITECTURES[name](tmp_path / name))))
    assert isinstance(model, MediaModel)
    assert ([str(given) for given in model.inputs], model.output_names) == ([wanted], outputs)


@pytest.mark.parametrize(
    ("name", "kind"), [("t5", "T5EncoderModel"), ("whisper", "WhisperEncoder")]
)
def test_of_an_encoder_decoder_the_encoder_is_loaded_and_the_user_told(
    tmp_path: Path, name: str, kind: str
) -> None:
    model = load_model(resolve_source(str(ARCHITECTURES[name](tmp_path / name))))
    assert type(model.backbone).__name__ == kind
    assert model.note.endswith(
        "ForConditionalGeneration is an encoder-decoder: its encoder is taken"
    )


def test_an_encoder_is_that_of_the_whole_model(tmp_path: Path) -> None:
    folder = ARCHITECTURES["t5"](tmp_path / "t5")
    ids, mask = tokens(3, 7)
    encoder = load_text_model(resolve_source(str(folder)))
    whole = transformers.T5ForConditionalGeneration.from_pretrained(folder).eval()
    with torch.no_grad():
        (found,) = encoder.wrapper(ids, mask)
        expected = whole(ids, mask, decoder_input_ids=ids).encoder_last_hidden_state
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_folder_of_the_encoder_alone_needs_no_note(tmp_path: Path) -> None:
    folder = ARCHITECTURES["t5"](tmp_path / "t5")
    model = transformers.T5EncoderModel.from_pretrained(folder)
    model.save_pretrained(folder)
    assert load_text_model(resolve_source(str(folder))).note == ""


def test_with_arrays_a_text_model_needs_no_tokenizer_and_reads_what_they_hold(
    tmp_path: Path,
) -> None:
    tiny_backbone("Bert").save_pretrained(tmp_path / "bert")
    model = load_model(resolve_source(str(tmp_path / "bert")), {"input_ids", "token_type_ids"})
    assert isinstance(model, TextModel)
    assert (model.input_names, model.tokenizer) == (("input_ids", "token_type_ids"), None)


def test_a_vision_model_of_any_image_size_is_refused(tmp_path: Path) -> None:
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1])
    transformers.ResNetModel(config).save_pretrained(tmp_path / "resnet")
    with pytest.raises(ModelError, match=r"'resnet' \(resnet\) reads neither tokens nor images"):
        load_model(resolve_source(str(tmp_path / "resnet")))


def test_a_model_that_needs_more_than_tokens_is_refused(tmp_path: Path) -> None:
    source = save(tmp_path / "clip")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
             "intermediate_size": 16}  # fmt: skip
    text = small | {"vocab_size": VOCABULARY, "max_position_embeddings": 40}
    config = transformers.CLIPConfig(text_config=text, vision_config=small)
    transformers.CLIPModel(config).save_pretrained(source.path)
    with pytest.raises(ModelError, match=r"'clip' \(clip\) does not run on .*wanted a text model"):
        load_text_model(source)


def test_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    source = save(tmp_path / "bert")
    (source.path / "config.json").write_text('{"model_type": "nothing"}', encoding="utf-8")
    with pytest.raises(ModelError, match=r"transformers cannot load .* wanted config.json"):
        load_text_model(source)


def test_a_config_that_is_not_json_is_refused(tmp_path: Path) -> None:
    source = save(tmp_path / "bert")
    (source.path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match=r"transformers cannot load .*bert"):
        load_text_model(source)


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    source = save(tmp_path / "bert")
    (source.path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"transformers cannot load .* \(OSError: "):
        load_text_model(source)


def test_cut_off_weights_are_refused(tmp_path: Path) -> None:
    source = save(tmp_path / "bert")
    weights = source.path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ModelError, match=r"damaged|cannot load"):
        load_text_model(source)


def test_weights_that_lack_a_layer_are_refused(tmp_path: Path) -> None:
    source = save(tmp_path / "bert", num_hidden_layers=1)
    config = json.loads((source.path / "config.json").read_text(encoding="utf-8"))
    (source.path / "config.json").write_text(
        json.dumps(config | {"num_hidden_layers": 2}), encoding="utf-8"
    )
    with pytest.raises(ModelError, match=r"layer\.1"):
        load_text_model(source)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bert"
    tiny_backbone("Bert").save_pretrained(path)
    with pytest.raises(ModelError, match=r"transformers cannot load"):
        load_text_model(resolve_source(str(path)))


def test_a_damaged_tokenizer_is_refused(tmp_path: Path) -> None:
    source = save(tmp_path / "bert")
    (source.path / "tokenizer.json").write_text('{"version": 1', encoding="utf-8")
    with pytest.raises(ModelError, match=r"damaged|cannot load"):
        load_text_model(source)


def test_loading_restores_the_log_level_and_the_progress_bars(tmp_path: Path) -> None:
    logger = logging.getLogger("transformers")
    before = logger.level, transformers.utils.logging.is_progress_bar_enabled()
    load_text_model(save(tmp_path / "bert"))
    assert (logger.level, transformers.utils.logging.is_progress_bar_enabled()) == before
