"""CUDA sources become PTX that a CUDA 12 driver takes, and are compiled once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels.tools import needs_nvrtc, needs_ptxas, ptxas
from trt_int8.errors import PluginError
from trt_int8.plugins import compile as module
from trt_int8.plugins.compile import compile_ptx, source_sha256
from trt_int8.plugins.kernel import KERNEL_SMS, KernelVariant
from trt_int8.plugins.toolchain import Program

SOURCE = '#include "part.cuh"\nextern "C" __global__ void k(int* out) { *out = part() + SCALE; }\n'
HEADER = "__device__ __forceinline__ int part() { return 41; }\n"
VARIANT = KernelVariant("k.cu", "k", 75, (("SCALE", 1),))
PTX = '.version 8.8\n.target sm_75\n.visible .entry k(\n)\n{\n}\n.file 1 "/home/a/k.cu"\n'


class Counter:
    """A compiler that gives always the same PTX, and counts how often it was asked."""

    def __init__(self, ptx: str = PTX, version: str = "nvrtc 0.1") -> None:
        self.version = version
        self.text = ptx
        self.asked: list[Program] = []

    def ptx(self, program: Program) -> str:
        self.asked.append(program)
        return self.text


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cuda"
    folder.mkdir()
    (folder / "k.cu").write_text(SOURCE, encoding="utf-8")
    (folder / "part.cuh").write_text(HEADER, encoding="utf-8")
    monkeypatch.setattr(module, "kernel_folder", lambda: folder)
    monkeypatch.setenv("TRT_INT8_CACHE", str(tmp_path / "cache"))
    return folder


def entries(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "kernels").iterdir())


def test_the_compiler_gets_the_source_its_headers_and_the_options() -> None:
    compiler = Counter()
    compile_ptx(VARIANT, compiler)
    (program,) = compiler.asked
    assert program.sources == {"k.cu": SOURCE, "part.cuh": HEADER}
    assert program.options == (
        *("--gpu-architecture=compute_75", "--std=c++17", "-fmad=false", "-lineinfo"),
        *("-DTARGET_SM=75", "-DSCALE=1"),
    )


def test_the_version_goes_down_and_the_folders_of_files_go_away() -> None:
    ptx = compile_ptx(VARIANT, Counter()).ptx
    assert ptx.startswith(".version 7.2\n.target sm_75\n")
    assert ptx.endswith('.file 1 "k.cu"\n')


def test_a_windows_folder_of_a_file_goes_away_too() -> None:
    assert module.portable('\t.file\t2 "C:\\\\a\\\\k.cu"\n', 80) == '\t.file\t2 "k.cu"\n'


def test_a_later_target_keeps_the_version_that_it_needs() -> None:
    assert module.portable(PTX, 120).startswith(".version 8.8\n")


def test_the_second_time_no_compiler_runs() -> None:
    compiler = Counter()
    first = compile_ptx(VARIANT, compiler)
    assert compile_ptx(VARIANT, compiler) == first
    assert len(compiler.asked) == 1


@pytest.mark.parametrize(
    "variant",
    [
        KernelVariant("k.cu", "k", 80, VARIANT.defines),
        KernelVariant("k.cu", "k", 75, (("SCALE", 2),)),
        KernelVariant("k.cu", "k", 75, (("SCALE", 1), ("MORE", 1))),
    ],
)
def test_another_variant_is_another_entry(variant: KernelVariant) -> None:
    compiler = Counter()
    hashes = {compile_ptx(v, compiler).sha256 for v in (VARIANT, variant)}
    assert (len(hashes), len(compiler.asked)) == (2, 2)


def test_another_compiler_is_another_entry() -> None:
    one, other = Counter(), Counter(version="nvrtc 0.2")
    assert compile_ptx(VARIANT, one).sha256 != compile_ptx(VARIANT, other).sha256
    assert len(other.asked) == 1


@pytest.mark.parametrize("name", ["k.cu", "part.cuh"])
def test_a_changed_source_or_header_is_compiled_again(folder: Path, name: str) -> None:
    compiler = Counter()
    before = (compile_ptx(VARIANT, compiler).sha256, source_sha256("k.cu"))
    (folder / name).write_text((folder / name).read_text() + "\n", encoding="utf-8")
    after = (compile_ptx(VARIANT, compiler).sha256, source_sha256("k.cu"))
    assert before[0] != after[0]
    assert before[1] != after[1]
    assert len(compiler.asked) == 2


def test_a_file_that_is_not_included_changes_nothing(folder: Path) -> None:
    before = source_sha256("k.cu")
    (folder / "other.cuh").write_text("// other\n", encoding="utf-8")
    assert source_sha256("k.cu") == before


def test_a_header_of_the_host_branch_only_is_left_out(folder: Path) -> None:
    (folder / "part.cuh").write_text('#ifdef HOST\n#include "simt.h"\n#endif\n', encoding="utf-8")
    assert set(module.read_sources("k.cu")) == {"k.cu", "part.cuh"}


@pytest.mark.parametrize("lost", [b"", b"x", b"\xff\xfe"])
def test_a_damaged_cache_entry_is_made_again(tmp_path: Path, lost: bytes) -> None:
    compiler = Counter()
    good = compile_ptx(VARIANT, compiler)
    (entry,) = entries(tmp_path)
    whole = entry.read_bytes()
    entry.write_bytes(whole[:-9] + lost)
    assert compile_ptx(VARIANT, compiler) == good
    assert (entry.read_bytes(), len(compiler.asked)) == (whole, 2)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="files have no such owners here")
@pytest.mark.parametrize(("place", "mode"), [("kernels", 0o777), ("entry", 0o664)])
def test_what_others_may_have_put_into_the_cache_is_compiled_instead(
    tmp_path: Path, place: str, mode: int
) -> None:
    good = compile_ptx(VARIANT, Counter())
    (entry,) = entries(tmp_path)
    planted = Counter(PTX + "// planted\n")
    entry.unlink()
    compile_ptx(VARIANT, planted)
    assert compile_ptx(VARIANT, Counter()).ptx.endswith("// planted\n")
    (entry if place == "entry" else entry.parent).chmod(mode)
    assert compile_ptx(VARIANT, Counter()) == good


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="files have no such owners here")
def test_the_cache_is_read_again_where_the_umask_lets_others_write(tmp_path: Path) -> None:
    compiler, before = Counter(), os.umask(0)
    try:
        compile_ptx(VARIANT, compiler)
    finally:
        os.umask(before)
    compile_ptx(VARIANT, compiler)
    assert len(compiler.asked) == 1


def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file is in the way", encoding="utf-8")
    assert compile_ptx(VARIANT, Counter()).entry == "k"


def test_without_the_variable_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRT_INT8_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "/home/ü/odd cache")
    assert module.cache_folder() == Path("/home/ü/odd cache/trt_int8/kernels")


def test_without_a_home_the_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("TRT_INT8_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", none)
    with pytest.raises(PluginError, match=r"no home folder .*set TRT_INT8_CACHE to a folder"):
        compile_ptx(VARIANT, Counter())


# Fresh processes: one forked from a process with threads may never end.
COMPILE_IN = """
import sys
from pathlib import Path
from trt_int8.plugins import compile as module
from trt_int8.plugins.kernel import KernelVariant

