"""What a build takes from a sentence-transformers folder, and where it pads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

from tests.pipeline.test_text import exported, onnx_alone
from tests.support.text_models import TinyText, write_unigram, write_wordpiece
from tests.support.tiny_folder import write_bert
from tests.support.tiny_transformers import tiny_backbone
from trt_int8.model.source import resolve_source
from trt_int8.pipeline.options import InputOptions
from trt_int8.pipeline.progress import SilentReporter
from trt_int8.pipeline.text import save_text
from trt_int8.runtime.text.tokens import load_tokenizer
from trt_int8.spec.shapes import Profile
from trt_int8.spec.text import TextSettings


def saved(
    source: Path, graph: Path, profiles: tuple[Profile, ...], **options: Any
) -> tuple[TextSettings, list[str]]:
    """The settings, and what the user was told."""
    reporter = SilentReporter()
    given = InputOptions(model=str(source), **options)
    found = save_text(resolve_source(str(source)), given, graph, profiles, reporter)
    assert found is not None
    return found, reporter.notes


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize(
    ("content", "head", "longest"),
    [
        ({"max_seq_length": 20}, True, 20),
        ({"max_seq_length": None}, True, 40),
        ({"max_seq_length": 4000}, True, 40),
        ([], True, 40),
        # Not a folder of sentence-transformers: transformers does not read this file.
        ({"max_seq_length": 20}, False, 40),
    ],
)
def test_texts_are_cut_where_sentence_transformers_cuts_them(
    content: object, head: bool, longest: int, tmp_path: Path
) -> None:
    write_bert(tmp_path / "m", sentence_head=head)
    write_json(tmp_path / "m" / "sentence_bert_config.json", content)
    graph, profiles = exported(tmp_path / "m", tmp_path / "b")
    assert saved(tmp_path / "m", graph, profiles)[0].max_tokens == longest


def test_lower_case_that_only_sentence_transformers_asks_for_is_in_the_saved_tokenizer(
    tmp_path: Path,
) -> None:
    write_wordpiece(tmp_path / "m")
    known = transformers.AutoTokenizer.from_pretrained(tmp_path / "m")
    tiny_backbone("Bert", vocab_size=len(known)).save_pretrained(tmp_path / "m")
    module = {"type": "sentence_transformers.models.Transformer", "path": ""}
    write_json(tmp_path / "m" / "modules.json", [module])
    write_json(tmp_path / "m" / "sentence_bert_config.json", {"do_lower_case": True})
    graph, profiles = exported(tmp_path / "m", tmp_path / "b")
    settings, _ = saved(tmp_path / "m", graph, profiles)
    found = load_tokenizer(tmp_path / "b" / "tokenizer", settings).encode([("The FOX",)])
    assert found[0].ids.tolist() == known("the fox")["input_ids"]
    assert found[0].ids.tolist() != known("The FOX")["input_ids"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> TinyText:
    return TinyText(tmp_path_factory.mktemp("onnx") / "m", write_unigram, "Model")


def write_head(folder: Path, pooling: str) -> None:
    kinds = ("Transformer", "Pooling", "Normalize")
    modules = [{"type": f"x.{kind}", "path": str(place)} for place, kind in enumerate(kinds)]
    write_json(folder / "modules.json", modules)
    write_json(folder / "1" / "config.json", {f"pooling_mode_{pooling}": True})


def test_hidden_states_of_an_onnx_file_are_pooled_as_the_folder_around_it_says(
    encoder: TinyText, tmp_path: Path
) -> None:
    path = onnx_alone(encoder, tmp_path / "m" / "onnx")
    for file in encoder.folder.glob("*.json"):
        (tmp_path / "m" / file.name).write_bytes(file.read_bytes())
    write_head(tmp_path / "m", "cls_token")
    settings, notes = saved(path, path, encoder.signature.profiles)
    assert notes == []
    with encoder.open(pooling=settings.pooling, normalize=settings.normalize) as session:
        found = session.embed(["The quick fox"])[0]
    first = encoder.outputs("The quick fox")["last_hidden_state"][0]
    np.testing.assert_allclose(found, first / np.linalg.norm(first), atol=1e-5)


def test_pooling_that_is_not_known_is_told(encoder: TinyText, tmp_path: Path) -> None:
    path = onnx_alone(encoder, tmp_path / "m")
    for file in encoder.folder.glob("*.json"):
        (tmp_path / "m" / file.name).write_bytes(file.read_bytes())
    write_head(tmp_path / "m", "lasttoken")
    settings, notes = saved(path, path, encoder.signature.profiles)
    assert (settings.pooling, settings.normalize) == ("mean", False)
    assert len(notes) == 1
    assert "lasttoken" in notes[0]


@pytest.mark.parametrize(("config", "side"), [({}, "right"), ({"summary_type": "last"}, "left")])
def test_padding_goes_where_it_does_not_move_what_the_model_reads(
    config: dict[str, Any], side: str, tmp_path: Path
) -> None:
    """BERT counts positions from the first column, whatever its tokenizer says."""
    write_bert(tmp_path / "m", kind="ForSequenceClassification")
    for name, changes in (("tokenizer_config", {"padding_side": "left"}), ("config", config)):
        file = tmp_path / "m" / f"{name}.json"
        write_json(file, {**json.loads(file.read_text(encoding="utf-8")), **changes})
    graph, profiles = exported(tmp_path / "m", tmp_path / "b")
    assert saved(tmp_path / "m", graph, profiles)[0].padding_side == side


def test_the_padding_side_of_an_unknown_graph_is_that_of_its_tokenizer(
    encoder: TinyText, tmp_path: Path
) -> None:
    path = onnx_alone(encoder, tmp_path / "m")
    for file in encoder.folder.glob("*.json"):
        (tmp_path / "m" / file.name).write_bytes(file.read_bytes())
    file = tmp_path / "m" / "tokenizer_config.json"
    write_json(file, {**json.loads(file.read_text(encoding="utf-8")), "padding_side": "left"})
    assert saved(path, path, encoder.signature.profiles)[0].padding_side == "left"
