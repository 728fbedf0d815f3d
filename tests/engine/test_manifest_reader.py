from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.bundles import FILES, make_bundle, manifest_of
from tests.support.runtime_bundle import edit
from trt_int8.engine.manifest_reader import load_manifest, read_manifest
from trt_int8.errors import (
    ChangedFileError,
    ManifestError,
    ManifestFormatError,
    MissingFileError,
    NoBundleError,
    UnreadableFileError,
    UnsafePathError,
)
from trt_int8.spec.manifest import MANIFEST_NAME, EngineEntry

ENGINE = {"path": "sm75/int8.engine", "sm": 75, "precision": "int8"}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "out")


def test_a_sound_bundle_is_read_back(bundle: Path) -> None:
    assert read_manifest(bundle) == load_manifest(bundle) == manifest_of(bundle)


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_is_found(name: str, bundle: Path) -> None:
    data = (bundle / name).read_bytes()
    (bundle / name).write_bytes(bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(ChangedFileError, match=f"file '{name}' of .* was changed"):
        read_manifest(bundle)


def test_a_missing_file_is_found(bundle: Path) -> None:
    (bundle / "model.onnx").unlink()
    with pytest.raises(MissingFileError, match=r"'model\.onnx' of .* is missing"):
        read_manifest(bundle)


def test_loading_the_manifest_alone_opens_no_other_file(bundle: Path) -> None:
    for name in FILES:
        (bundle / name).unlink()
    assert set(load_manifest(bundle).files) == set(FILES)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(NoBundleError, match=r"has no manifest\.json; wanted a bundle"):
        read_manifest(tmp_path)


def test_a_folder_that_is_not_there_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(NoBundleError, match=r"there is no folder '.*nowhere'"):
        read_manifest(tmp_path / "nowhere")


def test_a_file_is_no_bundle(bundle: Path) -> None:
    with pytest.raises(NoBundleError, match=r"is a file; .*pass the folder"):
        read_manifest(bundle / MANIFEST_NAME)


def test_a_folder_called_like_the_manifest_is_none(bundle: Path) -> None:
    (bundle / MANIFEST_NAME).unlink()
    (bundle / MANIFEST_NAME).mkdir()
    with pytest.raises(NoBundleError, match="has no manifest"):
        read_manifest(bundle)


def test_a_path_that_no_system_takes_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises((NoBundleError, UnreadableFileError)):
        read_manifest(tmp_path / "a\0b")


def test_a_manifest_without_permission_says_so(bundle: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (bundle / MANIFEST_NAME).chmod(0)
    with pytest.raises(UnreadableFileError, match="cannot be read"):
        read_manifest(bundle)


def test_a_manifest_cut_off_anywhere_is_refused(bundle: Path) -> None:
    path = bundle / MANIFEST_NAME
    whole = path.read_bytes().rstrip()
    for size in range(1, len(whole), 3):
        path.write_bytes(whole[:size])
        with pytest.raises(ManifestError, match=r"is cut off|is no JSON"):
            load_manifest(bundle)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.97])
def test_a_manifest_that_ends_early_is_said_to_be_cut_off(bundle: Path, part: float) -> None:
    path = bundle / MANIFEST_NAME
    whole = path.read_text(encoding="utf-8")
    lines = whole[: int(len(whole) * part)].splitlines()
    path.write_text("\n".join(lines[:-1]), encoding="utf-8")
    with pytest.raises(ManifestError, match=r"is cut off \(line \d+ column \d+"):
        load_manifest(bundle)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b" \n\t", "is empty"),
        (b"\0" * 4096, "is no JSON"),
        (b"\xff\xfe\x00", "is no JSON"),
        (b"vtrt an engine", "is no JSON"),
        (b"[" * 200_000, "is no JSON|is cut off"),
        (b"1" * 10_000, "is no JSON|is a JSON int"),
        (b"[]", "is a JSON list"),
        (b"null", "is a JSON NoneType"),
    ],
)
def test_a_manifest_that_is_no_json_object_is_refused(bundle: Path, data: bytes, said: str) -> None:
    (bundle / MANIFEST_NAME).write_bytes(data)
    with pytest.raises(ManifestError, match=said):
        load_manifest(bundle)


@pytest.mark.parametrize(("old", "new"), [('"model":', '"modell":'), ('"files"', '"file"')])
def test_a_manifest_of_another_form_is_refused(old: str, new: str, bundle: Path) -> None:
    path = bundle / MANIFEST_NAME
    path.write_text(path.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ManifestError, match=r"manifest of .* cannot be read \(\d+ faults, first:"):
        read_manifest(bundle)


def test_a_manifest_of_a_newer_format_says_who_wrote_it_and_how_to_read_it(bundle: Path) -> None:
    edit(bundle, lambda m: m.update(format="trt_int8-bundle-99", packages={"trt-int8": "7.5"}))
    with pytest.raises(
        ManifestFormatError, match=r"bundle-99', written by trt-int8 7\.5; .*install --upgrade"
    ):
        load_manifest(bundle)


