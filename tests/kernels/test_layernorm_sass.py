from __future__ import annotations

import pytest

from tests.kernels.row_sass import ON_EACH_CARD, requirement, unfused
from tests.kernels.sass import sass_of, shipped_for
from tests.kernels.tools import needs_disassembler, needs_nvrtc, needs_ptxas
from trt_int8.plugins.layernorm import LayerNormForm, variant

pytestmark = [needs_nvrtc, needs_ptxas, needs_disassembler]

# Five tensors of halves in three accesses of 16 bytes each, and so on; blocks of a multiprocessor.
CASES = {
    "halves-768": (LayerNormForm(768, bias=True), {"LDG.E.128": 15, "STG.E.64": 3}, 8),
    "halves-384": (LayerNormForm(384), {"LDG.E.128": 12, "STG.E.64": 3}, 8),
    "codes-1024": (
        LayerNormForm(1024, x="int8", residual="int8"),
        {"LDG.E.64": 8, "LDG.E.128": 8, "STG.E.64": 4},
        7,
    ),
    "halves-4096": (
        LayerNormForm(4096, bias=True, half=True, sum=True),
        {"LDG.E.128": 20, "STG.E.128": 8, "STG.E.64": 4},
        6,
    ),
    "rms-codes-768": (
        LayerNormForm(768, x="int8", residual="int8", rms=True),
        {"LDG.E.64": 6, "LDG.E.128": 3, "STG.E.64": 3},
        8,
    ),
    "one-wide-1023": (LayerNormForm(1023, bias=True, half=True, sum=True), {"LDG.E.U16": 40}, 8),
}


@ON_EACH_CARD
@pytest.mark.parametrize("case", CASES)
def test_the_machine_code_has_wide_accesses_and_no_spill(case: str, sm: int) -> None:
    form, needs, blocks = CASES[case]
    asked = requirement(needs, form.layout.block, blocks)
    assert asked.complaints(sass_of(variant(form, shipped_for(sm)), sm)) == []


@ON_EACH_CARD
@pytest.mark.parametrize("case", CASES)
def test_the_assembler_fuses_nothing(case: str, sm: int) -> None:
    shipped = variant(CASES[case][0], shipped_for(sm))
    assert unfused(shipped, sass_of(shipped, sm)) == {}


@ON_EACH_CARD
def test_nothing_is_left_to_an_approximate_unit(sm: int) -> None:
    form = CASES["halves-4096"][0]
    assert sass_of(variant(form, shipped_for(sm)), sm).count("MUFU") == 0


@pytest.mark.parametrize("sm", [75, 80])
def test_a_row_of_768_takes_at_most_23_instructions_per_element_of_a_lane(sm: int) -> None:
    # Nothing loops or branches: what is there runs once. 24 elements a lane.
    sass = sass_of(variant(CASES["halves-768"][0], sm), sm)
    assert sum(sass.opcodes.values()) - sass.count("NOP") <= 23 * 24
