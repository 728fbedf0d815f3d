"""TensorRT-RTX's runtime cache on disk: kernels it compiled for this card in earlier sessions.

What is read back is code. It is taken only from a file that nobody but this user, or root, can have
written, and only whole: TensorRT-RTX checks of which card and version a cache is, but it does not
promise to survive a damaged one.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from trt_int8.errors import PluginError
from trt_int8.files import read_own, write_own
from trt_int8.plugins.compile import CACHE_VARIABLE, cache_folder

# sha256 of what follows, at the beginning of the file.
_SEAL_BYTES = hashlib.sha256().digest_size


class CacheFile:
    """One cache, of one engine and one version of TensorRT-RTX; failures become notes."""

    def __init__(self, engine_sha256: str, version: str, folder: Path | None = None) -> None:
        """Nothing is read yet.

        Args:
            engine_sha256: of the engine's file; an engine fits one architecture, so it tells the
                card, too.
            version: of TensorRT-RTX.
            folder: where caches are kept; by default `$TRT_INT8_CACHE/runtime`, else the user's
                cache folder.
        """
        self._name = f"{engine_sha256}-{version}.cache"
        self._folder = folder
        self._stored = b""
        self.notes: list[str] = []

    def load(self) -> bytes:
        """The stored cache; empty without one that is whole and this user's own."""
        try:
            self._stored = self._read(self._path())
        except FileNotFoundError:
            pass
        except PermissionError as error:
            own = f"or set {CACHE_VARIABLE} to a folder of your own, for a cache is code"
            self.notes.append(f"the runtime cache is not read: {error}, {own}")
        except (OSError, PluginError) as error:
            self.notes.append(f"the runtime cache is not read: {error}")
        return self._stored

    def save(self, data: bytes) -> None:
        """Store a cache in one step, if it is another than the one that was loaded."""
        if not data or data == self._stored:
            return
        try:
            write_own(self._path(), hashlib.sha256(data).digest() + data)
        except (OSError, PluginError) as error:
            self.notes.append(f"the runtime cache is not kept: {error}")

    def _read(self, path: Path) -> bytes:
        data = read_own(path)
        seal, cache = data[:_SEAL_BYTES], data[_SEAL_BYTES:]
        if hashlib.sha256(cache).digest() != seal:
            raise OSError(f"{str(path)!r} is damaged; it is made anew")
        return cache

    def _path(self) -> Path:
        folder = self._folder if self._folder is not None else cache_folder().with_name("runtime")
        return folder / self._name