@pytest.mark.parametrize("packages", [None, [], {}, "x"])
def test_a_newer_format_may_have_changed_everything_else(bundle: Path, packages: object) -> None:
    (bundle / MANIFEST_NAME).write_text(
        json.dumps({"format": "trt_int8-bundle-4", "packages": packages}), encoding="utf-8"
    )
    with pytest.raises(ManifestFormatError, match="--upgrade"):
        load_manifest(bundle)


@pytest.mark.parametrize("given", [None, 3, "", "other-1", "trt_int8-bundle-", ["x"]])
def test_a_manifest_of_no_known_format_is_not_ours(bundle: Path, given: object) -> None:
    edit(bundle, lambda m: m.update(format=given))
    with pytest.raises(ManifestFormatError, match="check that this is a bundle of trt-int8"):
        load_manifest(bundle)


def test_a_manifest_of_format_2_is_read(bundle: Path) -> None:
    def older(fields: dict[str, Any]) -> None:
        fields["plugins"] = fields.pop("plugin_libraries")
        fields["format"] = "trt_int8-bundle-2"

    edit(bundle, older)
    assert load_manifest(bundle) == manifest_of(bundle)


@pytest.mark.parametrize("name", ["../model.onnx", "/etc/passwd", "a/../../b", ""])
def test_a_file_outside_the_bundle_is_refused_before_it_is_opened(bundle: Path, name: str) -> None:
    edit(bundle, lambda m: m["files"].update({name: m["files"]["model.onnx"]}))
    with pytest.raises(UnsafePathError, match="wanted relative paths inside the bundle"):
        load_manifest(bundle)


def test_a_manifest_that_vouches_for_itself_is_refused(bundle: Path) -> None:
    edit(bundle, lambda m: m["files"].update({"manifest.json": m["files"]["model.onnx"]}))
    with pytest.raises(UnsafePathError, match=r"names the file 'manifest\.json'"):
        load_manifest(bundle)


@pytest.mark.parametrize("path", ["../int8.engine", "/int8.engine"])
def test_an_engine_outside_the_bundle_is_refused(bundle: Path, path: str) -> None:
    edit(bundle, lambda m: m["engines"].append(ENGINE | {"path": path}))
    with pytest.raises(UnsafePathError, match="names the file"):
        load_manifest(bundle)


@pytest.mark.parametrize("name", ["../libodd.so", "/libodd.so", "sub/libodd.so", ".."])
def test_a_plugin_library_with_a_folder_is_refused(bundle: Path, name: str) -> None:
    edit(bundle, lambda m: m["plugin_libraries"].update({name: "0" * 64}))
    with pytest.raises(UnsafePathError, match="names the plugin library"):
        load_manifest(bundle)


def test_an_engine_that_is_not_among_the_files_is_refused(bundle: Path) -> None:
    engine = EngineEntry(path="sm80/int8.engine", sm=80, precision="int8")
    changed = manifest_of(bundle).model_copy(update={"engines": (engine,)})
    (bundle / MANIFEST_NAME).write_text(changed.to_json(), encoding="utf-8")
    with pytest.raises(ManifestError, match=r"has no sha256 of engine 'sm80/int8\.engine'"):
        read_manifest(bundle)


def test_two_engines_for_one_use_are_refused(bundle: Path) -> None:
    edit(bundle, lambda m: m["engines"].extend([ENGINE, ENGINE | {"path": "model.onnx"}]))
    with pytest.raises(ManifestError, match="has two int8 engines for SM75"):
        load_manifest(bundle)


@pytest.mark.parametrize("digest", ["", "0" * 63, "0" * 65, "G" * 64, "A" * 64])
def test_a_hash_that_is_none_is_refused(bundle: Path, digest: str) -> None:
    edit(bundle, lambda m: m["files"]["model.onnx"].update(sha256=digest))
    with pytest.raises(ManifestError, match="wanted 64 hexadecimal digits"):
        load_manifest(bundle)


def test_a_negative_size_is_refused(bundle: Path) -> None:
    edit(bundle, lambda m: m["files"]["model.onnx"].update(size_bytes=-1))
    with pytest.raises(ManifestError, match="has -1 bytes"):
        load_manifest(bundle)


def test_a_setting_that_no_build_takes_is_a_fault_of_the_manifest(bundle: Path) -> None:
    edit(bundle, lambda m: m["recipe"]["calibration"].update(method="o5tput"))
    with pytest.raises(ManifestError, match=r"cannot be read .*'o5tput' is unknown"):
        load_manifest(bundle)


def test_a_refusal_of_the_system_is_told_apart_from_a_damaged_manifest(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(UnreadableFileError, match=r"manifest\.json' cannot be read \(Permission"):
        load_manifest(bundle)
