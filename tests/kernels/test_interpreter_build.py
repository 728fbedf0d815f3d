"""The interpreter is compiled once, again when its sources change, and loudly when it cannot be."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from tests.kernels import interpreter_build
from tests.kernels.host_compiler import compiler_version
from tests.kernels.report import KernelFault
from tests.kernels.tools import needs_gxx

pytestmark = needs_gxx


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "sources"
    folder.mkdir()
    monkeypatch.setattr(interpreter_build, "SOURCE_FOLDER", folder)
    monkeypatch.setenv(interpreter_build.CACHE_VARIABLE, str(tmp_path / "cache"))
    (folder / "number.h").write_text("constexpr int kNumber = 1;\n")
    (folder / "one.cpp").write_text('#include "number.h"\nextern "C" int one() { return kNumber; }')
    (folder / "two.cpp").write_text('extern "C" int two() { return 2; }\n')
    return folder


def built() -> Path:
    """The library, past the memory of this process."""
    return interpreter_build.library.__wrapped__()


def test_all_sources_come_into_one_library(sources: Path) -> None:
    library = ctypes.CDLL(str(built()))
    assert (library.one(), library.two()) == (1, 2)


def test_an_unchanged_source_is_not_compiled_again(
    sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = built()
    monkeypatch.setattr(interpreter_build, "_run_compiler", pytest.fail)
    assert built() == first


def test_a_changed_header_makes_another_library(sources: Path) -> None:
    first = built()
    (sources / "number.h").write_text("constexpr int kNumber = 7;\n")
    second = built()
    assert second != first
    assert ctypes.CDLL(str(second)).one() == 7


def test_what_the_compiler_refuses_is_told(sources: Path) -> None:
    (sources / "one.cpp").write_text("int unfinished(")
    with pytest.raises(KernelFault, match=r"refused the interpreter:(.|\n)*unfinished") as raised:
        built()
    assert raised.value.kind == "load"


def test_a_missing_compiler_is_told(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    compiler_version.cache_clear()
    with pytest.raises(KernelFault, match=r"not installed"):
        built()
