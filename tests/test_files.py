"""Files appear whole or not at all, and what others may have put somewhere is not read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from trt_int8.files import check_own, is_own_folder, read_own, write_own, write_whole

has_owners = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="files have no such owners here")


def test_a_file_is_written_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", b"new")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a": b"new"}


def test_an_old_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a longer old text")
    write_whole(tmp_path / "a", memoryview(b"new"))
    assert (tmp_path / "a").read_bytes() == b"new"


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    (tmp_path / "a").write_bytes(b"old")
    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "a", b"new")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a": b"old"}


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def owned_by(user: int, mode: int) -> os.stat_result:
    return os.stat_result((mode, 0, 0, 1, user, 0, 0, 0, 0, 0))


def test_a_file_of_one_s_own_is_read_back(tmp_path: Path) -> None:
    write_own(tmp_path / "new" / "a", b"code")
    assert read_own(tmp_path / "new" / "a") == b"code"


@has_owners
def test_a_file_of_one_s_own_is_for_this_user_alone_whatever_the_umask(
    tmp_path: Path, no_umask: None
) -> None:
    write_own(tmp_path / "new" / "a", b"code")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "new" / "a").stat().st_mode & 0o777 == 0o600


def test_the_umask_decides_who_reads_any_other_file(tmp_path: Path, no_umask: None) -> None:
    write_whole(tmp_path / "a", b"page")
    assert (tmp_path / "a").stat().st_mode & 0o044 == 0o044


@has_owners
@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_not_read(tmp_path: Path, mode: int) -> None:
    write_own(tmp_path / "a", b"code")
    (tmp_path / "a").chmod(mode)
    with pytest.raises(PermissionError, match=r"/a' is another user's, or others may write it"):
        read_own(tmp_path / "a")
    (tmp_path / "a").chmod(0o644)
    assert read_own(tmp_path / "a") == b"code"


@has_owners
@pytest.mark.parametrize("mode", [0o770, 0o702, 0o1777])
def test_a_file_in_a_folder_that_others_may_write_is_not_read(tmp_path: Path, mode: int) -> None:
    write_own(tmp_path / "new" / "a", b"code")
    (tmp_path / "new").chmod(mode)
    with pytest.raises(PermissionError, match=r"/new' is another user's, or others may write it"):
        read_own(tmp_path / "new" / "a")
    assert not is_own_folder(tmp_path / "new")
    (tmp_path / "new").chmod(0o755)
    assert read_own(tmp_path / "new" / "a") == b"code"
    assert is_own_folder(tmp_path / "new")


@has_owners
def test_only_this_user_and_root_are_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    check_own(tmp_path, owned_by(1000, 0o40755))
    check_own(tmp_path, owned_by(0, 0o40755))
    with pytest.raises(PermissionError, match="another user's"):
        check_own(tmp_path, owned_by(1001, 0o40700))


def test_only_a_folder_itself_is_one_of_one_s_own(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir(mode=0o700)
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    names = ("folder", "file", "link", "none")
    assert [is_own_folder(tmp_path / name) for name in names] == [True, False, False, False]
