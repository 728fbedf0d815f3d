"""Where a model repository goes: a new folder, or one of ours that nobody changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from pydantic import ValidationError

from trt_int8.engine.bundle import file_sha256, list_files, resolve_out
from trt_int8.errors import BundleError
from trt_int8.spec.base import Frozen
from trt_int8.spec.manifest import FileEntry

MARKER_NAME: Final = "trt_int8-triton.json"
# Python writes these beside a model.py that a server has loaded.
_LEFT_BY_PYTHON = "__pycache__"


class Marker(Frozen):
    """Says that this package wrote a repository, from what, and how its files were.

    Attributes:
        model: name of the bundle's model.
        model_sha256: hash of that model, as in the bundle's manifest.
        files: every other file, by path inside the repository.
    """

    format: Literal["trt_int8-triton-1"] = "trt_int8-triton-1"
    model: str
    model_sha256: str
    files: dict[str, FileEntry]


def check_place(out: Path, bundle: Path, *, force: bool) -> None:
    """Refuse, before any work, a place that cannot take the repository.

    Raises:
        BundleError: `out` is a file, lies in the bundle, holds what this package did not write or
            what was changed since, or holds a repository and `force` is off.
    """
    out = resolve_out(out)
    if bundle.resolve() in out.parents:
        raise BundleError(
            f"{str(out)!r} lies in the bundle",
            wanted="a place outside: the manifest vouches for every file of a bundle",
            todo="choose another --out",
        )
    try:
        held = holds_repository(out, todo="choose another --out (nothing was deleted)")
    except OSError as error:
        raise BundleError(
            f"{str(out)!r} cannot be read ({error.strerror})",
            wanted="a folder of yours",
            todo="choose another --out",
        ) from error
    if held and not force:
        raise BundleError(
            f"{str(out)!r} already holds a model repository",
            wanted="a new folder",
            todo="pass --force to replace it, or choose another --out",
        )


def holds_repository(out: Path, *, todo: str) -> bool:
    """Tell whether a repository of ours is there; False for nothing or an empty folder.

    Raises:
        BundleError: there is anything else.
    """
    if not out.exists():
        return False
    if not out.is_dir():
        raise BundleError(f"{str(out)!r} is a file", wanted="a folder", todo=todo)
    if not any(out.iterdir()):
        return False
    foreign = _foreign_files(out)
    if foreign:
        raise BundleError(
            f"{str(out)!r} holds {len(foreign)} files that this command did not write so, first"
            f" {foreign[0]!r}",
            wanted="a new or empty folder, or a repository as it was written",
            todo=todo,
        )
    return True


def write_marker(folder: Path, model: str, model_sha256: str) -> Mapping[str, FileEntry]:
    """Hash what is in the folder, and write it down; last of all.

    Returns:
        The files by path inside the folder.
    """
    files = list_files(folder)
    marker = Marker(model=model, model_sha256=model_sha256, files=files)
    (folder / MARKER_NAME).write_text(marker.to_json(), encoding="utf-8")
    return files


def _foreign_files(out: Path) -> list[str]:
    """Files that the marker does not list, or not with this content; all if there is none."""
    found = {
        str(path.relative_to(out)): path
        for path in sorted(out.rglob("*"))
        if (path.is_file() or path.is_symlink()) and _LEFT_BY_PYTHON not in path.parts
    }
    marker = _read_marker(found.pop(MARKER_NAME, None))
    known = marker.files if marker is not None else {}
    changed = [n for n, path in found.items() if n not in known or not _same(path, known[n])]
    return changed if marker is not None else changed or [MARKER_NAME]


def _same(path: Path, entry: FileEntry) -> bool:
    return path.is_file() and file_sha256(path) == entry.sha256


def _read_marker(path: Path | None) -> Marker | None:
    if path is None:
        return None
    try:
        return Marker.model_validate_json(path.read_bytes())
    except (ValidationError, json.JSONDecodeError, OSError):
        return None
