"""Plugin libraries of a bundle: other people's TensorRT plugins, loaded before the engine.

They lie in the bundle's folder `plugins`; bundles of older versions only name them, with their
hash, and take a copy put there by hand.
"""

from __future__ import annotations

import hashlib
import platform
import struct
from pathlib import Path

from trt_int8.engine.bundle import PLUGIN_FOLDER
from trt_int8.engine.bundle_files import read_unlisted
from trt_int8.errors import BundleError, PluginLibraryError
from trt_int8.spec.manifest import Manifest

# ELF header (System V ABI, "ELF Header"), 64 bytes: magic, class 2 for 64 bits, data 1 for
# little-endian; e_type at byte 16 (3: shared object), e_machine at 18.
_HEADER_BYTES = 64
_ELF_64_LITTLE = b"\x7fELF\x02\x01"
_SHARED_OBJECT = 3
_MACHINES = {"x86_64": 62, "aarch64": 183}


def read_library(folder: Path, manifest: Manifest, name: str) -> bytes:
    """The bytes of a plugin library, once their sha256 is that of the manifest.

    Args:
        folder: of the bundle.
        manifest: its table of contents.
        name: file name of the library, one of `manifest.plugin_libraries`.

    Raises:
        PluginLibraryError: the manifest names no such library, or it is missing, changed, or no
            library that this machine can load.
    """
    place = f"{PLUGIN_FOLDER}/{name}"
    digest = manifest.plugin_libraries.get(name)
    if digest is None:
        raise PluginLibraryError(
            f"the manifest of {str(folder)!r} names no plugin library {name!r}",
            wanted=f"one of {', '.join(manifest.plugin_libraries) or 'none'}",
            todo="build the bundle again with --plugin",
        )
    mend = f"put the library that the engine was built with at {str(folder / place)!r}"
    try:
        data = read_unlisted(folder, place)
    except BundleError as error:
        raise PluginLibraryError(
            error.came, wanted=f"the plugin library with sha256 {digest[:12]}…", todo=mend
        ) from error
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        raise PluginLibraryError(
            f"plugin library {place!r} of bundle {str(folder)!r} has sha256 {found[:12]}…",
            wanted=f"{digest[:12]}…, with which the engine was built",
            todo=mend,
        )
    _check_kind(place, data)
    return data


def _check_kind(place: str, data: bytes) -> None:
    kind, machine = struct.unpack_from("<HH", data.ljust(_HEADER_BYTES, b"\0"), 16)
    here = _MACHINES.get(platform.machine())
    is_elf = (
        data.startswith(_ELF_64_LITTLE) and kind == _SHARED_OBJECT and len(data) >= _HEADER_BYTES
    )
    if is_elf and (here is None or machine == here):
        return
    came = f"is for another processor (ELF machine {machine})" if is_elf else "is no shared library"
    raise PluginLibraryError(
        f"plugin library {place!r} {came}",
        wanted=f"a shared library for Linux on {platform.machine()}",
        todo="build the library and the bundle on this kind of machine",
    )
