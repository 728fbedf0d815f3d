"""Ways to damage a file of a bundle, each with the error it must give, and a loader that tells."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.support.runtime_bundle import VERSION, flip
from trt_int8 import errors
from trt_int8.errors import BundleError


class RecordedModule(ModuleType):
    """A TensorRT that notes whatever is asked of it, and can do nothing."""

    def __init__(self, name: str, version: str = VERSION) -> None:
        super().__init__(name)
        self._version = version
        self.touched: list[str] = []

    def __getattr__(self, name: str) -> Any:
        self.touched.append(name)
        if name == "__version__":
            return self._version
        raise AttributeError(name)


def resize(size: int) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, path.stat().st_size + size if size < 0 else size)


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def to_link(target: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.rename(path.parent.parent.parent / "outside") if ".." in target else path.unlink()
        path.symlink_to(target)

    return change


DAMAGE: dict[str, tuple[Callable[[Path], object], type[BundleError]]] = {
    "first byte": (lambda path: flip(path, 0), errors.ChangedFileError),
    "a byte of the header": (lambda path: flip(path, 17), errors.ChangedFileError),
    "a byte in the middle": (
        lambda path: flip(path, path.stat().st_size // 2),
        errors.ChangedFileError,
    ),
    "last byte": (lambda path: flip(path, -1), errors.ChangedFileError),
    "one byte more": (
        lambda path: path.write_bytes(path.read_bytes() + b"\0"),
        errors.ChangedFileError,
    ),
    "one byte less": (resize(-1), errors.TruncatedFileError),
    "half": (resize(-10), errors.TruncatedFileError),
    "one byte": (resize(1), errors.TruncatedFileError),
    "empty": (resize(0), errors.TruncatedFileError),
    "gone": (Path.unlink, errors.MissingFileError),
    "a folder": (to_folder, errors.MissingFileError),
    "a broken link": (to_link("nowhere"), errors.MissingFileError),
}
