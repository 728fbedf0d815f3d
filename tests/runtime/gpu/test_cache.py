"""TensorRT-RTX's runtime cache on disk."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from tests.runtime.gpu.fake_trt_types import PLAN
from tests.runtime.gpu.opened import check, fresh, opened, request
from tests.support.runtime_bundle import flip
from trt_int8.runtime.gpu.cache import CacheFile

NAME = f"{hashlib.sha256(PLAN).hexdigest()}-1.7.1.cache"


def stored(folder: Path) -> bytes:
    """What is kept of the fake engine: the file behind its sha256."""
    data = (folder / "cache" / NAME).read_bytes()
    assert data[:32] == hashlib.sha256(data[32:]).digest()
    return data[32:]


def test_what_rtx_compiled_is_kept_at_close_under_the_engine_s_hash(tmp_path: Path) -> None:
    with opened(tmp_path, fresh("rtx")) as backend:
        backend.run(request(1, 17))
        assert not (tmp_path / "cache").exists()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [NAME]
    assert stored(tmp_path).startswith(b"kernels+")


def test_the_next_session_starts_with_it(tmp_path: Path) -> None:
    with opened(tmp_path, fresh("rtx")):
        pass
    kept, trt = stored(tmp_path), fresh("rtx")
    with opened(tmp_path, trt):
        assert ("cache.deserialize", kept) in trt.script.calls


def test_a_cache_that_rtx_refuses_is_made_anew(tmp_path: Path) -> None:
    CacheFile(hashlib.sha256(PLAN).hexdigest(), "1.7.1", tmp_path / "cache").save(b"of another")
    trt = fresh("rtx")
    trt.cache_fits = False
    with opened(tmp_path, trt) as backend:
        feeds = request(1, 17)
        check(backend.run(feeds), feeds)
    assert ("cache.deserialize", b"of another") in trt.script.calls
    assert stored(tmp_path).startswith(b"kernels+")


def test_a_folder_that_cannot_be_written_becomes_a_note(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file", encoding="utf-8")
    with opened(tmp_path, fresh("rtx")) as backend:
        feeds = request(1, 17)
        check(backend.run(feeds), feeds)
    assert [note.split(":")[0] for note in backend.notes] == [
        "the runtime cache is not read",
        "the runtime cache is not kept",
    ]


@pytest.mark.parametrize("flavour", ["8.6", "10"])
def test_tensorrt_has_no_such_cache(tmp_path: Path, flavour: str) -> None:
    with opened(tmp_path, fresh(flavour)) as backend:
        backend.run(request(1, 17))
    assert not (tmp_path / "cache").exists()


def test_an_unchanged_cache_is_not_written_again(tmp_path: Path) -> None:
    file = CacheFile("0", "1", tmp_path)
    file.save(b"kernels")
    (path,) = tmp_path.iterdir()
    before = path.stat().st_mtime_ns, path.stat().st_ino
    again = CacheFile("0", "1", tmp_path)
    again.save(again.load())
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == before


def test_by_default_it_lies_in_the_cache_folder_of_the_toolkit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRT_INT8_CACHE", str(tmp_path))
    CacheFile("0", "1").save(b"kernels")
    assert (tmp_path / "runtime" / "0-1.cache").is_file()
    assert CacheFile("0", "1").load() == b"kernels"


def test_without_a_home_folder_there_is_no_cache_but_a_note(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("TRT_INT8_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    file = CacheFile("0", "1")
    assert file.load() == b""
    file.save(b"kernels")
    assert len(file.notes) == 2


@pytest.mark.parametrize("size", [0, 5, 31, 32, 33, -1])
def test_a_cache_that_is_cut_off_is_not_handed_over(tmp_path: Path, size: int) -> None:
    with opened(tmp_path, fresh("rtx")) as backend:
        backend.run(request(1, 17))
    path = tmp_path / "cache" / NAME
    path.write_bytes(path.read_bytes()[:size])
    trt = fresh("rtx")
    with opened(tmp_path, trt) as backend:
        assert "cache.deserialize" not in trt.script.names()
        (note,) = backend.notes
        assert "is damaged" in note
    assert stored(tmp_path).startswith(b"kernels+")


@pytest.mark.parametrize("index", [0, 31, 32, -1])
def test_a_cache_with_a_flipped_bit_is_not_handed_over(tmp_path: Path, index: int) -> None:
    CacheFile("0", "1", tmp_path).save(b"kernels")
    flip(tmp_path / "0-1.cache", index)
    file = CacheFile("0", "1", tmp_path)
    assert file.load() == b""
    assert "is damaged" in file.notes[0]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="files have no such owners here")
@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777])
def test_a_cache_in_a_folder_that_others_write_is_not_handed_over(
    tmp_path: Path, mode: int
) -> None:
    CacheFile("0", "1", tmp_path).save(b"kernels")
    tmp_path.chmod(mode)
    file = CacheFile("0", "1", tmp_path)
    assert file.load() == b""
    assert "others may write it" in file.notes[0]
    assert "set TRT_INT8_CACHE to a folder of your own" in file.notes[0]
    tmp_path.chmod(0o755)
    assert CacheFile("0", "1", tmp_path).load() == b"kernels"


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="files have no such owners here")
def test_a_cache_that_others_write_or_own_is_not_handed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    CacheFile("0", "1", tmp_path).save(b"kernels")
    (tmp_path / "0-1.cache").chmod(0o666)
    assert CacheFile("0", "1", tmp_path).load() == b""
    (tmp_path / "0-1.cache").chmod(0o644)
    assert CacheFile("0", "1", tmp_path).load() == b"kernels"
    (tmp_path / "other").mkdir()
    CacheFile("0", "1", tmp_path / "other").save(b"kernels")
    look = Path.stat

    def by_another(path: Path, **options: bool) -> os.stat_result:
        found = look(path, **options)
        return os.stat_result((*found[:4], 12345, *found[5:10]))

    monkeypatch.setattr(Path, "stat", by_another)
    assert CacheFile("0", "1", tmp_path / "other").load() == b""


def test_a_cache_is_made_for_this_user_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        CacheFile("0", "1", tmp_path / "made").save(b"kernels")
    finally:
        os.umask(before)
    assert (tmp_path / "made").stat().st_mode & 0o077 == 0
    assert (tmp_path / "made" / "0-1.cache").stat().st_mode & 0o077 == 0
    assert CacheFile("0", "1", tmp_path / "made").load() == b"kernels"
