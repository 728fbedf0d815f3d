"""Write a bundle so that a killed build leaves the old one or the new one, never a mixture."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from trt_int8.errors import BundleError
from trt_int8.spec.manifest import MANIFEST_NAME, FileEntry

# Where a bundle holds the plugin libraries that its engines were built with.
PLUGIN_FOLDER = "plugins"
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def resolve_out(path: Path) -> Path:
    """The real place of an output folder: absolute, without links and dots.

    Raises:
        BundleError: its links form a circle, or it is the current folder (or around it): replacing
            that would leave the user's shell in a deleted folder.
    """
    try:
        out, current = path.resolve(), Path.cwd()
    except (OSError, RuntimeError) as error:  # a circle of links is a RuntimeError up to 3.12
        raise BundleError(
            f"{str(path)!r} cannot be resolved ({error})",
            wanted="a path to a folder",
            todo="choose another --out",
        ) from error
    if out == current or out in current.parents:
        raise BundleError(
            f"{str(path)!r} is the folder this command runs in, or around it",
            wanted="a folder that can be replaced as a whole",
            todo=f"choose a folder inside it, for example --out {path / 'engines'}",
        )
    return out


def check_destination(out: Path, *, force: bool) -> None:
    """Refuse, before any work, a place that cannot take the bundle.

    Raises:
        BundleError: `out` is a file, holds something that is not a bundle, holds a bundle and
            `force` is off, cannot be read, is a mount point, or its parent cannot be written.
    """
    out = resolve_out(out)
    try:
        has_bundle = _holds_bundle(out, todo="choose another --out (nothing was deleted)")
        is_mount = out.is_mount()
    except OSError as error:
        raise BundleError(
            f"{str(out)!r} cannot be read ({error.strerror})",
            wanted="a folder of yours",
            todo="choose another --out",
        ) from error
    if has_bundle and not force:
        raise BundleError(
            f"{str(out)!r} already holds a bundle",
            wanted="a new folder",
            todo="pass --force to replace it, or choose another --out",
        )
    if is_mount:
        raise BundleError(
            f"{str(out)!r} is a mount point",
            wanted="a folder that can be replaced as a whole",
            todo=f"choose a folder inside it, for example --out {out / 'model'}",
        )
    _check_parent(out)


def _holds_bundle(out: Path, *, todo: str) -> bool:
    """Tell whether there is a bundle; False for nothing or an empty folder, else an error."""
    if not out.exists():
        return False
    if not out.is_dir():
        raise BundleError(f"{str(out)!r} is a file", wanted="a folder", todo=todo)
    if (out / MANIFEST_NAME).is_file():
        return True
    if any(out.iterdir()):
        raise BundleError(
            f"{str(out)!r} holds files that are not a bundle",
            wanted="a new or empty folder, or an old bundle",
            todo=todo,
        )
    return False


def _check_parent(out: Path) -> None:
    missing = [folder for folder in out.parents if not folder.exists()]
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
    finally:
        with contextlib.suppress(OSError):
            for folder in missing:
                folder.rmdir()


@contextlib.contextmanager
def staging(out: Path, holds: Callable[..., bool] | None = None) -> Iterator[Path]:
    """A hidden folder beside `out` that becomes `out` when the block ends without an error.

    On any error, Ctrl-C included, it is removed and `out` stays as it was.

    Args:
        out: the place.
        holds: called with `out` and `todo`, refuses what must not be replaced; by default
            everything but a bundle.

    Raises:
        BundleError: the disk is full, or files that are not a bundle came into `out` meanwhile.
    """
    out = resolve_out(out)
    folder = None
    missing = [parent for parent in out.parents if not parent.exists()]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.partial-"))
        yield folder
        folder.chmod(0o755)
        _move_into_place(folder, out, holds or _holds_bundle)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BundleError(
                f"the disk of {str(out.parent)!r} is full",
                wanted=f"more room (now {_free_bytes(out) >> 20} MB)",
                todo="free space or choose another --out; nothing half-written was left",
            ) from error
        raise
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # only folders that are still empty go
            for parent in missing:
                parent.rmdir()


def _free_bytes(out: Path) -> int:
    return shutil.disk_usage(next(folder for folder in out.parents if folder.exists())).free


def _move_into_place(folder: Path, out: Path, holds: Callable[..., bool]) -> None:
    # What came during the build is not ours to delete.
    todo = "move them or choose another --out (they were kept; the new bundle was removed)"
    holds(out, todo=todo)
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


def copy_libraries(folder: Path, libraries: Iterable[Path]) -> dict[str, str]:
    """Put plugin libraries into a bundle, so that what loads its engines finds them.

    Returns:
        sha256 of each copy by file name.
    """
    hashes = {}
    for library in libraries:
        (folder / PLUGIN_FOLDER).mkdir(exist_ok=True)
        copy = Path(shutil.copyfile(library, folder / PLUGIN_FOLDER / library.name))
        hashes[library.name] = file_sha256(copy)
    return hashes


def list_files(folder: Path) -> dict[str, FileEntry]:
    """Hash every file below `folder` but the manifest, by relative path, sorted."""
    return {
        path.relative_to(folder).as_posix(): FileEntry(
            sha256=file_sha256(path), size_bytes=path.stat().st_size
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / MANIFEST_NAME
    }


def file_sha256(path: Path) -> str:
    """sha256 of a file, hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
