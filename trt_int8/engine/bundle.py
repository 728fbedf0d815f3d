"""Write a bundle so that a killed build leaves the old one or the new one, never a mixture."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from trt_int8.errors import BundleError
from trt_int8.spec.manifest import MANIFEST_NAME, FileEntry, Manifest

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def check_destination(out: Path, *, force: bool) -> None:
    """Refuse, before any work, a place that cannot take the bundle.

    Raises:
        BundleError: `out` is a file, holds something that is not a bundle, holds a bundle and
            `force` is off, or its parent cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise BundleError(f"{str(out)!r} is a file", wanted="a folder", todo="choose another --out")
    if out.is_dir() and any(out.iterdir()):
        if not (out / MANIFEST_NAME).is_file():
            raise BundleError(
                f"{str(out)!r} holds files that are not a bundle",
                wanted="a new or empty folder, or an old bundle",
                todo="choose another --out (nothing was deleted)",
            )
        if not force:
            raise BundleError(
                f"{str(out)!r} already holds a bundle",
                wanted="a new folder",
                todo="pass --force to replace it, or choose another --out",
            )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.probe-"):
            pass
    except OSError as error:
        raise BundleError(
            f"{str(out.parent)!r} cannot be written ({error.strerror})",
            wanted="a writable folder",
            todo="choose another --out",
        ) from error


@contextlib.contextmanager
def staging(out: Path) -> Iterator[Path]:
    """A hidden folder beside `out` that becomes `out` when the block ends without an error.

    On any error, Ctrl-C included, it is removed and `out` stays as it was.

    Raises:
        BundleError: the disk is full.
    """
    folder = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.partial-"))
    try:
        yield folder
        folder.chmod(0o755)
        _move_into_place(folder, out)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BundleError(
                f"the disk of {str(out.parent)!r} is full",
                wanted=f"more room (now {shutil.disk_usage(out.parent).free >> 20} MB)",
                todo="free space or choose another --out; nothing half-written was left",
            ) from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _move_into_place(folder: Path, out: Path) -> None:
    if not out.exists():
        folder.rename(out)
        return
    if _exchange(folder, out):
        return
    # No atomic exchange on this system: the old bundle stays findable beside the gap.
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    out.rename(old)
    folder.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two folders in one step (Linux renameat2 with RENAME_EXCHANGE)."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    code = rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE)
    return bool(code == 0)


def list_files(folder: Path) -> dict[str, FileEntry]:
    """Hash every file below `folder` but the manifest, by relative path, sorted."""
    return {
        str(path.relative_to(folder)): FileEntry(
            sha256=file_sha256(path), size_bytes=path.stat().st_size
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST_NAME
    }


def file_sha256(path: Path) -> str:
    """sha256 of a file, hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def read_manifest(bundle: Path) -> Manifest:
    """Read a bundle's manifest and check every file it lists.

    Raises:
        BundleError: there is no manifest, it is of another format, or a file is missing or changed.
    """
    todo = "build the bundle again"
    try:
        manifest = Manifest.model_validate_json((bundle / MANIFEST_NAME).read_bytes())
    except FileNotFoundError as error:
        raise BundleError(
            f"{str(bundle)!r} has no {MANIFEST_NAME}", wanted="a bundle", todo=todo
        ) from error
    except ValidationError as error:
        raise BundleError(
            f"the manifest of {str(bundle)!r} cannot be read ({error.error_count()} faults)",
            wanted="one written by this version",
            todo=todo,
        ) from error
    for name, entry in manifest.files.items():
        file = bundle / name
        if not file.is_file() or file_sha256(file) != entry.sha256:
            raise BundleError(
                f"file {name!r} of bundle {str(bundle)!r} is missing or changed",
                wanted=f"sha256 {entry.sha256[:12]}…",
                todo=todo,
            )
    return manifest
