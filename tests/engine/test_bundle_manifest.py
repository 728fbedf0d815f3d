from __future__ import annotations

import hashlib
from pathlib import Path

from tests.support.bundles import make_bundle
from trt_int8.engine.bundle import copy_libraries, list_files


def test_files_are_listed_sorted_with_hash_and_size_but_without_the_manifest(
    tmp_path: Path,
) -> None:
    listed = list_files(make_bundle(tmp_path / "out"))
    assert list(listed) == ["model.onnx", "sm75/int8.engine"]
    assert listed["model.onnx"].sha256 == hashlib.sha256(b"graph").hexdigest()
    assert listed["sm75/int8.engine"].size_bytes == 4


def test_plugin_libraries_go_into_a_folder_of_the_bundle(tmp_path: Path) -> None:
    libraries = [tmp_path / "a" / "libodd.so", tmp_path / "b" / "libeven.so"]
    for library in libraries:
        library.parent.mkdir()
        library.write_bytes(library.name.encode())
    out = make_bundle(tmp_path / "out")
    copy_libraries(out, libraries)
    assert (out / "plugins" / "libodd.so").read_bytes() == b"libodd.so"
    assert {"plugins/libodd.so", "plugins/libeven.so"} < set(list_files(out))


def test_a_bundle_without_plugin_libraries_has_no_folder_for_them(tmp_path: Path) -> None:
    out = make_bundle(tmp_path / "out")
    copy_libraries(out, [])
    assert not (out / "plugins").exists()


def test_the_hashes_of_plugin_libraries_are_those_of_the_copies(tmp_path: Path) -> None:
    library = tmp_path / "libodd.so"
    library.write_bytes(b"code")
    out = make_bundle(tmp_path / "out")
    assert copy_libraries(out, [library]) == {"libodd.so": hashlib.sha256(b"code").hexdigest()}


def test_a_manifest_of_something_else_inside_is_listed(tmp_path: Path) -> None:
    out = make_bundle(tmp_path / "out")
    (out / "tokenizer").mkdir()
    (out / "tokenizer" / "manifest.json").write_text("{}", encoding="utf-8")
    assert "tokenizer/manifest.json" in list_files(out)
    assert "manifest.json" not in list_files(out)
