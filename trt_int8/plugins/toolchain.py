"""CUDA compilers that turn one source into PTX without a GPU: NVRTC of a wheel, or nvcc.

NVRTC is called through its C interface (NVRTC documentation, "User Interface"). The Python bindings
of CUDA would do it too, but each of their major versions asks for the NVRTC of its own, which a
PyTorch in the same environment decides; the wheel of NVRTC 12 lives beside any of them.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from trt_int8 import optional
from trt_int8.errors import MissingPackageError, PluginError

NVRTC_PACKAGE = "nvidia.cuda_nvrtc"
_NVRTC_WHEEL = "nvidia-cuda-nvrtc-cu12"
_NVRTC_FILES = ("bin/nvrtc64_120_0.dll",) if sys.platform == "win32" else ("lib/libnvrtc.so.12",)
_NVCC_TIMEOUT_SECONDS = 300


class CompilerError(PluginError):
    """A compiler refused a source.

    Attributes:
        compiler_output: all that the compiler wrote.
    """

    def __init__(self, came: str, *, wanted: str, todo: str, compiler_output: str) -> None:
        """Keep the output beside the message, which has its first complaint only."""
        super().__init__(came, wanted=wanted, todo=todo)
        self.compiler_output = compiler_output


@dataclass(frozen=True)
class Program:
    """What a compiler is given.

    Attributes:
        name: file name of the source, as it shall stand in line information.
        sources: text by file name: the source and every header that it includes.
        options: options that NVRTC and nvcc spell alike.
    """

    name: str
    sources: Mapping[str, str]
    options: tuple[str, ...]


class Compiler(Protocol):
    """One way to PTX."""

    @property
    def version(self) -> str:
        """Name and exact version; another version may give other PTX."""
        ...

    def ptx(self, program: Program) -> str:
        """PTX text of a program.

        Raises:
            PluginError: the compiler refused the source.
        """
        ...


@dataclass(frozen=True)
class Nvrtc:
    """The run-time compiler of CUDA 12, from the library file at `path`."""

    path: Path
    version: str = field(init=False)
    _library: ctypes.CDLL = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Load the library and ask for its version.

        Raises:
            PluginError: the file cannot be loaded.
        """
        try:
            library = ctypes.CDLL(str(self.path))
        except OSError as error:
            raise PluginError(
                f"NVRTC at {str(self.path)!r} does not load: {error}",
                wanted=f"the library of the package {_NVRTC_WHEEL}",
                todo=f"run: pip install --force-reinstall '{_NVRTC_WHEEL}'",
            ) from error
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        object.__setattr__(self, "_library", library)
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._check("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        version = _wheel_version(self.path) or f"{major.value}.{minor.value}"
        object.__setattr__(self, "version", f"nvrtc {version}")

    def ptx(self, program: Program) -> str:
        """PTX text of a program; headers come from `program`, never from the disk.

        Raises:
            PluginError: the compiler refused the source; the message has its first complaint.
        """
        headers = {k: v for k, v in program.sources.items() if k != program.name}
        handle = ctypes.c_void_p()
        self._check(
            "nvrtcCreateProgram",
            ctypes.byref(handle),
            program.sources[program.name].encode(),
            program.name.encode(),
            len(headers),
            _strings(headers.values()),
            _strings(headers),
        )
        try:
            options = _strings(program.options)
            code = self._library.nvrtcCompileProgram(handle, len(program.options), options)
            if code:
                raise _refusal(program, self._text("nvrtcGetProgramLog", handle), self.version)
            return self._text("nvrtcGetPTX", handle)
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(handle))

    def _text(self, getter: str, handle: ctypes.c_void_p) -> str:
        size = ctypes.c_size_t()
        self._check(f"{getter}Size", handle, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(max(size.value, 1))
        self._check(getter, handle, buffer)
        return buffer.value.decode(errors="replace")

    def _check(self, name: str, *arguments: object) -> None:
        function: Callable[..., int] = getattr(self._library, name)
        code = function(*arguments)
        if code:
            reason = self._library.nvrtcGetErrorString(code).decode()
            raise PluginError(
                f"{name} of NVRTC at {str(self.path)!r} gave {reason}",
                wanted="NVRTC_SUCCESS",
                todo=f"reinstall the package {_NVRTC_WHEEL}, or put nvcc on PATH",
            )


@dataclass(frozen=True)
class Nvcc:
    """The nvcc at `path`, of CUDA 12 or 13; it needs the host compiler it is made for."""

    path: Path
    version: str = field(init=False)

    def __post_init__(self) -> None:
        """Ask for the version.

        Raises:
            PluginError: the file does not run, or is no nvcc.
        """
        text = self._run("--version")
        found = re.search(r"\bV(\d+\.\d+\.\d+)", text.stdout)
        if found is None:
            raise PluginError(
                f"{str(self.path)!r} --version printed {(text.stdout + text.stderr)[:200]!r}",
                wanted="the version of nvcc, such as V12.9.86",
                todo=f"mend PATH, or run: pip install '{_NVRTC_WHEEL}'",
            )
        object.__setattr__(self, "version", f"nvcc {found[1]}")

    def ptx(self, program: Program) -> str:
        """PTX text of a program, compiled in a folder of its own.

        Raises:
            PluginError: the compiler refused the source; the message has its first complaint.
        """
        with tempfile.TemporaryDirectory(prefix="trt_int8-") as name:
            folder = Path(name)
            for file, text in program.sources.items():
                (folder / file).write_text(text, encoding="utf-8")
            output = folder / "out.ptx"
            source = str(folder / program.name)
            done = self._run("--ptx", *program.options, "--output-file", str(output), source)
            if done.returncode:
                log = (done.stdout + done.stderr).replace(f"{name}/", "")
                raise _refusal(program, log, self.version)
            return output.read_text(encoding="utf-8")

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.path), *arguments]
        try:
            return subprocess.run(
                command,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_NVCC_TIMEOUT_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise PluginError(
                f"{str(self.path)!r} did not run: {error}",
                wanted="a working nvcc",
                todo=f"mend it, or run: pip install '{_NVRTC_WHEEL}'",
            ) from error


def find_compiler() -> Compiler:
    """NVRTC of the wheel where it is installed, else the nvcc on PATH.

    Raises:
        MissingPackageError: there is neither; the message names the extra.
        PluginError: what was found does not work.
    """
    try:
        package = optional.load(NVRTC_PACKAGE)
    except MissingPackageError:
        nvcc = shutil.which("nvcc")
        if nvcc is None:
            raise
        return Nvcc(Path(nvcc))
    places = [Path(folder) / name for folder in package.__path__ for name in _NVRTC_FILES]
    return Nvrtc(next((place for place in places if place.is_file()), places[0]))


def _wheel_version(library: Path) -> str | None:
    """Exact version of the wheel that `library` is of; NVRTC itself names two numbers only."""
    try:
        wheel = importlib.metadata.distribution(_NVRTC_WHEEL)
    except importlib.metadata.PackageNotFoundError:
        return None
    folder = Path(str(wheel.locate_file(""))).resolve()
    return wheel.version if folder in library.resolve().parents else None


def _refusal(program: Program, log: str, version: str) -> CompilerError:
    lines = [line.strip() for line in log.splitlines() if line.strip()] or ["it gave no message"]
    first = next((line for line in lines if re.search(r"\b(error|fatal)\b", line)), lines[0])
    where = re.match(r"(?P<file>[^(:\s]+)[(:](?P<line>\d+)\)?", first)
    place = f"{where['file']} line {where['line']}" if where else program.name
    return CompilerError(
        f"{version} refused {program.name} at {place}: {first}",
        wanted="a source that compiles",
        todo="undo the change to the CUDA source, or report this line and the compiler's version",
        compiler_output=log,
    )


def _strings(values: Iterable[str]) -> ctypes.Array[ctypes.c_char_p]:
    texts = [value.encode() for value in values]
    return (ctypes.c_char_p * len(texts))(*texts)
