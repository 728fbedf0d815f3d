"""Which compiler is found, and what is said when it does not work."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
from pathlib import Path

import pytest

from tests.kernels.tools import needs_nvrtc
from trt_int8.errors import MissingPackageError, PluginError
from trt_int8.plugins import toolchain
from trt_int8.plugins.toolchain import CompilerError, Nvcc, Nvrtc, Program, find_compiler

needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc on PATH")
OPTIONS = ("--gpu-architecture=compute_75", "-fmad=false")
GOOD = Program(
    "a.cu",
    {
        "a.cu": '#include "b.cuh"\nextern "C" __global__ void k(int* x) { *x = b(); }\n',
        "b.cuh": "__device__ int b() { return 7; }\n",
    },
    OPTIONS,
)
BAD = Program("a.cu", {"a.cu": "\n__device__ int x = no;\n"}, OPTIONS)


def script(folder: Path, text: str) -> Path:
    path = folder / "nvcc"
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.fixture
def without_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "NVRTC_PACKAGE", "no_such_package_7")


@needs_nvrtc
def test_the_wheel_comes_before_nvcc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path, "echo V99.9.9")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert re.fullmatch(r"nvrtc 12\.\d+\.\d+", find_compiler().version)


@pytest.mark.usefixtures("without_wheel")
def test_without_the_wheel_nvcc_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path, "echo 'Cuda compilation tools, release 99.9, V99.9.7'")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_compiler().version == "nvcc 99.9.7"


def test_without_either_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def none(name: str) -> None:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr("importlib.import_module", none)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingPackageError, match=r"--plugins; run: pip install.*\[plugins\]"):
        find_compiler()


@needs_nvrtc
def test_a_library_from_elsewhere_has_not_the_version_of_the_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = find_compiler()
    assert isinstance(found, Nvrtc)
    wheel = importlib.metadata.distribution("nvidia-cuda-nvrtc-cu12")
    monkeypatch.setattr(type(wheel), "locate_file", lambda *_: tmp_path)
    assert re.fullmatch(r"nvrtc 12\.\d+", Nvrtc(found.path).version)


@needs_nvrtc
def test_nvrtc_reads_headers_of_the_program() -> None:
    assert ".visible .entry k(" in find_compiler().ptx(GOOD)


@needs_nvrtc
def test_nvrtc_names_the_line_and_keeps_its_output() -> None:
    with pytest.raises(CompilerError, match=r"at a\.cu line 2: a\.cu\(2\): error") as caught:
        find_compiler().ptx(BAD)
    assert "1 error detected in the compilation" in caught.value.compiler_output


@needs_nvrtc
def test_nvrtc_names_an_option_that_it_does_not_know() -> None:
    program = Program("a.cu", {"a.cu": ""}, ("--gpu-architecture=compute_10",))
    with pytest.raises(CompilerError, match=r"refused a\.cu at a\.cu: nvrtc: error: invalid value"):
        find_compiler().ptx(program)


@pytest.mark.parametrize("content", [None, b"not a library"])
def test_a_library_that_does_not_load_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "libnvrtc.so.12"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PluginError, match=r"does not load: .*pip install --force-reinstall"):
        Nvrtc(path)


@needs_nvcc
def test_nvcc_reads_headers_of_the_program() -> None:
    assert ".visible .entry k(" in Nvcc(Path(str(shutil.which("nvcc")))).ptx(GOOD)


@needs_nvcc
def test_nvcc_names_the_line_without_its_own_folder() -> None:
    with pytest.raises(CompilerError, match=r"at a\.cu line 2: a\.cu\(2\): error"):
        Nvcc(Path(str(shutil.which("nvcc")))).ptx(BAD)


def test_an_nvcc_that_prints_no_version_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"printed 'hello.*wanted the version of nvcc"):
        Nvcc(script(tmp_path, "echo hello"))


def test_an_nvcc_that_does_not_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"did not run: .*wanted a working nvcc"):
        Nvcc(tmp_path)


def test_an_nvcc_that_fails_without_a_word_is_an_error(tmp_path: Path) -> None:
    nvcc = script(tmp_path, '[ "$1" = --version ] && echo V12.9.1 && exit 0\nexit 3')
    with pytest.raises(CompilerError, match=r"nvcc 12\.9\.1 refused a\.cu at a\.cu: it gave no me"):
        Nvcc(nvcc).ptx(GOOD)
