"""Versions of the kernels: how they are built, judged and counted, and what the page says."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from scripts import kernel_versions as script
from scripts.kernel_ladder import attention, rows
from scripts.kernel_ladder.machine import has_loop, instructions, main_loop
from scripts.kernel_ladder.rung import Change, Judge, LadderError, Rung, changed
from scripts.kernel_ladder.tables import tables
from tests.kernels.tools import needs_disassembler, needs_nvrtc, needs_ptxas
from trt_int8.plugins.compile import compile_ptx, read_sources

# As nvdisasm prints: a loop with a copy, two regions that a branch may skip, and code after it.
LISTING = """
.text.k:
.L_x_9:
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_0:
        /*0010*/               @P0 BRA `(.L_x_1) ;
        /*0020*/                   LDGSTS.E.BYPASS.128 [R2], [R4.64] ;
.L_x_1:
        /*0030*/                   IMMA.16832.S8.S8 R4, R8, R12, R4 ;
        /*0040*/              @!P1 BRA `(.L_x_2) ;
        /*0050*/                   SEL R3, R3, R5, P2 ;
        /*0060*/                   SEL R4, R3, R5, P2 ;
.L_x_2:
        /*0070*/              @!P3 BRA `(.L_x_3) ;
        /*0080*/                   SHFL.BFLY PT, R50, R79, 0x1, 0x1f ;
.L_x_3:
        /*0090*/                   IMMA.16832.U8.S8 R4, R8, R12, R4 ;
        /*00a0*/                   NOP ;
        /*00b0*/              @!P5 BRA `(.L_x_0) ;
        /*00c0*/                   EXIT ;
.L_x_4:
        /*00d0*/                   BRA `(.L_x_4);
"""
ALWAYS = {"BRA": 4, "LDGSTS": 1, "IMMA": 2}
MARKS = sorted(tables(json.loads(script.FIGURES.read_text("utf-8"))))


def test_a_turn_of_the_main_loop_leaves_out_what_a_branch_may_skip() -> None:
    loop = main_loop(instructions(LISTING))
    assert loop.always == ALWAYS
    assert loop.lowering == {"SHFL": 1}
    assert loop.hiding == {"SEL": 2}


def test_a_region_with_a_product_is_no_optional_one() -> None:
    text = LISTING.replace("SEL R4", "IMMA.16832.S8.S8 R4")
    with pytest.raises(ValueError, match="1 regions with shuffles and 0 without"):
        main_loop(instructions(text))


def test_code_without_a_loop_of_products_has_no_turn() -> None:
    with pytest.raises(ValueError, match="no loop"):
        main_loop(instructions(LISTING.replace("IMMA", "HMMA")))


def test_the_endless_loop_behind_the_code_is_no_loop() -> None:
    assert has_loop(instructions(LISTING))
    assert not has_loop(instructions(LISTING.replace("@!P5 BRA `(.L_x_0)", "     MOV R1, R2")))


def test_every_instruction_of_a_listing_is_read() -> None:
    read = Counter(one.family for one in instructions(LISTING))
    assert read == Counter(
        {"BRA": 5, "IMMA": 2, "SEL": 2, "MOV": 1, "LDGSTS": 1, "SHFL": 1, "NOP": 1, "EXIT": 1}
    )


@pytest.mark.parametrize(
    "change", [Change("a", "y", "z"), Change("a", "x", "z"), Change("b", "x", "z")]
)
def test_a_text_that_is_not_there_as_often_as_said_stops_the_run(change: Change) -> None:
    with pytest.raises(LadderError, match="write the change of this version anew"):
        changed({"a": "x x"}, [change])


def test_a_change_replaces_its_text_everywhere_and_leaves_the_rest() -> None:
    sources = {"a": "x x", "b": "x"}
    assert changed(sources, [Change("a", "x", "y", times=2)]) == {"a": "y y", "b": "x"}
    assert sources["a"] == "x x"


