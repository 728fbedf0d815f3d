"""TensorRT-RTX's runtime cache on disk."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.runtime.gpu.fake_trt_types import PLAN
from tests.runtime.gpu.opened import check, fresh, opened, request
from trt_int8.runtime.gpu.cache import CacheFile

NAME = f"{hashlib.sha256(PLAN).hexdigest()}-1.7.1.cache"


def test_what_rtx_compiled_is_kept_at_close_under_the_engine_s_hash(tmp_path: Path) -> None:
    with opened(tmp_path, fresh("rtx")) as backend:
        backend.run(request(1, 17))
        assert not (tmp_path / "cache").exists()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [NAME]
    assert (tmp_path / "cache" / NAME).read_bytes().startswith(b"kernels+")


def test_the_next_session_starts_with_it(tmp_path: Path) -> None:
    with opened(tmp_path, fresh("rtx")):
        pass
    stored = (tmp_path / "cache" / NAME).read_bytes()
    trt = fresh("rtx")
    with opened(tmp_path, trt):
        assert ("cache.deserialize", stored) in trt.script.calls


def test_a_cache_that_rtx_refuses_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / NAME).write_bytes(b"of another driver")
    trt = fresh("rtx")
    trt.cache_fits = False
    with opened(tmp_path, trt) as backend:
        feeds = request(1, 17)
        check(backend.run(feeds), feeds)
    assert (tmp_path / "cache" / NAME).read_bytes().startswith(b"kernels+")


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
    assert (tmp_path / "runtime" / "0-1.cache").read_bytes() == b"kernels"


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
