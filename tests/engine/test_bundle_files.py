from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.bundles import fill
from tests.support.runtime_bundle import sha256, swap
from trt_int8.engine.bundle_files import check_file, is_plain_path, read_checked
from trt_int8.errors import (
    BundleError,
    ChangedFileError,
    MissingFileError,
    SwappedFileError,
    TruncatedFileError,
    UnreadableFileError,
    UnsafePathError,
)
from trt_int8.spec.manifest import FileEntry

DATA = {"a.engine": bytes(range(97)), "sub/b.engine": b"other" * 5, "empty": b""}
TABLE = {name: FileEntry(sha256=sha256(data), size_bytes=len(data)) for name, data in DATA.items()}
READERS: list[Callable[[Path, str], object]] = [
    lambda folder, name: read_checked(folder, name, TABLE),
    lambda folder, name: check_file(folder, name, TABLE),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    fill(tmp_path / "bundle", DATA)
    return tmp_path / "bundle"


@pytest.fixture(params=READERS, ids=["read", "check"])
def reader(request: pytest.FixtureRequest) -> Callable[[Path, str], object]:
    chosen: Callable[[Path, str], object] = request.param
    return chosen


@pytest.mark.parametrize("name", DATA)
def test_a_whole_file_is_handed_over_as_it_is(folder: Path, name: str) -> None:
    assert read_checked(folder, name, TABLE) == DATA[name]
    check_file(folder, name, TABLE)


@pytest.mark.parametrize("bit", [0, 7])
@pytest.mark.parametrize("index", [0, 1, 48, 63, 64, 95, 96])
def test_one_flipped_bit_anywhere_is_found(
    folder: Path, reader: Callable[[Path, str], object], index: int, bit: int
) -> None:
    data = bytearray(DATA["a.engine"])
    data[index] ^= 1 << bit
    (folder / "a.engine").write_bytes(data)
    with pytest.raises(
        ChangedFileError, match=f"changed: it has sha256 {sha256(bytes(data))[:12]}"
    ):
        reader(folder, "a.engine")


@pytest.mark.parametrize("size", [0, 1, 63, 64, 96])
def test_a_file_that_was_cut_off_says_how_much_is_there(
    folder: Path, reader: Callable[[Path, str], object], size: int
) -> None:
    os.truncate(folder / "a.engine", size)
    with pytest.raises(TruncatedFileError, match=f"cut off: it has {size} bytes; wanted 97 bytes"):
        reader(folder, "a.engine")


def test_a_file_that_grew_is_changed_and_not_cut_off(
    folder: Path, reader: Callable[[Path, str], object]
) -> None:
    (folder / "a.engine").write_bytes(DATA["a.engine"] + b"\0")
    with pytest.raises(ChangedFileError, match="was changed: it has 98 bytes") as caught:
        reader(folder, "a.engine")
    assert type(caught.value) is ChangedFileError


@pytest.mark.parametrize("name", ["a.engine", "sub/b.engine"])
def test_two_swapped_files_are_named(
    folder: Path, reader: Callable[[Path, str], object], name: str
) -> None:
    swap(folder / "a.engine", folder / "sub/b.engine")
    other = "sub/b.engine" if name == "a.engine" else "a.engine"
    with pytest.raises(SwappedFileError, match=f"'{name}' of .* has the content of '{other}'"):
        reader(folder, name)


def test_a_missing_file_is_named(folder: Path, reader: Callable[[Path, str], object]) -> None:
    (folder / "a.engine").unlink()
    with pytest.raises(MissingFileError, match=r"'a\.engine' of .* is missing; .*copy the bundle"):
        reader(folder, "a.engine")


def test_a_file_that_the_manifest_does_not_list_is_never_read(
    folder: Path, reader: Callable[[Path, str], object]
) -> None:
    (folder / "more").write_bytes(b"1")
    with pytest.raises(MissingFileError, match="lists no file 'more'"):
        reader(folder, "more")


def test_a_folder_in_place_of_a_file_is_refused(
    folder: Path, reader: Callable[[Path, str], object]
) -> None:
    (folder / "a.engine").unlink()
    (folder / "a.engine").mkdir()
    with pytest.raises(MissingFileError, match="is a folder or no regular file"):
        reader(folder, "a.engine")


def test_a_file_in_place_of_a_folder_is_a_missing_file(
    folder: Path, reader: Callable[[Path, str], object]
) -> None:
    (folder / "sub/b.engine").unlink()
    (folder / "sub").rmdir()
    (folder / "sub").write_bytes(b"")
    with pytest.raises(MissingFileError, match=r"'sub/b\.engine' .* is missing"):
        reader(folder, "sub/b.engine")


def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(
    folder: Path, reader: Callable[[Path, str], object]
) -> None:
    (folder / "a.engine").unlink()
    os.mkfifo(folder / "a.engine")
    with pytest.raises(MissingFileError, match="no regular file"):
        reader(folder, "a.engine")


@pytest.mark.parametrize("target", ["nowhere", "a.engine"])
def test_a_link_that_leads_nowhere_or_to_itself_is_a_missing_file(
    folder: Path, reader: Callable[[Path, str], object], target: str
) -> None:
    (folder / "a.engine").unlink()
    (folder / "a.engine").symlink_to(target)
    with pytest.raises(MissingFileError, match="is a link that leads nowhere"):
        reader(folder, "a.engine")


def test_a_link_out_of_the_bundle_is_refused_even_if_the_content_is_right(
    folder: Path, reader: Callable[[Path, str], object]
) -> None:
    (folder / "a.engine").rename(folder.parent / "outside")
    (folder / "a.engine").symlink_to("../outside")
    with pytest.raises(UnsafePathError, match=r"is a link to '.*outside'"):
        reader(folder, "a.engine")


def test_a_folder_that_is_a_link_out_of_the_bundle_is_refused(
    folder: Path, reader: Callable[[Path, str], object]
) -> None:
    (folder / "sub").rename(folder.parent / "outside")
    (folder / "sub").symlink_to("../outside")
    with pytest.raises(UnsafePathError, match="is a link to"):
        reader(folder, "sub/b.engine")


def test_links_inside_the_bundle_and_to_the_bundle_are_followed(folder: Path) -> None:
    (folder / "a.engine").rename(folder / "real")
    (folder / "a.engine").symlink_to("real")
    beside = folder.parent / "beside"
    beside.symlink_to(folder)
    assert read_checked(beside, "a.engine", TABLE) == DATA["a.engine"]


def test_a_file_without_permission_says_so(
    folder: Path, reader: Callable[[Path, str], object]
) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (folder / "a.engine").chmod(0)
    with pytest.raises(UnreadableFileError, match="cannot be read"):
        reader(folder, "a.engine")


def test_a_refusal_of_the_system_is_told_apart_from_damage(
    folder: Path, reader: Callable[[Path, str], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UnreadableFileError, match=r"cannot be read \(Permission denied\)"):
        reader(folder, "a.engine")


def test_a_file_of_the_wrong_size_is_not_read_to_its_end(folder: Path) -> None:
    with (folder / "a.engine").open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(ChangedFileError, match=f"has {1 << 40} bytes"):
        read_checked(folder, "a.engine", TABLE)


def test_progress_counts_every_byte_once(folder: Path) -> None:
    seen: list[float] = []
    check_file(folder, "a.engine", TABLE, seen.append)
    assert sum(seen) == 97


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "/", "/etc/passwd", "../a", "sub/../../a", "sub/..", "./a", "a//b"),
        *("a/", "sub/./b", "a\0b"),
    ],
)
def test_a_path_that_is_not_plain_is_refused(folder: Path, name: str) -> None:
    assert not is_plain_path(name)
    table = {name: FileEntry(sha256=sha256(b""), size_bytes=0)}
    with pytest.raises(UnsafePathError, match="names the file"):
        read_checked(folder, name, table)


@pytest.mark.parametrize("name", ["a", "a.b", "sub/b", "..a", "a..", "...", "-", "a b", "ä/ö"])
def test_an_ordinary_path_is_plain(name: str) -> None:
    assert is_plain_path(name)


@given(st.lists(st.sampled_from(["..", ".", "a", "b.c", "", "\0", "/"]), max_size=6))
def test_a_plain_path_never_leads_out_of_its_folder(parts: list[str]) -> None:
    name = "/".join(parts)
    if is_plain_path(name):
        below = os.path.normpath(f"/root/bundle/{name}")
        assert below.startswith("/root/bundle/")
        assert below == f"/root/bundle/{name}"


def test_every_refusal_is_a_bundle_error() -> None:
    kinds = (ChangedFileError, MissingFileError, SwappedFileError, TruncatedFileError)
    assert all(issubclass(kind, BundleError) for kind in (*kinds, UnreadableFileError))
