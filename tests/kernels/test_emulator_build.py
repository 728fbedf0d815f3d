"""Programs of the emulator are compiled once, and again when anything that went in changes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.kernels.emulator_build import (
    CACHE_VARIABLE,
    BuildOptions,
    parameter_names,
    program,
)
from tests.kernels.report import KernelFault
from tests.kernels.tools import needs_gxx
from trt_int8.plugins.kernel import KernelVariant

pytestmark = needs_gxx

PLAIN = BuildOptions()
HEADER = "#pragma once\n#define ADDED 1\n"
SOURCE = """
#include "ptx.cuh"
#include "added.cuh"
extern "C" __global__ void __launch_bounds__(32)
add(const int* __restrict__ x, int n,
    int* __restrict__ y) {
    const int i = static_cast<int>(threadIdx.x);
    if (i < n) {
        y[i] = x[i] + ADDED;
    }
}
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all tests here: the emulator itself is compiled once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def variant(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> KernelVariant:
    monkeypatch.setenv(CACHE_VARIABLE, str(cache))
    (tmp_path / "added.cuh").write_text(HEADER)
    (tmp_path / "add.cu").write_text(SOURCE)
    return KernelVariant(str(tmp_path / "add.cu"), "add", 80)


def test_the_second_time_nothing_is_compiled(variant: KernelVariant) -> None:
    first = program(variant, PLAIN)
    made = first.stat().st_ino
    assert program(variant, PLAIN) == first
    assert first.stat().st_ino == made


def test_what_nobody_used_for_a_week_is_deleted(variant: KernelVariant, cache: Path) -> None:
    unused, used = cache / "unused-program", cache / "used-program"
    for file, days in ((unused, 8), (used, 6)):
        file.touch()
        os.utime(file, (time.time() - days * 86400,) * 2)
    program(KernelVariant(variant.source, "add", 80, (("NEW", 1),)), PLAIN)
    assert not unused.exists()
    assert used.exists()


def test_a_changed_header_gives_another_program(variant: KernelVariant) -> None:
    first = program(variant, PLAIN)
    Path(variant.source).with_name("added.cuh").write_text(HEADER.replace("1", "2"))
    assert program(variant, PLAIN) != first


def test_macros_architecture_and_sanitizer_each_give_a_program(variant: KernelVariant) -> None:
    defined = KernelVariant(variant.source, "add", 80, (("TILE", 3),))
    older = KernelVariant(variant.source, "add", 75)
    programs = {program(each, PLAIN) for each in (variant, defined, older)}
    programs.add(program(variant, BuildOptions(sanitizer="thread")))
    assert len(programs) == 4


def test_a_copy_of_the_source_elsewhere_is_the_same_program(
    variant: KernelVariant, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("add.cu", "added.cuh"):
        shutil.copy(tmp_path / name, copy)
    assert program(KernelVariant(str(copy / "add.cu"), "add", 80), PLAIN) == program(variant, PLAIN)


def test_the_cache_is_where_the_variable_says(variant: KernelVariant, cache: Path) -> None:
    assert program(variant, PLAIN).parent == cache


def test_a_source_that_does_not_compile_is_told_with_the_compiler_s_words(
    variant: KernelVariant,
) -> None:
    Path(variant.source).write_text(SOURCE.replace("x[i]", "x[j]"))
    with pytest.raises(KernelFault, match=r"add\.cu:9:\d+: error: 'j' was not declared") as stopped:
        program(variant, PLAIN)
    assert stopped.value.kind == "load"


def test_a_warning_is_an_error(variant: KernelVariant) -> None:
    Path(variant.source).write_text(SOURCE.replace("if (i", "int unused = 3;\n    if (i"))
    with pytest.raises(KernelFault, match="unused variable 'unused'"):
        program(variant, PLAIN)


def test_a_failed_build_leaves_nothing_behind(variant: KernelVariant, cache: Path) -> None:
    program(variant, PLAIN)
    before = {file for file in cache.iterdir() if file.suffix != ".lock"}
    Path(variant.source).write_text("#error broken\n")
    with pytest.raises(KernelFault):
        program(variant, PLAIN)
    assert {file for file in cache.iterdir() if file.suffix != ".lock"} == before


def test_names_of_parameters_are_read_from_the_source(variant: KernelVariant) -> None:
    assert parameter_names(variant) == ["x", "n", "y"]


def test_names_that_cannot_be_read_are_left_out(variant: KernelVariant) -> None:
    Path(variant.source).write_text("#define KERNEL(name) void name(int n)\nKERNEL(sum)\n")
    assert parameter_names(KernelVariant(variant.source, "sum", 80)) == []


BUILD = """
import sys
from tests.kernels.emulator_build import BuildOptions, program
from trt_int8.plugins.kernel import KernelVariant
print(program(KernelVariant(sys.argv[1], "add", 80), BuildOptions()))
"""


def test_two_processes_at_once_make_one_program(variant: KernelVariant, cache: Path) -> None:
    Path(variant.source).write_text(SOURCE + "// by two at once\n")
    command = [sys.executable, "-c", BUILD, variant.source]
    root = Path(__file__).parents[2]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) for _ in range(2)
    ]
    told = {process.communicate(timeout=120)[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert len(told) == 1
    assert Path(told.pop()).is_file()
    assert not list(cache.glob("*.draft"))
