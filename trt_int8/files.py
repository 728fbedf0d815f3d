"""Write files whole or not at all; read those that no other user can have put there."""

from __future__ import annotations

import os
import stat
import uuid
from pathlib import Path
from typing import Any

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def write_whole(path: Path, data: Any, *, private: bool = False) -> None:
    """Write `data` (anything with the buffer protocol) to `path` in one step.

    Args:
        path: the file.
        data: what it is to hold.
        private: nobody but this user may read or write it, whatever the umask lets others do.

    Raises:
        OSError: it cannot be written; an old file stays as it was, nothing is left beside it.
    """
    # Several workers may write one file at a time: each needs a name of its own.
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        if private:
            partial.touch(mode=0o600, exist_ok=False)
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_own(path: Path, data: Any) -> None:
    """Write a file that `read_own` takes, in one step; its folder is made if it is not there.

    Raises:
        OSError: it cannot be written; an old file stays as it was, nothing is left beside it.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_whole(path, data, private=True)


def read_own(path: Path) -> bytes:
    """The bytes of a file that nobody but this user, or root, can have put there.

    Raises:
        PermissionError: others own or may write the file or its folder.
        OSError: it cannot be read.
    """
    check_own(path.parent, path.parent.stat())
    with path.open("rb") as file:
        check_own(path, os.fstat(file.fileno()))
        return file.read()


def is_own_folder(path: Path) -> bool:
    """Whether it is a folder, not a link to one, that nobody but this user, or root, writes."""
    try:
        found = path.lstat()
        check_own(path, found)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode)


def check_own(path: Path, found: os.stat_result) -> None:
    """Refuse what another user owns or may write; only where there are such users.

    Args:
        path: of the file or folder, for the message.
        found: what the system says of it.

    Raises:
        PermissionError: it is not this user's or root's alone.
    """
    if not hasattr(os, "geteuid"):
        return
    if found.st_uid in (os.geteuid(), 0) and not found.st_mode & _OTHERS_WRITE:
        return
    raise PermissionError(
        f"{str(path)!r} is another user's, or others may write it: run chmod go-w on it"
    )
