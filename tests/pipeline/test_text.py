"""What a build saves for text; the builds of conftest's tiny BERT, and graphs alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import transformers

from tests.pipeline.conftest import Built
from tests.support.text_models import SHAPES, TinyText, write_byte_bpe, write_wordpiece
from tests.support.tiny_folder import write_bert, write_tokenizer
from tests.support.tiny_transformers import tiny_backbone
from trt_int8.engine.manifest_reader import read_manifest
from trt_int8.errors import CalibrationError, ModelError
from trt_int8.graph.export import export_float
from trt_int8.model.huggingface import load_model
from trt_int8.model.source import resolve_source
from trt_int8.pipeline import text
from trt_int8.pipeline.options import InputOptions
from trt_int8.pipeline.progress import SilentReporter
from trt_int8.pipeline.text import save_text
from trt_int8.runtime.text.session import TextSession
from trt_int8.spec.shapes import Profile, bind_shapes, parse_shapes
from trt_int8.spec.text import TextSettings


def exported(folder: Path, into: Path) -> tuple[Path, tuple[Profile, ...]]:
    """The graph of a folder, as the build has it in the bundle, and its profile."""
    loaded = load_model(resolve_source(str(folder)))
    graph = export_float(loaded)
    into.mkdir(parents=True)
    onnx.save(graph, str(into / "model.int8.onnx"))
    names = {value.name for value in graph.graph.input}
    axes = {each.name: each.axes for each in loaded.inputs if each.name in names}
    return into / "model.int8.onnx", (bind_shapes(axes, parse_shapes(SHAPES)),)


def saved(source: Path, graph: Path, profiles: tuple[Profile, ...], **options: Any) -> Any:
    given = InputOptions(model=str(source), **options)
    return save_text(resolve_source(str(source)), given, graph, profiles, SilentReporter())


@pytest.mark.xdist_group("tiny-bundle")
def test_a_build_puts_the_tokenizer_and_the_task_into_the_bundle(built: Built) -> None:
    manifest = read_manifest(built.outcome.bundle)
    assert manifest.text == TextSettings(task="embedding", max_tokens=40)
    assert {"tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"} <= set(manifest.files)


@pytest.mark.xdist_group("tiny-bundle")
def test_a_built_bundle_embeds_texts_with_unit_length(built: Built) -> None:
    with TextSession.open(built.outcome.bundle, "cpu") as session:
        found = session.embed(["word1 word2", "word3", ""])
    assert found.shape == (3, 64)
    assert (abs((found**2).sum(1) - 1) < 1e-2).all()


@pytest.mark.parametrize(
    ("kind", "config", "wanted"),
    [
        (
            "ForSequenceClassification",
            {"id2label": {0: "no", 1: "yes"}},
            {"task": "classification", "labels": ("no", "yes")},
        ),
        (
            "ForSequenceClassification",
            {"num_labels": 1, "problem_type": "regression"},
            {"task": "classification", "labels": ("LABEL_0",), "problem": "regression"},
        ),
        (
            "ForTokenClassification",
            {"id2label": {0: "O", 1: "B-X", 2: "I-X"}},
            {"task": "token-classification", "labels": ("O", "B-X", "I-X")},
        ),
        ("ForQuestionAnswering", {}, {"task": "question-answering"}),
        ("ForMaskedLM", {}, {"task": "features"}),
        ("Model", {}, {"task": "features"}),
    ],
)
def test_the_task_is_that_of_the_models_class(
    kind: str, config: dict[str, Any], wanted: dict[str, Any], tmp_path: Path
) -> None:
    write_wordpiece(tmp_path / "m")
    size = len(transformers.AutoTokenizer.from_pretrained(tmp_path / "m"))
    tiny_backbone("Bert", kind, vocab_size=size, **config).save_pretrained(tmp_path / "m")
    graph, profiles = exported(tmp_path / "m", tmp_path / "b")
    found = saved(tmp_path / "m", graph, profiles)
    assert found == TextSettings.model_validate({**wanted, "max_tokens": 40})


@pytest.fixture(scope="module")
def bytes_model(tmp_path_factory: pytest.TempPathFactory) -> TinyText:
    folder = tmp_path_factory.mktemp("onnx") / "m"
    return TinyText(folder, write_byte_bpe, "ForSequenceClassification")


def onnx_alone(model: TinyText, folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(model.path.read_bytes())
    return folder / "model.onnx"


def test_an_onnx_file_with_a_configuration_beside_its_tokenizer_gets_its_task(
    bytes_model: TinyText, tmp_path: Path
) -> None:
    path = onnx_alone(bytes_model, tmp_path / "m")
    found = saved(path, path, bytes_model.signature.profiles, tokenizer=bytes_model.folder)
    assert (found.task, found.labels) == ("classification", ())
    assert (found.pad_token_id, found.max_tokens) == (1, 40)


def test_an_onnx_file_without_one_gives_features(bytes_model: TinyText, tmp_path: Path) -> None:
    path = onnx_alone(bytes_model, tmp_path / "m")
    write_byte_bpe(path.parent)
    assert saved(path, path, bytes_model.signature.profiles).task == "features"
    (path.parent / "config.json").write_text("{", encoding="utf-8")
    assert saved(path, path, bytes_model.signature.profiles).task == "features"


def test_without_a_tokenizer_there_are_no_settings_and_no_folder(
    bytes_model: TinyText, tmp_path: Path
) -> None:
    path = onnx_alone(bytes_model, tmp_path / "a" / "b" / "m")
    assert saved(path, path, bytes_model.signature.profiles) is None
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]


def test_a_tokenizer_that_the_user_named_must_do(bytes_model: TinyText, tmp_path: Path) -> None:
    path = onnx_alone(bytes_model, tmp_path / "a" / "b" / "m")
    with pytest.raises(ModelError, match="no tokenizer"):
        saved(path, path, bytes_model.signature.profiles, tokenizer=tmp_path)
    write_bert(tmp_path / "bert")
    graph, profiles = exported(tmp_path / "bert", tmp_path / "g" / "h" / "i")
    write_byte_bpe(tmp_path / "other")
    assert "token_type_ids" in {one.name for one in profiles[0]}
    with pytest.raises(CalibrationError, match="token_type_ids"):
        saved(graph, graph, profiles, tokenizer=tmp_path / "other")


def test_a_model_of_images_has_no_text(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Relu", ["pixel_values"], ["out"])
    ends = [value(name, onnx.TensorProto.FLOAT, ["batch", 3]) for name in ("pixel_values", "out")]
    graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:])
    onnx.save(onnx.helper.make_model(graph), str(tmp_path / "model.onnx"))
    path = tmp_path / "model.onnx"
    write_tokenizer(tmp_path)
    assert saved(path, path, ()) is None


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_the_saved_files_have_the_same_bytes_wherever_the_tokenizer_came_from(
    bytes_model: TinyText, tmp_path: Path
) -> None:
    path = onnx_alone(bytes_model, tmp_path / "first" / "m")
    saved(path, path, bytes_model.signature.profiles, tokenizer=bytes_model.folder)
    again = onnx_alone(bytes_model, tmp_path / "second" / "m")
    write_byte_bpe(tmp_path / "copy")
    saved(again, again, bytes_model.signature.profiles, tokenizer=tmp_path / "copy")
    first, second = (contents(each.parent / "tokenizer") for each in (path, again))
    assert first == second
    assert set(first) == {"tokenizer.json", "tokenizer_config.json"}
    kept = json.loads(first["tokenizer_config.json"])
    assert kept["model_max_length"] == 40
    assert not {"is_local", "name_or_path"} & set(kept)


def test_saved_files_that_give_other_tokens_are_not_kept(
    bytes_model: TinyText, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "_write", lambda _tokenizer, folder: write_wordpiece(folder))
    path = onnx_alone(bytes_model, tmp_path / "m")
    reporter = SilentReporter()
    options = InputOptions(model=str(path), tokenizer=bytes_model.folder)
    profiles = bytes_model.signature.profiles
    assert save_text(resolve_source(str(path)), options, path, profiles, reporter) is None
    assert "give other tokens" in reporter.notes[0]
    assert not (path.parent / "tokenizer").exists()
