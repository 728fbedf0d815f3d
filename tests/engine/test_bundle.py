from __future__ import annotations

import errno
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.support.bundles import FILES, contents, fill, make_bundle, names
from trt_int8.engine import bundle
from trt_int8.engine.bundle import (
    check_destination,
    staging,
)
from trt_int8.errors import BundleError
from trt_int8.spec.manifest import MANIFEST_NAME


def stage(out: Path, files: dict[str, bytes], error: BaseException | None = None) -> None:
    """Stage files; then fail if there is an error."""
    with staging(out) as folder:
        fill(folder, files)
        if error is not None:
            raise error


def stage_while(out: Path, others: dict[str, bytes]) -> None:
    """Stage a bundle while somebody else fills `out`."""
    with staging(out) as folder:
        fill(folder, FILES)
        fill(out, others)


def test_a_new_bundle_appears_whole_and_readable_by_others(tmp_path: Path) -> None:
    with staging(tmp_path / "out") as folder:
        fill(folder, FILES)
        assert not (tmp_path / "out").exists()
    assert contents(tmp_path / "out") == FILES
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("exchange", [True, False], ids=["atomic", "without renameat2"])
def test_an_old_bundle_is_replaced_as_a_whole(
    exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = make_bundle(tmp_path / "out")
    (out / "old").write_bytes(b"old")
    if not exchange:
        monkeypatch.setattr(bundle, "_exchange", lambda *_: False)
    with staging(out) as folder:
        fill(folder, {"new": b"new"})
        assert "old" in contents(out)
    assert contents(out) == {"new": b"new"}
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit])
@pytest.mark.parametrize("has_old", [True, False])
def test_an_interrupted_build_leaves_what_was_there(
    error: type[BaseException], has_old: bool, tmp_path: Path
) -> None:
    out = make_bundle(tmp_path / "out") if has_old else tmp_path / "out"
    before = contents(tmp_path)
    with pytest.raises(error):
        stage(out, {"half": b"half"}, error())
    assert contents(tmp_path) == before
    assert names(tmp_path) == ["out"] * has_old


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_a_bundle_error_and_keeps_the_old_bundle(
    number: int, tmp_path: Path
) -> None:
    out = make_bundle(tmp_path / "out")
    before = contents(tmp_path)
    with pytest.raises(BundleError, match=r"disk of .* is full; wanted more room \(now \d+ MB\)"):
        stage(out, {"half": b"half"}, OSError(number, "full"))
    assert contents(tmp_path) == before


def test_a_disk_that_is_full_from_the_start_is_a_bundle_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**_: Any) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    with pytest.raises(BundleError, match="is full"):
        stage(tmp_path / "out", {})


def test_another_os_error_is_passed_on(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="input/output"):
        stage(tmp_path / "out", {}, OSError(errno.EIO, "input/output"))
    assert names(tmp_path) == []


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    check_destination(tmp_path / "out", force=False)
    with staging(tmp_path / "out") as folder:
        fill(folder, FILES)
    assert contents(tmp_path / "out") == FILES


def test_a_link_to_an_old_bundle_leaves_no_stray_file_beside_it(tmp_path: Path) -> None:
    make_bundle(tmp_path / "v1")
    (tmp_path / "current").symlink_to("v1")
    check_destination(tmp_path / "current", force=True)
    with staging(tmp_path / "current") as folder:
        fill(folder, {"new": b"new"})
    assert contents(tmp_path / "current") == {"new": b"new"}
    assert names(tmp_path) == ["current", "v1"]


def test_files_that_came_during_the_build_are_not_deleted(tmp_path: Path) -> None:
    out = tmp_path / "out"
    check_destination(out, force=False)
    with pytest.raises(BundleError, match=r"they were kept; the new bundle was removed"):
        stage_while(out, {"thesis.txt": b"precious"})
    assert contents(out) == {"thesis.txt": b"precious"}
    assert names(tmp_path) == ["out"]


def test_a_bundle_that_came_during_the_build_is_replaced(tmp_path: Path) -> None:
    stage_while(tmp_path / "out", {MANIFEST_NAME: b"{}"})
    assert contents(tmp_path / "out") == FILES


def test_the_check_leaves_nothing_and_staging_makes_the_parents(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b" / "out"
    check_destination(out, force=False)
    assert names(tmp_path) == []
    stage(out, FILES)
    assert contents(out) == FILES
