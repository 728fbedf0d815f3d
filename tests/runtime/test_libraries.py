from __future__ import annotations

import platform
from pathlib import Path

import pytest

from tests.support.runtime_bundle import flip, library, make, sha256, vouch
from trt_int8.errors import PluginLibraryError
from trt_int8.runtime.libraries import read_library
from trt_int8.spec.manifest import Manifest

NAME = "libodd.so"
HERE = {"x86_64": 62, "aarch64": 183}


def with_library(folder: Path, data: bytes) -> Manifest:
    make(folder)
    (folder / "plugins").mkdir()
    (folder / "plugins" / NAME).write_bytes(data)
    return vouch(folder, plugin_libraries={NAME: sha256(data)})


@pytest.fixture
def sound() -> bytes:
    if platform.machine() not in HERE:
        pytest.skip("the ELF number of this processor is not known here")
    return library(HERE[platform.machine()])


def test_a_whole_library_is_handed_over(tmp_path: Path, sound: bytes) -> None:
    assert read_library(tmp_path, with_library(tmp_path, sound), NAME) == sound


def test_a_real_library_of_this_machine_is_taken(tmp_path: Path) -> None:
    import numpy

    real = next(Path(numpy.__file__).parent.rglob("*.so")).read_bytes()
    assert read_library(tmp_path, with_library(tmp_path, real), NAME) == real


def test_a_copy_put_there_by_hand_is_taken_by_its_hash(tmp_path: Path, sound: bytes) -> None:
    manifest = with_library(tmp_path, sound)
    unlisted = {n: e for n, e in manifest.files.items() if not n.startswith("plugins/")}
    older = manifest.model_copy(update={"files": unlisted})
    assert read_library(tmp_path, older, NAME) == sound


def test_a_missing_library_says_where_it_belongs(tmp_path: Path, sound: bytes) -> None:
    manifest = with_library(tmp_path, sound)
    (tmp_path / "plugins" / NAME).unlink()
    with pytest.raises(PluginLibraryError) as caught:
        read_library(tmp_path, manifest, NAME)
    assert sha256(sound)[:12] in caught.value.wanted
    assert str(tmp_path / "plugins" / NAME) in caught.value.todo


@pytest.mark.parametrize("index", [0, 18, -1])
def test_a_changed_library_is_refused(tmp_path: Path, sound: bytes, index: int) -> None:
    manifest = with_library(tmp_path, sound)
    flip(tmp_path / "plugins" / NAME, index)
    with pytest.raises(PluginLibraryError, match="with which the engine was built"):
        read_library(tmp_path, manifest, NAME)


def test_a_library_outside_the_bundle_is_refused(tmp_path: Path, sound: bytes) -> None:
    bundle = tmp_path / "bundle"
    manifest = with_library(bundle, sound)
    (bundle / "plugins" / NAME).rename(tmp_path / NAME)
    (bundle / "plugins" / NAME).symlink_to(f"../../{NAME}")
    with pytest.raises(PluginLibraryError, match="is a link to"):
        read_library(bundle, manifest, NAME)


def test_a_library_that_no_manifest_names_is_never_read(tmp_path: Path, sound: bytes) -> None:
    manifest = with_library(tmp_path, sound)
    with pytest.raises(PluginLibraryError, match=r"names no plugin library 'libeven\.so'"):
        read_library(tmp_path, manifest, "libeven.so")


def test_a_library_for_another_processor_is_refused(tmp_path: Path, sound: bytes) -> None:
    other = next(number for number in HERE.values() if number != HERE[platform.machine()])
    manifest = with_library(tmp_path, library(other))
    with pytest.raises(PluginLibraryError, match=rf"for another processor \(ELF machine {other}\)"):
        read_library(tmp_path, manifest, NAME)
    assert sound != library(other)


@pytest.mark.parametrize("size", [0, 3, 17, 19, 63])
def test_a_library_that_is_too_short_is_refused(tmp_path: Path, sound: bytes, size: int) -> None:
    manifest = with_library(tmp_path, sound[:size])
    with pytest.raises(PluginLibraryError, match="is no shared library"):
        read_library(tmp_path, manifest, NAME)


@pytest.mark.parametrize("data", [b"MZ" + bytes(60), b"#!/bin/sh\nexit 1\n", b"\x7fELF\x01\x01"])
def test_what_is_no_library_of_linux_is_refused(tmp_path: Path, data: bytes) -> None:
    manifest = with_library(tmp_path, data)
    with pytest.raises(PluginLibraryError, match="is no shared library"):
        read_library(tmp_path, manifest, NAME)


def test_a_program_is_no_library(tmp_path: Path, sound: bytes) -> None:
    program = bytearray(sound)
    program[16] = 2
    manifest = with_library(tmp_path, bytes(program))
    with pytest.raises(PluginLibraryError, match="is no shared library"):
        read_library(tmp_path, manifest, NAME)
