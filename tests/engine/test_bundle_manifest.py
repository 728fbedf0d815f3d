from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.support.bundles import FILES, make_bundle, manifest_of
from trt_int8.engine.bundle import (
    list_files,
    read_manifest,
)
from trt_int8.errors import BundleError
from trt_int8.spec.manifest import MANIFEST_NAME, EngineEntry


def test_files_are_listed_sorted_with_hash_and_size_but_without_the_manifest(
    tmp_path: Path,
) -> None:
    listed = list_files(make_bundle(tmp_path / "out"))
    assert list(listed) == ["model.onnx", "sm75/int8.engine"]
    assert listed["model.onnx"].sha256 == hashlib.sha256(b"graph").hexdigest()
    assert listed["sm75/int8.engine"].size_bytes == 4


def test_a_sound_bundle_is_read_back(tmp_path: Path) -> None:
    out = make_bundle(tmp_path / "out")
    assert read_manifest(out) == manifest_of(out)


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_is_found(name: str, tmp_path: Path) -> None:
    out = make_bundle(tmp_path / "out")
    data = (out / name).read_bytes()
    (out / name).write_bytes(bytes([data[0] ^ 1]) + data[1:])
    wanted = hashlib.sha256(data).hexdigest()[:12]
    with pytest.raises(BundleError, match=f"file '{name}' of .* missing or changed; .*{wanted}"):
        read_manifest(out)


def test_a_missing_file_is_found(tmp_path: Path) -> None:
    out = make_bundle(tmp_path / "out")
    (out / "model.onnx").unlink()
    with pytest.raises(BundleError, match=r"'model\.onnx' of .* is missing or changed"):
        read_manifest(out)


@pytest.mark.parametrize("folder", ["empty", "nowhere"])
def test_a_folder_without_a_manifest_is_no_bundle(folder: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match=r"has no manifest\.json; wanted a bundle"):
        read_manifest(tmp_path / folder)


@pytest.mark.parametrize(
    ("old", "new"), [("{", "["), ('"model":', '"modell":'), ('"files"', '"file"')]
)
def test_a_manifest_of_another_form_is_refused(old: str, new: str, tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "out") / MANIFEST_NAME
    path.write_text(path.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    with pytest.raises(
        BundleError, match=r"manifest of .* cannot be read \(\d+ faults, first: .+\)"
    ):
        read_manifest(tmp_path / "out")


def test_a_manifest_of_another_format_number_is_refused(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "out") / MANIFEST_NAME
    text = path.read_text(encoding="utf-8").replace("trt_int8-bundle-3", "trt_int8-bundle-99")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BundleError, match=r"first: format .*'trt_int8-bundle-3'"):
        read_manifest(tmp_path / "out")


def test_an_engine_that_is_not_among_the_files_is_refused(tmp_path: Path) -> None:
    out = make_bundle(tmp_path / "out")
    engine = EngineEntry(path="sm80/int8.engine", sm=80, precision="int8")
    changed = manifest_of(out).model_copy(update={"engines": (engine,)})
    (out / MANIFEST_NAME).write_text(changed.to_json(), encoding="utf-8")
    with pytest.raises(BundleError, match=r"has no sha256 of engine 'sm80/int8\.engine'"):
        read_manifest(out)
