"""Compile the PTX interpreter in `ptxvm/` to a shared library, cached by what went in."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from tests.kernels.host_compiler import (
    build_folder,
    build_lock,
    compiler_version,
    needed_compiler,
)
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
    key = hashlib.sha256("\0".join((*FLAGS, _machine(), compiler_version())).encode() + headers)
    folder = build_folder(CACHE_VARIABLE, "trt_int8-interpreter")
    sources = sorted(SOURCE_FOLDER.glob("*.cpp"))
    objects = [folder / f"{file.stem}-{_with(key, file)}.o" for file in sources]
    whole = hashlib.sha256("".join(path.name for path in objects).encode()).hexdigest()
    target = folder / f"ptxvm-{whole[:24]}.so"
    if not target.is_file():
        with build_lock(folder / "build.lock"), ThreadPoolExecutor(os.cpu_count()) as pool:
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
    draft = target.with_name(f"{target.name}.draft")
    done = subprocess.run(
        [needed_compiler(), *arguments, "-o", str(draft)],
        capture_output=True,
        text=True,
        check=False,
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
