"""Where commands that look at a bundle may write a file."""

from __future__ import annotations

from pathlib import Path

from trt_int8.errors import BundleError


def check_outside(option: str, file: Path, source: Path, *, force: bool) -> None:
    """Refuse, before any work, a file that must not be written.

    Args:
        option: that named the file, for messages.
        file: to be written.
        source: what the command reads.
        force: whether an older file may be replaced.

    Raises:
        BundleError: it is what is read or lies in it, or it is there already and `force` is off.
    """
    target, read = file.resolve(), source.resolve()
    if target == read or read in target.parents:
        raise BundleError(
            f"{option} {str(file)!r} lies in what is read",
            wanted="a place outside: the manifest vouches for every file of a bundle",
            todo="choose another FILE",
        )
    if file.exists() and not force:
        raise BundleError(
            f"{str(file)!r} exists", wanted="a new file", todo="add --force to replace it"
        )
