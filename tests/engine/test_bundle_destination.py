from __future__ import annotations

import errno
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.support.bundles import contents, fill, make_bundle
from trt_int8.engine.bundle import (
    check_destination,
    resolve_out,
)
from trt_int8.errors import BundleError


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"mine")
    with pytest.raises(BundleError, match=r"out' is a file; wanted a folder"):
        check_destination(tmp_path / "out", force=True)


@pytest.mark.parametrize("force", [True, False])
def test_a_folder_with_foreign_files_is_refused_even_with_force(
    force: bool, tmp_path: Path
) -> None:
    fill(tmp_path / "out", {"thesis.txt": b"precious"})
    with pytest.raises(BundleError, match=r"holds files that are not a bundle; .*nothing was del"):
        check_destination(tmp_path / "out", force=force)
    assert contents(tmp_path / "out") == {"thesis.txt": b"precious"}


def test_an_old_bundle_is_refused_without_force(tmp_path: Path) -> None:
    out = make_bundle(tmp_path / "out")
    with pytest.raises(BundleError, match=r"already holds a bundle; .*pass --force"):
        check_destination(out, force=False)
    check_destination(out, force=True)


def test_a_parent_that_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: Any, **__: Any) -> str:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "mkdtemp", denied)
    with pytest.raises(BundleError, match=r"cannot be written \(Permission denied\)"):
        check_destination(tmp_path / "out", force=False)


def test_a_parent_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BundleError, match=r"file' cannot be written \(File exists\)"):
        check_destination(tmp_path / "file" / "out", force=False)


@pytest.mark.parametrize("path", [".", "..", "link"])
def test_the_current_folder_is_refused_because_it_would_be_replaced(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    Path("link").symlink_to(".")
    with pytest.raises(BundleError, match=r"is the folder this command runs in, or around it"):
        check_destination(Path(path), force=True)


def test_an_output_folder_is_resolved_to_its_real_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("v1")
    assert resolve_out(Path("link/../a/./b")) == tmp_path / "a" / "b"
    assert resolve_out(Path("link")) == tmp_path / "v1"


def test_a_mount_point_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "is_mount", lambda path: path.name == "out")
    with pytest.raises(BundleError, match=r"out' is a mount point; .*out/model'?"):
        check_destination(tmp_path / "out", force=False)
    check_destination(tmp_path / "out" / "model", force=False)


def test_a_folder_that_cannot_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(_: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    (tmp_path / "out").mkdir()
    monkeypatch.setattr(Path, "iterdir", denied)
    with pytest.raises(BundleError, match=r"out' cannot be read \(Permission denied\)"):
        check_destination(tmp_path / "out", force=False)
