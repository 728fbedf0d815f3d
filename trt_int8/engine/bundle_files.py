"""Read files of a bundle, each checked against its manifest before anything is made of it.

The hashes find damage and mixed-up files. They are no signature: who can write the manifest can
write the hashes too, and an engine is code. Load bundles only from where you would install a
program from.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import BinaryIO

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

Advance = Callable[[float], None]

COPY_AGAIN = "copy the bundle again as a whole, or build it again"
_CHUNK_BYTES = 1 << 20
_SHOWN_DIGITS = 12
_GONE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}


def is_plain_path(name: str) -> bool:
    """Whether a name is a relative path in normal form that stays below its folder."""
    path = PurePosixPath(name)
    parts = path.parts
    is_normal = str(path) == name and bool(parts)
    return is_normal and not path.is_absolute() and ".." not in parts and "\0" not in name


def read_checked(folder: Path, name: str, files: Mapping[str, FileEntry]) -> bytes:
    """The bytes of a file, once their size and sha256 are those of the manifest.

    Whatever happens to the file afterwards, these bytes are what was checked.

    Args:
        folder: of the bundle.
        name: path inside it, listed in `files`.
        files: the manifest's table.

    Raises:
        UnsafePathError: the path or a link leads out of the bundle.
        MissingFileError: it is not there, or is a folder.
        UnreadableFileError: the system refuses to read it.
        TruncatedFileError: it is too short.
        SwappedFileError: it has the content of another file of the bundle.
        ChangedFileError: it is another file.
    """
    _check_listed(folder, name, files)
    with _open(folder, name) as stream:
        _check_size(folder, name, files, stream)
        data = _read(folder, name, stream)
    _compare(folder, name, files, (len(data), hashlib.sha256(data).hexdigest()))
    return data


def read_unlisted(folder: Path, name: str, size: int = -1) -> bytes:
    """The first `size` bytes of a file (-1: all), unchecked: not to be deserialised as they are.

    Raises:
        UnsafePathError: the path or a link leads out of the bundle.
        MissingFileError: it is not there, or is a folder.
        UnreadableFileError: the system refuses to read it.
    """
    with _open(folder, name) as stream:
        return _read(folder, name, stream, size)


def check_file(
    folder: Path, name: str, files: Mapping[str, FileEntry], advance: Advance | None = None
) -> None:
    """Check a file without keeping its bytes.

    Args:
        folder: of the bundle.
        name: path inside it, listed in `files`.
        files: the manifest's table.
        advance: told how many bytes were newly read.

    Raises:
        BundleError: as `read_checked`.
    """
    _check_listed(folder, name, files)
    with _open(folder, name) as stream:
        _check_size(folder, name, files, stream)
        _compare(folder, name, files, _digest(folder, name, stream, advance))


def _check_listed(folder: Path, name: str, files: Mapping[str, FileEntry]) -> None:
    if name not in files:
        raise MissingFileError(
            f"the manifest of {str(folder)!r} lists no file {name!r}",
            wanted="its size and sha256",
            todo="build the bundle again",
        )


def _read(folder: Path, name: str, stream: BinaryIO, size: int = -1) -> bytes:
    try:
        return stream.read(size)
    except OSError as error:
        raise _unreadable(folder, name, error) from error


def _open(folder: Path, name: str) -> BinaryIO:
    """Open a regular file inside the bundle; a pipe or a device is never waited for."""
    place = _inside(folder, name)
    try:
        # O_NONBLOCK changes nothing for files, but opening a pipe would wait for a writer.
        handle = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _GONE:
            raise _missing(folder, name) from error
        raise _unreadable(folder, name, error) from error
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return os.fdopen(handle, "rb")
    os.close(handle)
    raise MissingFileError(
        f"{name!r} of bundle {str(folder)!r} is a folder or no regular file",
        wanted="a file",
        todo=COPY_AGAIN,
    )


def _inside(folder: Path, name: str) -> Path:
    """Where a name leads after all links, which must be inside the bundle."""
    if not is_plain_path(name):
        raise UnsafePathError(
            f"the manifest of {str(folder)!r} names the file {name!r}",
            wanted="relative paths inside the bundle, without '..'",
            todo="do not use this bundle unless you know who changed its manifest; build it again",
        )
    root, place = Path(os.path.realpath(folder)), Path(os.path.realpath(folder / name))
    if not place.is_relative_to(root):
        raise UnsafePathError(
            f"{name!r} of bundle {str(folder)!r} is a link to {str(place)!r}",
            wanted="a file inside the bundle",
            todo="copy the file itself into the bundle (cp --dereference)",
        )
    return place


def _missing(folder: Path, name: str) -> BundleError:
    is_link = (folder / name).is_symlink()
    came = "is a link that leads nowhere" if is_link else "is missing"
    return MissingFileError(
        f"file {name!r} of bundle {str(folder)!r} {came}",
        wanted="every file that the manifest lists",
        todo=COPY_AGAIN,
    )


def _unreadable(folder: Path, name: str, error: OSError) -> BundleError:
    return UnreadableFileError(
        f"file {name!r} of bundle {str(folder)!r} cannot be read ({error.strerror})",
        wanted="a file that this user may read",
        todo="check its permissions and the disk",
    )


def _check_size(folder: Path, name: str, files: Mapping[str, FileEntry], stream: BinaryIO) -> None:
    """Refuse a wrong size before gigabytes are read; the hash tells whose content it is."""
    size = os.fstat(stream.fileno()).st_size
    if size == files[name].size_bytes:
        return
    if size and any(entry.size_bytes == size for entry in files.values()):
        _compare(folder, name, files, _digest(folder, name, stream, None))
    _compare(folder, name, files, (size, None))


def _digest(folder: Path, name: str, stream: BinaryIO, advance: Advance | None) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    try:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
            if advance is not None:
                advance(len(chunk))
    except OSError as error:
        raise _unreadable(folder, name, error) from error
    return size, digest.hexdigest()


def _compare(
    folder: Path,
    name: str,
    files: Mapping[str, FileEntry],
    found: tuple[int, str | None],
) -> None:
    """Compare size and sha256 (None: not read, for the size is wrong already) with the manifest."""
    size, digest = found
    wanted = files[name]
    if (size, digest) == (wanted.size_bytes, wanted.sha256):
        return
    where = f"file {name!r} of bundle {str(folder)!r}"
    others = ((each, entry.sha256) for each, entry in files.items() if each != name)
    twins = sorted(each for each, sha256 in others if sha256 == digest)
    if twins:
        raise SwappedFileError(
            f"{where} has the content of {twins[0]!r}",
            wanted=f"its own (sha256 {_short(wanted.sha256)})",
            todo="give each file its own name again, or " + COPY_AGAIN,
        )
    if size < wanted.size_bytes:
        raise TruncatedFileError(
            f"{where} is cut off: it has {size} bytes",
            wanted=f"{wanted.size_bytes} bytes",
            todo=COPY_AGAIN,
        )
    came = f"has {size} bytes" if size != wanted.size_bytes else f"has sha256 {_short(digest)}"
    raise ChangedFileError(
        f"{where} was changed: it {came}",
        wanted=f"{wanted.size_bytes} bytes of sha256 {_short(wanted.sha256)}",
        todo=f"{COPY_AGAIN}; a manifest of another bundle gives this too",
    )


def _short(digest: str | None) -> str:
    return f"{(digest or '')[:_SHOWN_DIGITS]}…"
