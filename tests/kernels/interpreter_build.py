"""Compile the PTX interpreter in `ptxvm/` to a shared library, cached by what went in."""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tests.kernels.emulator_build import compiler
from tests.kernels.report import KernelFault

# Where the library is kept; the default is the user's cache.
CACHE_VARIABLE = "TRT_INT8_INTERPRETER_CACHE"
SOURCE_FOLDER = Path(__file__).parent / "ptxvm"
FLAGS = (
    "-std=c++17",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-O3",
    "-march=native",
    # A fused multiply-add here would give other bits than the PTX text asks for.
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fPIC",
)


@cache
def library() -> Path:
    """The shared library; compiled unless the cache has it.

    Raises:
        KernelFault: kind "load"; g++ is missing or refuses a source.
    """
    headers = b"".join(file.read_bytes() for file in sorted(SOURCE_FOLDER.glob("*.h")))
    key = hashlib.sha256("\0".join((*FLAGS, _machine(), _version())).encode() + headers)
    folder = _cache_folder()
    sources = sorted(SOURCE_FOLDER.glob("*.cpp"))
    objects = [folder / f"{file.stem}-{_with(key, file)}.o" for file in sources]
    whole = hashlib.sha256("".join(path.name for path in objects).encode()).hexdigest()
    target = folder / f"ptxvm-{whole[:24]}.so"
    if not target.is_file():
        with _lock(folder / "build.lock"), ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(_compile, sources, objects))
            _run_compiler(["-shared", *map(str, objects)], target)
    return target


def _with(key: hashlib._Hash, file: Path) -> str:
    digest = key.copy()
    digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:24]


def _compile(source: Path, target: Path) -> None:
    if not target.is_file():
        _run_compiler([*FLAGS, "-c", str(source)], target)


def _run_compiler(arguments: list[str], target: Path) -> None:
    tool = compiler()
    if tool is None:
        raise KernelFault("load", "g++ is not installed, and the interpreter needs it")
    draft = target.with_name(f"{target.name}.draft")
    done = subprocess.run(
        [tool, *arguments, "-o", str(draft)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise KernelFault("load", f"g++ refused the interpreter:\n{done.stderr.strip()}")
    draft.replace(target)


def _machine() -> str:
    """What -march=native depends on: a cache may be shared by machines that differ."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.machine()
    lines = text.splitlines()
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features"))}))


def _version() -> str:
    tool = compiler()
    if tool is None:
        raise KernelFault("load", "g++ is not installed, and the interpreter needs it")
    done = subprocess.run([tool, "--version"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0]


def _cache_folder() -> Path:
    chosen = os.environ.get(CACHE_VARIABLE)
    user = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = Path(chosen) if chosen else user / "trt_int8-interpreter"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)
