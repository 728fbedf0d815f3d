"""TensorRT-RTX's runtime cache on disk: kernels it compiled for this card in earlier sessions."""

from __future__ import annotations

from pathlib import Path

from trt_int8.errors import PluginError
from trt_int8.files import write_whole
from trt_int8.plugins.compile import cache_folder


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
        """The stored cache; empty without one."""
        try:
            self._stored = self._path().read_bytes()
        except FileNotFoundError:
            pass
        except (OSError, PluginError) as error:
            self.notes.append(f"the runtime cache is not read: {error}")
        return self._stored

    def save(self, data: bytes) -> None:
        """Store a cache in one step, if it is another than the one that was loaded."""
        if not data or data == self._stored:
            return
        try:
            path = self._path()
            # What is read back is code: nobody else is to write here.
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_whole(path, data)
        except (OSError, PluginError) as error:
            self.notes.append(f"the runtime cache is not kept: {error}")

    def _path(self) -> Path:
        folder = self._folder if self._folder is not None else cache_folder().with_name("runtime")
        return folder / self._name
