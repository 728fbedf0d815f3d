"""Install the genuine TensorRT Python bindings for the contract tests, one folder per version.

    python tests/support/install_bindings.py FOLDER

gives `FOLDER/<version>/tensorrt_bindings/`. Only the bindings (about 1 MB to download each) are
installed, never TensorRT's own libraries: `libnvinfer_stub.c` stands in for those. The wheels are
under NVIDIA's licence, so they are installed where they are needed and never copied into the
repository. Beside them go one older NumPy (17 MB; from 2.4 on it breaks the plugins of TensorRT
before 11.4) and cuda-python's bindings (13 MB).
"""

from __future__ import annotations

import argparse
import fcntl
import importlib.metadata
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE_OF_VERSION: Final = {
    "8.6.1": "tensorrt-bindings",
    "10.9.0.34": "tensorrt-cu12-bindings",
    "10.13.3.9": "tensorrt-cu12-bindings",
    "10.16.1.11": "tensorrt-cu12-bindings",
    "11.0.0.114": "tensorrt-cu12-bindings",
    "11.4.0.106": "tensorrt-cu12-bindings",
}
# What the adapter is checked against, and what the plugins are built with.
BINDINGS_VERSIONS: Final = ("8.6.1", "10.9.0.34", "10.13.3.9", "11.4.0.106")
PLUGIN_VERSIONS: Final = ("10.9.0.34", "10.16.1.11", "11.0.0.114", "11.4.0.106")
# The newest Python that a version has wheels for, where that is not the newest we support; on a
# newer one its contract tests are skipped.
_NEWEST_PYTHON: Final = {"8.6.1": (3, 11)}
IMPORT_NAME: Final = "tensorrt_bindings"
_PARTIAL: Final = ".partial-"
OLD_NUMPY: Final = "2.2.6"
_NUMPY_FOLDER: Final = f"numpy-{OLD_NUMPY}"
CUDA_PYTHON: Final = "12.9.2"
CUDA_PYTHON_FOLDER: Final = f"cuda-bindings-{CUDA_PYTHON}"


class InstallError(RuntimeError):
    """pip could not install one version of the bindings."""


def versions_for_this_python() -> tuple[str, ...]:
    """The versions that have wheels for the running Python."""
    return tuple(
        version
        for version in PACKAGE_OF_VERSION
        if sys.version_info[:2] <= _NEWEST_PYTHON.get(version, (3, 99))
    )


def is_installed(folder: Path, version: str) -> bool:
    """Whether `folder/version` holds the bindings; a folder of that name is always a whole one."""
    return (folder / version / IMPORT_NAME).is_dir()


def numpy_paths(folder: Path, version: str) -> tuple[Path, ...]:
    """What goes on `sys.path` so that the plugins of this TensorRT version work: an older NumPy.

    Empty where the NumPy of this environment will do; for TensorRT 11.4 and newer every one does.
    """
    new_enough = tuple(map(int, version.split(".")[:2])) >= (11, 4)
    return () if new_enough or not _numpy_is_too_new() else (folder / _NUMPY_FOLDER,)


def _numpy_is_too_new() -> bool:
    return tuple(map(int, importlib.metadata.version("numpy").split(".")[:2])) >= (2, 4)


def _places() -> dict[str, str]:
    """Folder -> what pip is asked for, of all that this Python needs."""
    wanted = {
        version: f"{PACKAGE_OF_VERSION[version]}=={version}"
        for version in versions_for_this_python()
    }
    wanted[CUDA_PYTHON_FOLDER] = f"cuda-bindings=={CUDA_PYTHON}"
    return {**wanted, _NUMPY_FOLDER: f"numpy=={OLD_NUMPY}"} if _numpy_is_too_new() else wanted


def install(folder: Path, place: str, requirement: str) -> bool:
    """Install one requirement into `folder/place` unless that is there already.

    pip writes into a hidden folder that is renamed when it is complete, so a killed install
    leaves no half-filled `folder/place`. The caller holds the lock of `folder`.

    Returns:
        True if pip ran, False if the folder was there already.

    Raises:
        InstallError: pip failed; the message has its output.
    """
    if (folder / place).is_dir():
        return False
    partial = folder / f"{_PARTIAL}{place}-{os.getpid()}"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", "--target", str(partial), requirement]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise InstallError(_pip_failure(requirement, done))
        partial.rename(folder / place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return True


def _pip_failure(requirement: str, done: subprocess.CompletedProcess[str]) -> str:
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return (
        f"{requirement}: pip ended with exit code {done.returncode}.\n"
        f"  Wanted a wheel for Python {python} on {sys.platform}; is there one, and can pip reach "
        f"its package index?\n  pip said: {(done.stderr or done.stdout).strip()}"
    )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time work in `folder`, and clear what a killed one left behind."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in folder.glob(f"{_PARTIAL}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield


def install_all(folder: Path) -> list[str]:
    """Install what this Python needs and is not in `folder` yet.

    Returns:
        The sub-folders that were filled now, in order; empty if all were there.

    Raises:
        InstallError: some could not be installed; the others were.
    """
    places = _places()
    if all((folder / place).is_dir() for place in places):
        return []  # without the lock: the folder may be read-only
    installed, failures = [], []
    with _locked(folder):
        for place, requirement in places.items():
            try:
                if install(folder, place, requirement):
                    installed.append(place)
            except InstallError as error:
                failures.append(str(error))
    if failures:
        raise InstallError("\n".join(failures))
    return installed


def main() -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Install the TensorRT bindings for the tests.")
    parser.add_argument("folder", type=Path, help="root with one sub-folder per version")
    folder: Path = parser.parse_args().folder
    try:
        installed = install_all(folder)
    except InstallError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(f"{folder}: installed {', '.join(installed) or 'nothing, all were there'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
