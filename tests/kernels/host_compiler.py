"""The host's C++ compiler, and where what it makes is kept: for emulator and interpreter alike."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tests.kernels.report import KernelFault


def compiler() -> str | None:
    """The C++ compiler (`CXX`, else g++), or None where there is none."""
    return shutil.which(os.environ.get("CXX", "g++"))


def needed_compiler() -> str:
    """The C++ compiler.

    Raises:
        KernelFault: kind "load"; there is none.
    """
    tool = compiler()
    if tool is None:
        raise KernelFault("load", "g++ is not installed, and running kernels on the CPU needs it")
    return tool


@cache
def compiler_version() -> str:
    """The first line of what the compiler says of itself.

    Raises:
        KernelFault: kind "load"; there is none.
    """
    command = [needed_compiler(), "--version"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[0]


def build_folder(variable: str, name: str) -> Path:
    """A folder of compiled files: `$variable`, else `name` in the user's cache folder."""
    chosen = os.environ.get(variable)
    user = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = Path(chosen) if chosen else user / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def build_lock(path: Path) -> Iterator[None]:
    """Let one process at a time make a file."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)
