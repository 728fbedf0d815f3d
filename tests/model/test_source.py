from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from trt_int8.errors import ModelError
from trt_int8.model.source import ModelSource, resolve_source


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny-bert"
    folder.mkdir()
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def write_package(folder: Path, *files: str) -> None:
    for name in ("__init__.py", *files):
        path = folder / "odd_weights" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def save_with_external_data(path: Path, weight: float) -> None:
    tensor = numpy_helper.from_array(np.full((64, 64), weight, np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 64])],
        [tensor],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = {"save_as_external_data": True, "location": "m.weights", "size_threshold": 0}
    onnx.save_model(model, str(path), **options)  # type: ignore[arg-type]


def test_a_folder_with_a_config_is_a_hugging_face_model(model_folder: Path) -> None:
    source = resolve_source(str(model_folder))
    assert source == ModelSource("huggingface", str(model_folder), "tiny-bert")
    assert source.path == model_folder


def test_the_current_folder_is_called_by_its_name(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model_folder)
    assert resolve_source(".").name == "tiny-bert"


def test_the_home_folder_sign_is_understood(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(model_folder.parent))
    assert resolve_source("~/tiny-bert").location == str(model_folder)


def test_the_home_of_an_unknown_user_is_not_a_model() -> None:
    with pytest.raises(ModelError, match="no model at '~no_such_user_7/model'"):
        resolve_source("~no_such_user_7/model")


def test_an_onnx_file_is_called_by_its_stem(tmp_path: Path) -> None:
    (tmp_path / "encoder.v2.onnx").write_bytes(b"")
    source = resolve_source(str(tmp_path / "encoder.v2.onnx"))
    assert (source.kind, source.name, source.local) == ("onnx", "encoder.v2", True)


def test_owner_and_name_is_a_hub_id() -> None:
    source = resolve_source("no-such-owner/tiny.bert_2")
    assert (source.kind, source.name, source.local) == ("huggingface", "tiny.bert_2", False)


def test_a_wrong_path_in_a_folder_that_exists_is_not_taken_for_a_hub_id(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model_folder.parent)
    with pytest.raises(ModelError, match="no model at 'tiny-bert/modle'"):
        resolve_source("tiny-bert/modle")


@pytest.mark.parametrize("text", ["nothing", "a/b/c", "a/b.onnx", "/no/such/folder"])
def test_nothing_there_says_what_could_be(text: str) -> None:
    with pytest.raises(ModelError, match=f"no model at '{text}'; wanted a folder with config.json"):
        resolve_source(text)


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config\.json; .*save_pretrained"):
        resolve_source(str(tmp_path))


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"")
    with pytest.raises(ModelError, match=r"model\.pt' is a file that does not end in \.onnx"):
        resolve_source(str(tmp_path / "model.pt"))


@pytest.mark.parametrize(
    ("files", "kind", "inside"),
    [
        (["m/config.json", "m/model.safetensors", "x.onnx"], "huggingface", "m"),
        (["m/config.json", "m/model.bin"], "huggingface", "m"),
        (["a/config.json", "m/config.json", "m/model.bin"], "huggingface", "m"),
        (["m/config.json", "m/b.onnx", "m/c.onnx"], "onnx", "m/b.onnx"),
    ],
)
def test_a_package_carries_its_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[str], kind: str, inside: str
) -> None:
    write_package(tmp_path, *files)
    monkeypatch.syspath_prepend(tmp_path)
    source = resolve_source("package:odd-weights")
    assert (source.kind, source.name) == (kind, "odd-weights")
    assert source.path == tmp_path / "odd_weights" / inside


def test_a_package_without_a_model_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_package(tmp_path, "m/config.json")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError, match="'odd-weights' carries no model"):
        resolve_source("package:odd-weights")


@pytest.mark.parametrize("name", ["no-such-package-7", "", "no_such_package_7.part", ".part"])
def test_a_package_that_is_not_installed_is_named(name: str) -> None:
    with pytest.raises(ModelError, match=f"the Python package '{name}' is not installed"):
        resolve_source(f"package:{name}")


def test_a_module_that_is_no_package_is_refused() -> None:
    with pytest.raises(ModelError, match=r"'this' is not installed; .*carries model weights"):
        resolve_source("package:this")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_the_hash_changes_with_each_file_of_the_model(model_folder: Path, name: str) -> None:
    before = resolve_source(str(model_folder)).sha256()
    (model_folder / name).write_bytes(b"changed")
    assert resolve_source(str(model_folder)).sha256() != before


def test_the_hash_does_not_depend_on_the_place_nor_on_other_files(model_folder: Path) -> None:
    before = resolve_source(str(model_folder)).sha256()
    (model_folder / "README.md").write_text("notes", encoding="utf-8")
    moved = model_folder.rename(model_folder.with_name("moved"))
    assert resolve_source(str(moved)).sha256() == before


def test_the_hash_changes_when_bytes_move_from_one_file_to_the_next(tmp_path: Path) -> None:
    hashes = []
    for number, contents in enumerate([(b"1", b"2b.json\x003"), (b"12", b"3")]):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, content in zip(("config.json", "x.txt"), contents, strict=True):
            (folder / name).write_bytes(content)
        hashes.append(resolve_source(str(folder)).sha256())
    assert hashes[0] != hashes[1]


def test_the_hash_tells_one_file_from_two_with_the_same_bytes_in_a_row(tmp_path: Path) -> None:
    for name, content in (("one", b"1x.txt\x002"), ("two", b"1")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_bytes(content)
    (tmp_path / "two" / "x.txt").write_bytes(b"2")
    one, two = (resolve_source(str(tmp_path / name)) for name in ("one", "two"))
    assert one.sha256() != two.sha256()


def test_the_hash_of_an_onnx_file_covers_its_external_data(tmp_path: Path) -> None:
    hashes = []
    for weight in (1.0, 2.0):
        (tmp_path / "m.weights").unlink(missing_ok=True)
        save_with_external_data(tmp_path / "m.onnx", weight)
        hashes.append(resolve_source(str(tmp_path / "m.onnx")).sha256())
    assert hashes[0] != hashes[1]


def test_two_hub_ids_have_two_hashes() -> None:
    first, second = resolve_source("no-such-owner/a"), resolve_source("no-such-owner/b")
    assert first.sha256() != second.sha256()


def test_the_hash_of_a_hub_model_changes_with_its_cached_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    source = resolve_source("no-such-owner/a")
    hashes = [source.sha256()]
    cached = tmp_path / "models--no-such-owner--a"
    (cached / "refs").mkdir(parents=True)
    for commit in ("1" * 40, "2" * 40):
        (cached / "snapshots" / commit).mkdir(parents=True)
        (cached / "snapshots" / commit / "config.json").write_text("{}", encoding="utf-8")
        (cached / "refs" / "main").write_text(commit, encoding="utf-8")
        hashes.append(source.sha256())
    assert len(set(hashes)) == 3
