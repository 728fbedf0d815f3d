"""Compile a kernel's CUDA source with g++ and the emulator to a program, cached by what went in."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.kernels.host_compiler import (
    build_folder,
    build_lock,
    compiler_version,
    needed_compiler,
)
from tests.kernels.report import KernelFault
from trt_int8.plugins.kernel import KernelVariant, kernel_folder

Sanitizer = Literal["address", "thread"]

# Where programs are kept; the default is the user's cache.
CACHE_VARIABLE = "TRT_INT8_EMULATOR_CACHE"
UNUSED_SECONDS = 7 * 24 * 3600.0
SIMT_FOLDER = Path(__file__).parent / "simt"
ENGINE_SOURCES = (
    "engine.cpp",
    "warp.cpp",
    "copies.cpp",
    "fiber.cpp",
    "faults.cpp",
    "guards.cpp",
    "runner.cpp",
)
COMMON_FLAGS = ("-std=c++17", "-g1", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas")
# Kernels type-pun through pointers and mean each multiply and add as written (-fmad=false there).
KERNEL_FLAGS = ("-O2", "-ffp-contract=off", "-fno-strict-aliasing")
# The engine is never instrumented: it would be reported instead of the kernel.
ENGINE_FLAGS: dict[Sanitizer | None, tuple[str, ...]] = {
    None: ("-O2",),
    "address": ("-O2", "-DSIMT_ASAN"),
    "thread": ("-O2", "-DSIMT_TSAN"),
}
SANITIZE: dict[Sanitizer | None, tuple[str, ...]] = {
    None: (),
    "address": (
        "-fsanitize=address,undefined,float-cast-overflow",
        "-fno-sanitize-recover=undefined,float-cast-overflow",
    ),
    "thread": ("-fsanitize=thread",),
}
_INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)


@dataclass(frozen=True)
class BuildOptions:
    """What a program is compiled for.

    Attributes:
        sanitizer: "address" (with undefined behaviour), "thread", or None.
        portable_switch: threads switch by ucontext, as on other processors than x86-64.
    """

    sanitizer: Sanitizer | None = None
    portable_switch: bool = False


def program(variant: KernelVariant, options: BuildOptions) -> Path:
    """The program that runs `variant`; compiled unless the cache has it.

    Raises:
        KernelFault: kind "load"; the source is missing or g++ refuses it.
    """
    source = kernel_folder() / variant.source
    if not source.is_file():
        raise KernelFault("load", f"there is no kernel source {source}")
    flags = (
        *COMMON_FLAGS,
        *KERNEL_FLAGS,
        *SANITIZE[options.sanitizer],
        f"-DTARGET_SM={variant.sm}",
        *(f"-D{name}={value}" for name, value in variant.defines),
        *_entry_flag(source, variant.entry),
    )
    engine_flags = (
        *COMMON_FLAGS,
        *ENGINE_FLAGS[options.sanitizer],
        *(("-DSIMT_UCONTEXT",) if options.portable_switch else ()),
    )
    unit = SIMT_FOLDER / "unit.cpp"
    engine = [SIMT_FOLDER / name for name in ENGINE_SOURCES]
    # Not the source's folder: a copy of it elsewhere is the same program.
    key = _hash([unit, source, *engine], (*flags, "engine", *engine_flags))
    target = _folder() / f"{source.stem}-{key}"

    def make(draft: Path) -> None:
        unit_object = draft.with_suffix(".o")
        named = (*flags, f'-DSIMT_SOURCE="{source.resolve()}"')
        objects = [_engine_object(each, engine_flags) for each in engine]
        try:
            _compile([*named, *_folders(), "-c", str(unit), "-o", str(unit_object)])
            parts = map(str, (unit_object, *objects))
            _compile([*SANITIZE[options.sanitizer], *parts, "-o", str(draft)])
        finally:
            unit_object.unlink(missing_ok=True)

    return _made(target, make)


def _entry_flag(source: Path, entry: str) -> tuple[str, ...]:
    """A source that lists its entries itself is compiled once for all of them."""
    listed = "#define SIMT_ENTRIES" in source.read_text(encoding="utf-8")
    return () if listed else (f"-DSIMT_ENTRIES(entry)=entry({entry})",)


def parameter_names(variant: KernelVariant) -> list[str]:
    """Names of the entry's parameters as the source writes them; empty where macros hide them."""
    text = (kernel_folder() / variant.source).read_text(encoding="utf-8")
    found = re.search(rf"\b{re.escape(variant.entry)}\s*\(([^)]*)\)", text)
    words = [re.findall(r"\w+", part) for part in found[1].split(",")] if found else []
    return [part[-1] for part in words] if all(words) else []


def _engine_object(source: Path, flags: Sequence[str]) -> Path:
    target = (
        build_folder(CACHE_VARIABLE, "trt_int8-emulator")
        / f"{source.stem}-{_hash([source], flags)}.o"
    )
    return _made(
        target,
        lambda draft: _compile([*flags, *_folders(), "-c", str(source), "-o", str(draft)]),
    )


def _folders() -> tuple[str, str]:
    return f"-I{SIMT_FOLDER}", f"-I{kernel_folder()}"


def _hash(sources: Sequence[Path], flags: Sequence[str]) -> str:
    """Of the flags, the compiler, the sources and all that they include."""
    digest = hashlib.sha256("\0".join((compiler_version(), *flags)).encode())
    for file in _with_includes(sources):
        digest.update(f"\0{file.name}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:24]


def _with_includes(files: Sequence[Path]) -> list[Path]:
    """The files and every file that they include in quotes, sorted."""
    seen: set[Path] = set()
    waiting = list(files)
    while waiting:
        file = waiting.pop()
        if file in seen:
            continue
        seen.add(file)
        for name in _INCLUDE.findall(file.read_text(encoding="utf-8")):
            candidates = (folder / name for folder in (file.parent, SIMT_FOLDER, kernel_folder()))
            waiting.extend(path for path in candidates if path.is_file())
    return sorted(seen, key=lambda file: (file.name, str(file)))


def _made(target: Path, make: Callable[[Path], None]) -> Path:
    """`target`, made under another name unless it is there; one process at a time."""
    if target.is_file():
        os.utime(target)
        return target
    _forget_the_unused(target.parent)
    with build_lock(target.with_name(f"{target.name}.lock")):
        if not target.is_file():
            draft = target.with_name(f"{target.name}.draft")
            make(draft)
            draft.replace(target)
    return target


def _forget_the_unused(folder: Path) -> None:
    """Delete what no run has used for a week: each change of a source leaves a program."""
    oldest = time.time() - UNUSED_SECONDS
    for file in folder.iterdir():
        with suppress(FileNotFoundError):
            if file.stat().st_mtime < oldest:
                file.unlink()


def _compile(arguments: Sequence[str]) -> None:
    done = subprocess.run(
        [needed_compiler(), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    if done.returncode != 0:
        raise KernelFault("load", f"g++ refused the source:\n{done.stderr.strip()}")


def _folder() -> Path:
    return build_folder(CACHE_VARIABLE, "trt_int8-emulator")
