"""The CUDA sources are inside the wheel that users install."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import trt_int8
from trt_int8.plugins.compile import read_sources
from trt_int8.plugins.kernel import kernel_folder

PROJECT = Path(trt_int8.__file__).parents[1]
KEPT = ("pyproject.toml", "README.md", "LICENSE")
# The emulator of the tests gives this one to the host branch.
NOT_SHIPPED = {"simt.h"}


@pytest.mark.skipif(not (PROJECT / "pyproject.toml").is_file(), reason="needs the source tree")
def test_a_wheel_holds_every_cuda_file(tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    tree = tmp_path / "tree"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PROJECT / "trt_int8", tree / "trt_int8", ignore=ignored)
    for name in KEPT:
        shutil.copy(PROJECT / name, tree / name)
    code = f"from setuptools import build_meta; build_meta.build_wheel({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=tree, capture_output=True, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    prefix = "trt_int8/plugins/cuda/"
    with zipfile.ZipFile(wheel) as archive:
        held = {name[len(prefix) :] for name in archive.namelist() if name.startswith(prefix)}
        held_text = {name: archive.read(prefix + name) for name in held}
    there = {file.name: file.read_bytes() for file in kernel_folder().iterdir()}
    assert there
    assert held_text == there


def test_every_header_that_a_kernel_includes_is_in_the_folder() -> None:
    sources = sorted(kernel_folder().glob("*.cu"))
    assert sources
    for source in sources:
        texts = read_sources(source.name)
        included = {
            line.split('"')[1]
            for text in texts.values()
            for line in text.splitlines()
            if line.strip().startswith('#include "')
        }
        assert included - set(texts) <= NOT_SHIPPED, source.name
