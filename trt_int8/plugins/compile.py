"""CUDA source to PTX text, cached by the hash of all that decides it.

PTX is compiled on the user's card by the driver, which refuses a version newer than its own. So the
text carries the lowest version that has all it uses, whatever the compiler wrote: PTX ISA 7.2 of
CUDA 11.2 (line information of inlined functions; cp.async and m16n8k32 of 8-bit integers want 7.0;
PTX ISA, "Release Notes" of 7.2 and 7.0). The assembler itself takes that line information from 7.0
on; the manual's number is kept, for drivers as old as it says.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from trt_int8.errors import PluginError
from trt_int8.files import read_own, write_own
from trt_int8.plugins.kernel import KERNEL_SMS, KernelVariant, kernel_folder
from trt_int8.plugins.toolchain import Compiler, Program, find_compiler

PTX_VERSION = "7.2"
CACHE_VARIABLE = "TRT_INT8_CACHE"
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]+"([^"]+)"', re.MULTILINE)
_FILE = re.compile(r'^([ \t]*\.file[ \t]+\d+[ \t]+")(?:[^"\n]*[/\\])?([^"/\\\n]+")', re.MULTILINE)
_SEAL = "// sha256 of what follows: "


@dataclass(frozen=True)
class CompiledKernel:
    """PTX of one variant.

    Attributes:
        variant: what was compiled.
        ptx: the text, with line information that names files without folders.
        sha256: of the sources, the options and the compiler's version; hexadecimal.
    """

    variant: KernelVariant
    ptx: str
    sha256: str

    @property
    def entry(self) -> str:
        """Name of the kernel in the text."""
        return self.variant.entry


def compile_ptx(variant: KernelVariant, compiler: Compiler | None = None) -> CompiledKernel:
    """PTX of a kernel, from the cache or from a compiler.

    Args:
        variant: source, entry, architecture and macros.
        compiler: which one; by default NVRTC of the wheel, else nvcc.

    Raises:
        MissingPackageError: no compiler is installed; the message names the extra.
        PluginError: the source is not there, does not compile (the message names the file, the line
            and the complaint) or has no such entry; or there is no folder for the cache.
    """
    compiler = compiler or find_compiler()
    program = _program(variant)
    key = _sha256(program, compiler.version)
    place = cache_folder() / f"{key}.ptx"
    ptx = _read_sealed(place)
    if ptx is None:
        ptx = portable(compiler.ptx(program), variant.sm)
        _write_sealed(place, ptx)
    # Not part of the key: all entries of a source share one text.
    if not re.search(rf"\.entry\s+{re.escape(variant.entry)}\s*\(", ptx):
        raise PluginError(
            f"{variant.source} has the kernels {re.findall(r'[.]entry +([A-Za-z_0-9]+)', ptx)}",
            wanted=f'an extern "C" kernel named {variant.entry!r}',
            todo="name one of them",
        )
    return CompiledKernel(variant, ptx, key)


def source_sha256(source: str) -> str:
    """Hash of a source and of every header of ours that it includes; hexadecimal.

    Raises:
        PluginError: there is no such source.
    """
    return _hash(f"{name}\n{text}" for name, text in sorted(read_sources(source).items()))


def compile_options(variant: KernelVariant) -> tuple[str, ...]:
    """Options of NVRTC and nvcc for a variant.

    `-fmad=false` keeps `a * b + c` at two roundings, so that the bits are those of the model; where
    one rounding is wanted the kernel calls `fmaf`. `-lineinfo` lets tools name source lines.
    """
    defines = (("TARGET_SM", variant.sm), *variant.defines)
    return (
        f"--gpu-architecture=compute_{variant.sm}",
        "--std=c++17",
        "-fmad=false",
        "-lineinfo",
        *(f"-D{name}={value}" for name, value in defines),
    )


def read_sources(source: str) -> dict[str, str]:
    """Text by file name of a source in `kernel_folder()` and of the headers it includes.

    A header that is not in the folder is left out: those are the ones of the host branch.

    Raises:
        PluginError: there is no such source.
    """
    folder = kernel_folder()
    sources: dict[str, str] = {}
    waiting = [source]
    while waiting:
        name = waiting.pop()
        if name not in sources and (name == source or (folder / name).is_file()):
            try:
                sources[name] = (folder / name).read_text(encoding="utf-8")
            except OSError as error:
                raise PluginError(
                    f"the CUDA source {name!r} cannot be read: {error}",
                    wanted=f"one of {sorted(file.name for file in folder.glob('*.cu'))}",
                    todo="name one of them; if none is there, reinstall trt-int8",
                ) from error
            waiting += _INCLUDE.findall(sources[name])
    return sources


def portable(ptx: str, sm: int) -> str:
    """PTX as older drivers take it, and without the folders of this machine.

    The version goes down to `PTX_VERSION` for the architectures in `KERNEL_SMS`; a later target,
    which only tests compile for, needs the version that the compiler gave.
    """
    ptx = _FILE.sub(r"\1\2", ptx)
    if sm in KERNEL_SMS:
        ptx = re.sub(r"^\.version .*$", f".version {PTX_VERSION}", ptx, count=1, flags=re.MULTILINE)
    return ptx


def cache_folder() -> Path:
    """Where compiled kernels are kept: `$TRT_INT8_CACHE/kernels`, else the user's cache folder.

    Raises:
        PluginError: there is no such variable and no home folder either.
    """
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen) / "kernels"
    variable, under_home = (
        ("LOCALAPPDATA", "AppData/Local")
        if sys.platform == "win32"
        else ("XDG_CACHE_HOME", ".cache")
    )
    try:
        folder = Path(os.environ.get(variable) or Path.home() / under_home)
    except RuntimeError as error:
        raise PluginError(
            f"there is no home folder to keep compiled kernels in: {error}",
            wanted="one, or a folder of your choice",
            todo=f"set {CACHE_VARIABLE} to a folder that can be written",
        ) from error
    return folder / "trt_int8" / "kernels"


def _program(variant: KernelVariant) -> Program:
    return Program(variant.source, read_sources(variant.source), compile_options(variant))


def _sha256(program: Program, compiler: str) -> str:
    # What `portable` does to the text counts as an option.
    parts = [program.name, *program.options, compiler, f"ptx {PTX_VERSION}"]
    return _hash([*parts, *(f"{k}\n{v}" for k, v in sorted(program.sources.items()))])


def _hash(parts: Iterable[str]) -> str:
    # The length before each part: two lists that join to the same text differ.
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode()
        digest.update(f"{len(data)}:".encode() + data)
    return digest.hexdigest()


def _read_sealed(place: Path) -> str | None:
    """The text of a cache entry; None if there is none, it is damaged, or others may write it."""
    try:
        seal, _, text = read_own(place).decode().partition("\n")
    except (OSError, UnicodeDecodeError):
        return None
    return text if seal == _SEAL + _hash([text]) else None


def _write_sealed(place: Path, text: str) -> None:
    # A home that cannot be written costs a compilation each time, nothing else.
    with contextlib.suppress(OSError):
        write_own(place, f"{_SEAL}{_hash([text])}\n{text}".encode())
