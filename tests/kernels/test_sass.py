"""The reader of machine code, and the gate itself: each complaint is made where it should be."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kernels.sass import (
    SMS,
    Requirement,
    Sass,
    register_limit,
    sass_of,
    shipped_for,
)
from tests.kernels.tools import needs_disassembler, needs_nvrtc, needs_ptxas
from trt_int8.plugins import compile as compile_module
from trt_int8.plugins.kernel import KernelVariant

CLEAN = Sass(40, 0, 0, 0, {"IMMA.16832.S8.S8": 8, "LDSM.16.M88.4": 4, "EXIT": 1})
# More values alive than 32 registers hold, each used on both sides of a barrier.
SPILLING = """
extern "C" __global__ void __launch_bounds__(1024, 2) k(const float* in, float* out) {
  float kept[64];
#pragma unroll
  for (int i = 0; i < 64; ++i) kept[i] = in[i * 1024 + threadIdx.x];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 64; ++i) out[i * 1024 + threadIdx.x] = kept[i] * kept[63 - i];
}
"""
# An array that is indexed at run time lands on the stack.
STACKED = """
extern "C" __global__ void k(const int* in, int* out) {
  int kept[32];
#pragma unroll
  for (int i = 0; i < 32; ++i) kept[in[i] & 31] = i;
  out[threadIdx.x] = kept[threadIdx.x & 31];
}
"""
FINE = """
extern "C" __global__ void k(const int* in, int* out) { out[threadIdx.x] = in[threadIdx.x] + 1; }
"""
DP4A = """
extern "C" __global__ void k(const int* in, int* out) {
  __shared__ int place[32];
  place[threadIdx.x] = __dp4a(in[threadIdx.x], in[0], 0);
  __syncthreads();
  out[threadIdx.x] = place[31 - threadIdx.x];
}
"""


@pytest.mark.parametrize(
    ("requirement", "complaint"),
    [
        (Requirement(needs=(("IMMA.8816", 1),)), "0 IMMA.8816, wanted at least 1"),
        (Requirement(needs=(("IMMA.16832", 9),)), "8 IMMA.16832, wanted at least 9"),
        (Requirement(forbids=("LDSM",)), "4 LDSM"),
        (Requirement(registers=32), "40 registers, wanted at most 32"),
    ],
)
def test_what_is_not_as_asked_is_said(requirement: Requirement, complaint: str) -> None:
    assert requirement.complaints(CLEAN) == [complaint]


@pytest.mark.parametrize("field", ["stack_bytes", "local_bytes", "shared_bytes"])
def test_memory_besides_registers_is_said(field: str) -> None:
    sass = Sass(**{**vars(CLEAN), field: 8})
    name = field.removesuffix("_bytes")
    assert Requirement().complaints(sass) == [f"8 bytes of {name} memory"]


def test_nothing_is_said_of_a_kernel_that_is_as_asked() -> None:
    asked = Requirement(needs=(("IMMA.16832", 8), ("LDSM", 4)), registers=40)
    assert asked.complaints(CLEAN) == []


def test_an_opcode_counts_only_as_a_whole_word() -> None:
    sass = Sass(8, 0, 0, 0, {"IMMA.168320": 1, "LDSMX": 2, "LDSM": 3, "LDSM.16": 4})
    assert (sass.count("IMMA.16832"), sass.count("LDSM")) == (0, 7)


@pytest.mark.parametrize(
    ("threads", "blocks", "registers"), [(128, 4, 128), (128, 3, 168), (1024, 2, 32), (32, 1, 255)]
)
def test_registers_follow_from_blocks(threads: int, blocks: int, registers: int) -> None:
    assert register_limit(threads, blocks) == registers


def test_a_later_card_gets_the_newest_text_it_is_not_older_than() -> None:
    assert [shipped_for(sm) for sm in SMS] == [75, 80, 80, 80, 80, 80]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(compile_module, "kernel_folder", lambda: tmp_path)
    monkeypatch.setenv("TRT_INT8_CACHE", str(tmp_path / "cache"))
    return tmp_path


def assembled(folder: Path, source: str, sm: int = 80) -> Sass:
    (folder / "k.cu").write_text(source, encoding="utf-8")
    return sass_of(KernelVariant("k.cu", "k", shipped_for(sm)), sm)


@needs_nvrtc
@needs_ptxas
@needs_disassembler
class TestRealTools:
    def test_a_spill_fails_the_gate(self, folder: Path) -> None:
        said = " ".join(Requirement().complaints(assembled(folder, SPILLING)))
        assert "STL" in said
        assert "LDL" in said

    def test_an_array_on_the_stack_fails_the_gate(self, folder: Path) -> None:
        said = " ".join(Requirement().complaints(assembled(folder, STACKED)))
        assert "128 bytes of stack memory" in said

    def test_static_shared_memory_fails_the_gate(self, folder: Path) -> None:
        assert Requirement().complaints(assembled(folder, DP4A)) == ["128 bytes of shared memory"]

    @pytest.mark.parametrize("sm", SMS)
    def test_instructions_of_every_architecture_are_read(self, folder: Path, sm: int) -> None:
        sass = assembled(folder, DP4A, sm)
        found = [sass.count(name) for name in ("IDP.4A", "STS", "BAR", "STG")]
        assert found == [1, 1, 1, 1]

    def test_the_second_reading_comes_from_the_cache(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = assembled(folder, FINE)
        assert Requirement(registers=32).complaints(first) == []
        monkeypatch.setattr("tests.kernels.sass.ptxas", lambda: Path("/no/such/tool"))
        assert assembled(folder, FINE) == first

    def test_what_the_assembler_refuses_is_shown(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tests.kernels.sass.shipped_for", lambda sm: sm)
        (folder / "k.cu").write_text(FINE, encoding="utf-8")
        with pytest.raises(AssertionError, match=r"SM version specified by .target is higher"):
            sass_of(KernelVariant("k.cu", "k", 80), 75)
