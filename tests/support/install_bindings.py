"""Install the genuine TensorRT Python bindings for the contract tests, one folder per version.

    python tests/support/install_bindings.py FOLDER

gives `FOLDER/<version>/tensorrt_bindings/`. Only the bindings (about 1 MB to download each) are
installed, never TensorRT's own libraries: `libnvinfer_stub.c` stands in for those. The wheels are
under NVIDIA's licence, so they are installed where they are needed and never copied into the
repository.
"""

from __future__ import annotations

import argparse
import fcntl
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
    "11.4.0.106": "tensorrt-cu12-bindings",
}
BINDINGS_VERSIONS: Final = tuple(PACKAGE_OF_VERSION)
# The newest Python that a version has wheels for, where that is not the newest we support; on a
# newer one its contract tests are skipped.
_NEWEST_PYTHON: Final = {"8.6.1": (3, 11)}
IMPORT_NAME: Final = "tensorrt_bindings"
_PARTIAL: Final = ".partial-"


class InstallError(RuntimeError):
    """pip could not install one version of the bindings."""


def versions_for_this_python() -> tuple[str, ...]:
    """The versions that have wheels for the running Python."""
    return tuple(
        version
        for version in BINDINGS_VERSIONS
        if sys.version_info[:2] <= _NEWEST_PYTHON.get(version, (3, 99))
    )


def is_installed(folder: Path, version: str) -> bool:
    """Whether `folder/version` holds the bindings; a folder of that name is always a whole one."""
    return (folder / version / IMPORT_NAME).is_dir()


def install(folder: Path, version: str) -> bool:
    """Install one version into `folder/version` unless it is there already.

    pip writes into a hidden folder that is renamed when it is complete, so a killed install
    leaves no half-filled `folder/version`. The caller holds the lock of `folder`.

    Returns:
        True if pip ran, False if the version was there already.

    Raises:
        InstallError: pip failed; the message has its output.
    """
    if is_installed(folder, version):
        return False
    partial = folder / f"{_PARTIAL}{version}-{os.getpid()}"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", "--target", str(partial)]
    command += [f"{PACKAGE_OF_VERSION[version]}=={version}"]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise InstallError(_pip_failure(version, done))
        partial.rename(folder / version)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return True


def _pip_failure(version: str, done: subprocess.CompletedProcess[str]) -> str:
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return (
        f"{PACKAGE_OF_VERSION[version]}=={version}: pip ended with exit code {done.returncode}.\n"
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
    """Install every version with a wheel for this Python that is not in `folder` yet.

    Returns:
        The versions that were installed now, in order; empty if all were there.

    Raises:
        InstallError: some versions could not be installed; the others were.
    """
    versions = versions_for_this_python()
    if all(is_installed(folder, version) for version in versions):
        return []  # without the lock: the folder may be read-only
    installed, failures = [], []
    with _locked(folder):
        for version in versions:
            try:
                if install(folder, version):
                    installed.append(version)
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
