"""The genuine TensorRT Python bindings, several versions, on a machine without TensorRT or a GPU.

The bindings' wheels are installed by `install_bindings.py`; `libnvinfer_stub.c` stands in for
TensorRT's libraries. What a test can rely on: classes, enums, signatures, docstrings, argument
checks, and Python subclasses of trt.ILogger, trt.IProgressMonitor and the plugin interfaces.
What it cannot: trt.Builder, trt.Runtime, trt.Refitter raise TypeError, registries are None.

    stubs = tmp_path_factory.mktemp("stubs")
    build_stub(stubs)
    names = run_with_bindings("10.9.0.34", "import tensorrt; result = dir(tensorrt)", stubs)

Each version runs in a fresh process: two cannot be loaded into one.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from .install_bindings import (
    BINDINGS_VERSIONS,
    CUDA_PYTHON_FOLDER,
    is_installed,
    numpy_paths,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "BINDINGS_VERSIONS",
    "BindingsError",
    "bindings_folder",
    "build_stub",
    "cuda_python_folder",
    "plugin_paths",
    "run_or_skip",
    "run_with_bindings",
]

FOLDER_VARIABLE: Final = "TRT_INT8_BINDINGS"
TIMEOUT_S: Final = 120
_HERE: Final = Path(__file__).resolve().parent
_REPO: Final = _HERE.parents[1]
_STUB_SOURCE: Final = _HERE / "libnvinfer_stub.c"
_CHILD: Final = _HERE / "bindings_child.py"


class BindingsError(RuntimeError):
    """The stub could not be built, or the code run with the bindings failed."""


def bindings_folder(version: str) -> Path | None:
    """Where one version of the bindings is installed.

    Looked for in `$TRT_INT8_BINDINGS/<version>`, by default `<repo>/.venv/bindings/<version>`.

    Args:
        version: one of `BINDINGS_VERSIONS`.

    Returns:
        The folder to put on `sys.path`, or None if this version is not installed.
    """
    root = _root()
    return root / version if is_installed(root, version) else None


def plugin_paths(version: str) -> tuple[Path, ...]:
    """What the plugins of this version need before all else on `sys.path`: an older NumPy or ()."""
    return numpy_paths(_root(), version)


def cuda_python_folder() -> Path | None:
    """Where `cuda.bindings` is installed, to put on `sys.path`; None if it is not."""
    folder = _root() / CUDA_PYTHON_FOLDER
    return folder if folder.is_dir() else None


def _root() -> Path:
    return Path(os.environ.get(FOLDER_VARIABLE) or _REPO / ".venv" / "bindings").resolve()


def _library_names(major: str) -> list[str]:
    """File names, also the sonames, of the libraries that bindings of this major version need."""
    stems = ["libnvinfer", "libnvinfer_plugin", "libnvonnxparser"]
    if major == "8":
        stems.append("libnvparsers")
    return [f"{stem}.so.{major}" for stem in stems]


def _run_compiler(compiler: str, *arguments: str) -> None:
    done = subprocess.run([compiler, *arguments], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise BindingsError(
            f"{_STUB_SOURCE.name}: {compiler} ended with exit code {done.returncode}:\n"
            f"{done.stderr.strip()}"
        )


def build_stub(folder: Path) -> list[Path]:
    """Build the stand-ins for TensorRT's libraries, for every major version.

    Args:
        folder: where they go; made if absent.

    Returns:
        The libraries, such as `folder/libnvinfer.so.10`.

    Raises:
        BindingsError: there is no C compiler, or it failed.
    """
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise BindingsError(
            "no C compiler: found neither gcc nor cc on PATH, wanted one to build "
            f"{_STUB_SOURCE.name}; install gcc (on Debian: apt-get install gcc libc6-dev)"
        )
    folder.mkdir(parents=True, exist_ok=True)
    compiled = folder / "libnvinfer_stub.o"
    flags = ("-std=c99", "-O1", "-fPIC", "-Wall", "-Wextra", "-Werror")
    _run_compiler(compiler, *flags, "-c", str(_STUB_SOURCE), "-o", str(compiled))
    libraries = []
    for major in sorted({version.partition(".")[0] for version in BINDINGS_VERSIONS}, key=int):
        for name in _library_names(major):
            library = folder / name
            _run_compiler(
                compiler, "-shared", f"-Wl,-soname,{name}", str(compiled), "-o", str(library)
            )
            libraries.append(library)
    return libraries


def _stubs_for(version: str, stub_folder: Path) -> list[str]:
    wanted = [stub_folder.resolve() / n for n in _library_names(version.partition(".")[0])]
    missing = [path.name for path in wanted if not path.is_file()]
    if missing:
        raise BindingsError(
            f"{stub_folder}: no {', '.join(missing)}, which TensorRT {version} needs; "
            "call build_stub() on this folder first"
        )
    return [str(path) for path in wanted]


def run_with_bindings(
    version: str, code: str, stub_folder: Path, paths: Sequence[Path] = ()
) -> object:
    """Run Python code in a fresh process where `import tensorrt` gives the genuine bindings.

    The repository is on the child's `sys.path`, and it sees no GPU (`CUDA_VISIBLE_DEVICES=""`).

    Args:
        version: one of `BINDINGS_VERSIONS`, installed.
        code: what to run; sets `result` to something that JSON can hold.
        stub_folder: what `build_stub` filled.
        paths: folders to import from before all others.

    Returns:
        The value of `result`, by way of JSON (tuples come back as lists).

    Raises:
        BindingsError: the version is not installed, the stub is not built, or the code failed;
            the message has the child's stderr.
    """
    bindings = bindings_folder(version)
    if bindings is None:
        raise BindingsError(
            f"TensorRT bindings {version} are not installed, wanted one of "
            f"{', '.join(BINDINGS_VERSIONS)}; run: python tests/support/install_bindings.py FOLDER,"
            f" then set {FOLDER_VARIABLE}=FOLDER"
        )
    stubs = _stubs_for(version, stub_folder)
    with tempfile.TemporaryDirectory(prefix="bindings-") as name:
        work = Path(name)
        script, result = work / "code.py", work / "result.json"
        script.write_text(code, encoding="utf-8")
        request = {
            "bindings": str(bindings),
            "stubs": stubs,
            "repo": str(_REPO),
            "paths": [str(path) for path in paths],
            "script": str(script),
            "result": str(result),
        }
        _run_child(version, work, request)
        if not result.is_file():
            raise BindingsError(f"TensorRT bindings {version}: the code left before its end")
        value: object = json.loads(result.read_text(encoding="utf-8"))
    return value


def run_or_skip(version: str, code: str, stub_folder: Path, paths: Sequence[Path] = ()) -> Any:
    """`run_with_bindings`, or skip the test if this version or a path is not installed."""
    if bindings_folder(version) is None or not all(path.is_dir() for path in paths):
        pytest.skip(f"TensorRT bindings {version} are not installed: run install_bindings.py")
    return run_with_bindings(version, code, stub_folder, paths)


def _run_child(version: str, work: Path, request: Mapping[str, object]) -> None:
    """Run `bindings_child.py` in folder `work`; what it prints on stdout is dropped."""
    request_file = work / "request.json"
    request_file.write_text(json.dumps(request), encoding="utf-8")
    try:
        done = subprocess.run(
            [sys.executable, str(_CHILD), str(request_file)],
            check=False,
            capture_output=True,
            text=True,
            cwd=work,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise BindingsError(
            f"TensorRT bindings {version}: the code ran for more than {TIMEOUT_S} s"
        ) from error
    if done.returncode != 0:
        raise BindingsError(
            f"TensorRT bindings {version}: the code failed, {_how_it_ended(done.returncode)}:\n"
            f"{done.stderr.strip() or '(nothing on stderr)'}"
        )


def _how_it_ended(returncode: int) -> str:
    if returncode < 0:
        return f"killed by {signal.Signals(-returncode).name}"
    return f"exit code {returncode}"