@pytest.mark.parametrize("name", sorted(script.LADDERS))
def test_every_version_can_still_be_made_from_the_shipped_sources(name: str) -> None:
    ladder = script.LADDERS[name]
    launch = ladder.trial(80).launch
    for rung in ladder.rungs:
        if not rung.source:
            changed(read_sources(rung.launch(launch).variant.source), rung.changes)


@pytest.mark.parametrize("name", sorted(script.LADDERS))
def test_the_last_version_of_a_ladder_is_the_shipped_one_and_only_that(name: str) -> None:
    *others, last = script.LADDERS[name].rungs
    assert last.is_shipped
    assert not any(rung.is_shipped for rung in others)


@needs_nvrtc
def test_a_version_without_changes_is_the_text_that_ships() -> None:
    trial = attention.trial(80)
    assert Rung("", "").ptx(trial.launch.variant) == compile_ptx(trial.launch.variant).ptx


@needs_nvrtc
@pytest.mark.parametrize("judge", ["bits", "bytes", "whole"])
def test_a_version_of_attention_with_wrong_results_is_not_counted(judge: Judge) -> None:
    # Every key's weight then counts half a byte too much in the row's sum.
    wrong = Change("attention_softmax.cuh", "WORD_BITS = 0x4B000080u", "WORD_BITS = 0x4B000000u")
    rung = Rung("wrong", "", changes=(wrong,), judge=judge)
    with pytest.raises(LadderError, match=r"wrong on sm_80: \d+ codes differ"):
        script.run(rung, attention.trial(80, length=128))


@needs_nvrtc
@pytest.mark.parametrize(("own", "other"), [("bytes", "whole"), ("whole", "bytes")])
def test_a_version_with_another_rounding_is_judged_by_that_rounding(
    own: Judge, other: Judge
) -> None:
    rung = next(rung for rung in attention.RUNGS if rung.judge == own)
    script.run(rung, attention.trial(80))
    with pytest.raises(LadderError, match="codes differ"):
        script.run(replace(rung, judge=other), attention.trial(80))


@needs_nvrtc
@pytest.mark.parametrize("judge", ["bits", "contract"])
def test_a_version_over_rows_with_wrong_results_is_not_counted(judge: Judge) -> None:
    wrong = Change("skip_layernorm_quant.cu", "1.0f / HIDDEN", "1.1f / HIDDEN")
    rung = Rung("wrong", "", changes=(wrong,), judge=judge)
    with pytest.raises(LadderError, match="wrong on sm_80"):
        script.run(rung, rows.layernorm_trial(rows.LAYERNORM_SHORT, 80))


def test_codes_a_step_off_pass_on_a_thousandth_of_the_elements_only() -> None:
    exact = np.zeros(4000, np.int8)
    codes = exact.copy()
    codes[:4] = 1
    assert rows.apart(codes, exact) == ""
    codes[4] = -1
    assert rows.apart(codes, exact) == "5 of 4000 codes differ, by up to 1"
    codes[1:] = 0
    codes[0] = 2
    assert rows.apart(codes, exact) == "1 of 4000 codes differ, by up to 2"


@needs_nvrtc
@needs_ptxas
@needs_disassembler
@pytest.mark.parametrize("sm", [75, 80])
@pytest.mark.parametrize("name", ["attention", "layernorm", "gelu", "gelu_table"])
def test_the_committed_figures_of_shipped_kernels_are_those_of_the_source(
    name: str, sm: int
) -> None:
    ladder = script.LADDERS[name]
    rung = ladder.rungs[-1]
    committed = json.loads(script.FIGURES.read_text("utf-8"))[name]["rungs"][rung.name][f"sm{sm}"]
    found = script.count(rung, ladder.trial(sm), loops=ladder.loops)
    assert json.loads(json.dumps(found)) == committed


@pytest.mark.parametrize("mark", MARKS)
def test_the_page_holds_the_tables_of_the_committed_figures(mark: str) -> None:
    figures = json.loads(script.FIGURES.read_text(encoding="utf-8"))
    text = script.PAGE.read_text(encoding="utf-8")
    body = text.split(f"<!-- {mark}:start -->\n")[1].split(f"\n<!-- {mark}:end -->")[0]
    assert body == tables(figures)[mark]