module.kernel_folder = lambda: Path(sys.argv[1])
sys.stdout.write(module.compile_ptx(KernelVariant("k.cu", "k", 75, (("SCALE", 1),))).ptx)
"""


@needs_nvrtc
def test_processes_that_compile_at_once_agree_and_leave_one_entry(
    folder: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", COMPILE_IN, str(folder)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    found = {process.communicate(timeout=120)[0] for process in running}
    assert [process.returncode for process in running] == [0] * 4
    assert found == {compile_ptx(VARIANT).ptx}
    assert len(entries(tmp_path)) == 1


def test_an_unknown_source_names_those_there_are() -> None:
    with pytest.raises(PluginError, match=r"'q\.cu' cannot be read.*wanted one of \['k\.cu'\]"):
        compile_ptx(KernelVariant("q.cu", "k", 75), Counter())


@needs_nvrtc
def test_an_unknown_entry_names_those_there_are() -> None:
    with pytest.raises(PluginError, match=r"k\.cu has the kernels \['k'\]; .*named 'other'"):
        compile_ptx(KernelVariant("k.cu", "other", 75, VARIANT.defines))


@needs_nvrtc
def test_an_entry_whose_name_only_starts_alike_is_unknown() -> None:
    with pytest.raises(PluginError, match="wanted an extern"):
        compile_ptx(KernelVariant("k.cu", "", 75, VARIANT.defines))


@needs_nvrtc
def test_a_fault_in_a_header_is_named_with_its_line(folder: Path) -> None:
    (folder / "part.cuh").write_text("\n\n__device__ int part() { return no; }\n", encoding="utf-8")
    match = r"nvrtc 12\.\S+ refused k\.cu at part\.cuh line 3: .*identifier \"no\" is undefined"
    with pytest.raises(PluginError, match=match):
        compile_ptx(VARIANT)


@needs_nvrtc
def test_a_source_that_was_refused_leaves_no_cache_entry(folder: Path, tmp_path: Path) -> None:
    (folder / "k.cu").write_text("no\n", encoding="utf-8")
    with pytest.raises(PluginError):
        compile_ptx(VARIANT)
    assert not (tmp_path / "cache").exists()


@needs_nvrtc
def test_multiplications_and_additions_stay_apart(folder: Path) -> None:
    body = 'extern "C" __global__ void k(float* x) { x[0] = x[1] * x[2] + x[3]; }\n'
    (folder / "k.cu").write_text(body, encoding="utf-8")
    ptx = compile_ptx(VARIANT).ptx
    assert "mul.rn.f32" in ptx
    assert "fma" not in ptx


@needs_nvrtc
def test_lines_of_inlined_functions_are_named_without_folders() -> None:
    files = re.findall(r'\.file\s+\d+\s+"(.*)"', compile_ptx(VARIANT).ptx)
    assert files
    assert set(files) <= {"k.cu", "part.cuh"}


# The assembler wants PTX ISA 7.0 for line information of inlined functions (the manual says 7.2),
# on either architecture, and for cp.async.
PICKY = """
__device__ __forceinline__ int mixed(int x) { return x * x + 3; }
extern "C" __global__ void k(const int* in, int* out) {
  extern __shared__ int tile[];
#if TARGET_SM >= 80
  unsigned place = static_cast<unsigned>(__cvta_generic_to_shared(tile));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(place), "l"(in));
#endif
  out[threadIdx.x] = mixed(tile[threadIdx.x]);
}
"""


def assemble(ptx: str, sm: int, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "k.ptx").write_text(ptx, encoding="utf-8")
    command = [str(ptxas()), f"-arch=sm_{sm}", "k.ptx", "-o", "k.cubin"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@needs_nvrtc
@needs_ptxas
@pytest.mark.parametrize("sm", KERNEL_SMS)
def test_the_assembler_takes_the_version_but_none_before_cuda_11(
    folder: Path, tmp_path: Path, sm: int
) -> None:
    (folder / "k.cu").write_text(PICKY, encoding="utf-8")
    ptx = compile_ptx(KernelVariant("k.cu", "k", sm)).ptx
    assert ("cp.async" in ptx) == (sm == 80)
    assert assemble(ptx, sm, tmp_path).returncode == 0
    refused = assemble(ptx.replace(".version 7.2", ".version 6.5"), sm, tmp_path)
    assert "requires PTX ISA .version 7.0 or later" in refused.stdout + refused.stderr
