from __future__ import annotations

import pytest

from tests.kernels.row_sass import ON_EACH_CARD, requirement, unfused
from tests.kernels.sass import sass_of, shipped_for
from tests.kernels.tools import needs_disassembler, needs_nvrtc, needs_ptxas
from trt_int8.plugins.gelu import BLOCK, GeluForm, variant

pytestmark = [needs_nvrtc, needs_ptxas, needs_disassembler]

CASES = {
    "halves": (GeluForm(3072), {"LDG.E.128": 2, "STG.E.64": 1, "FFMA": 8 * 16}),
    "codes-tanh": (
        GeluForm(3072, "int8", tanh=True),
        {"LDG.E.64": 1, "LDG.E.128": 1, "STG.E.64": 1, "FFMA": 8 * 17},
    ),
    "table": (
        GeluForm(3072, "int8", bias=False),
        {"LDG.E.128": 1, "STG.E.128": 1, "FFMA": 16},
    ),
}


@ON_EACH_CARD
@pytest.mark.parametrize("case", CASES)
def test_the_machine_code_has_wide_accesses_and_no_spill(case: str, sm: int) -> None:
    form, needs = CASES[case]
    # Eight blocks of 256 threads: all 2048 of an sm_80; an sm_75 holds half of them.
    asked = requirement(needs, BLOCK, 6 if sm == 120 else 8)
    assert asked.complaints(sass_of(variant(form, shipped_for(sm)), sm)) == []


@ON_EACH_CARD
@pytest.mark.parametrize("case", CASES)
def test_the_assembler_fuses_nothing_and_approximates_nothing(case: str, sm: int) -> None:
    shipped = variant(CASES[case][0], shipped_for(sm))
    sass = sass_of(shipped, sm)
    assert unfused(shipped, sass) == {}
    assert sass.count("MUFU") == 0
