"""Read a bundle's manifest; what it says is checked before any file is touched."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from trt_int8.engine.bundle_files import COPY_AGAIN, check_file, is_plain_path
from trt_int8.errors import (
    BundleError,
    ManifestError,
    ManifestFormatError,
    NoBundleError,
    TrtInt8Error,
    UnreadableFileError,
    UnsafePathError,
)
from trt_int8.spec.manifest import MANIFEST_FORMAT, MANIFEST_NAME, Manifest

_FORMAT = re.compile(r"trt_int8-bundle-(\d{1,9})")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_WHOLE = "a manifest as a build writes it, last"


def read_manifest(bundle: Path) -> Manifest:
    """Read a bundle's manifest and check every file it lists.

    Raises:
        BundleError: the manifest cannot be read or contradicts itself, or a file is missing or not
            the one it was; each with a class of its own.
    """
    manifest = load_manifest(bundle)
    for name in manifest.files:
        check_file(bundle, name, manifest.files)
    return manifest


def load_manifest(bundle: Path) -> Manifest:
    """Read a bundle's manifest; no other file is opened.

    Raises:
        NoBundleError: there is no such folder, or no manifest in it.
        UnreadableFileError: the system refuses to read the manifest.
        ManifestFormatError: it is of a format that this version does not know.
        ManifestError: it is cut off, no JSON, lacks something, or contradicts itself.
        UnsafePathError: it names a file outside the bundle.
    """
    data = _read(bundle)
    _check_format(bundle, _parse(bundle, data))
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise _faulty(
            bundle, f"cannot be read ({error.error_count()} faults, first: {place} {first['msg']})"
        ) from error
    except TrtInt8Error as error:  # a setting of the recipe, or a shape, that no build takes
        raise _faulty(bundle, f"cannot be read ({error.came})") from error
    _check_paths(bundle, manifest)
    _check_entries(bundle, manifest)
    return manifest


def _faulty(bundle: Path, came: str, wanted: str = _WHOLE) -> BundleError:
    return ManifestError(f"the manifest of {str(bundle)!r} {came}", wanted=wanted, todo=COPY_AGAIN)


def _read(bundle: Path) -> bytes:
    path = bundle / MANIFEST_NAME
    try:
        if not bundle.exists():
            raise _no_bundle(f"there is no folder {str(bundle)!r}", "check the path")
        if not bundle.is_dir():
            raise _no_bundle(
                f"{str(bundle)!r} is a file", "pass the folder that holds the manifest"
            )
        if not path.is_file():
            raise _no_bundle(
                f"{str(bundle)!r} has no {MANIFEST_NAME}",
                "check the path; where a copy was interrupted, copy the bundle again",
            )
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        raise UnreadableFileError(
            f"{str(path)!r} cannot be read ({getattr(error, 'strerror', None) or error})",
            wanted="a bundle that this user may read",
            todo="check the permissions and the disk",
        ) from error


def _no_bundle(came: str, todo: str) -> BundleError:
    return NoBundleError(came, wanted="a bundle folder", todo=todo)


def _parse(bundle: Path, data: bytes) -> dict[str, Any]:
    if not data.strip():
        raise _faulty(bundle, "is empty")
    try:
        fields = json.loads(data)
    except json.JSONDecodeError as error:
        ends_early = error.pos >= len(error.doc.rstrip()) or "Unterminated" in error.msg
        came = "is cut off" if ends_early else "is no JSON"
        raise _faulty(
            bundle, f"{came} (line {error.lineno} column {error.colno}: {error.msg})"
        ) from error
    except (ValueError, RecursionError) as error:  # no UTF-8, an endless number or nesting
        raise _faulty(bundle, f"is no JSON ({type(error).__name__})") from error
    if not isinstance(fields, dict):
        raise _faulty(bundle, f"is a JSON {type(fields).__name__}", "a JSON object")
    return fields


def _check_format(bundle: Path, fields: dict[str, Any]) -> None:
    """Older formats are read (`Manifest` brings them up to date), newer ones cannot be."""
    given = fields.get("format")
    number = _FORMAT.fullmatch(given) if isinstance(given, str) else None
    if number is None:
        raise ManifestFormatError(
            f"the manifest of {str(bundle)!r} has the format {given!r}",
            wanted=f"{MANIFEST_FORMAT} or an older one",
            todo="check that this is a bundle of trt-int8, and build it again",
        )
    known = _FORMAT.fullmatch(MANIFEST_FORMAT)
    if known is not None and not 1 <= int(number[1]) <= int(known[1]):
        packages = fields.get("packages")
        builder = packages.get("trt-int8") if isinstance(packages, dict) else None
        raise ManifestFormatError(
            f"the manifest of {str(bundle)!r} has the format {given!r}"
            + (f", written by trt-int8 {builder}" if builder else ""),
            wanted=f"{MANIFEST_FORMAT} or an older one",
            todo="run: pip install --upgrade trt-int8, or build the bundle again with this version",
        )


def _check_paths(bundle: Path, manifest: Manifest) -> None:
    names = (*manifest.files, *(engine.path for engine in manifest.engines))
    for name in names:
        if not is_plain_path(name) or name == MANIFEST_NAME:
            raise UnsafePathError(
                f"the manifest of {str(bundle)!r} names the file {name!r}",
                wanted="relative paths inside the bundle, without '..', none of itself",
                todo="do not use this bundle unless you know who changed it; build it again",
            )
    for library in manifest.plugin_libraries:
        if not is_plain_path(library) or "/" in library:
            raise UnsafePathError(
                f"the manifest of {str(bundle)!r} names the plugin library {library!r}",
                wanted="the name of a file, without folders",
                todo="do not use this bundle unless you know who changed it; build it again",
            )


def _check_entries(bundle: Path, manifest: Manifest) -> None:
    hashes = {name: entry.sha256 for name, entry in manifest.files.items()}
    for name, digest in (hashes | manifest.plugin_libraries).items():
        if not _SHA256.fullmatch(digest):
            raise _faulty(bundle, f"has {digest!r} as sha256 of {name!r}", "64 hexadecimal digits")
    for name, entry in manifest.files.items():
        if entry.size_bytes < 0:
            raise _faulty(bundle, f"says that {name!r} has {entry.size_bytes} bytes", "0 or more")
    seen = set()
    for engine in manifest.engines:
        if engine.path not in manifest.files:
            raise _faulty(bundle, f"has no sha256 of engine {engine.path!r}", "one of each engine")
        key = (engine.sm, engine.precision)
        if key in seen:
            raise _faulty(
                bundle, f"has two {engine.precision} engines for SM{engine.sm}", "one of each"
            )
        seen.add(key)
