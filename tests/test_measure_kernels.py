"""The counts of the kernels: what is counted, and what the page says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts import measure_kernels as script
from scripts.kernel_subjects import SUBJECTS
from tests.kernels.sass import SMS
from tests.kernels.tools import needs_disassembler, needs_nvrtc, needs_ptxas

ONE: script.Figures = {
    "unit": "product",
    "ptx_per_unit": 12.52,
    "ptx_per_unit_without_moves": 10.0,
    "global_bytes": 960,
    "tensor_bytes": 640,
    "shared_bytes": 20480,
    "shared_wavefronts_per_request": {"ldmatrix": 1.0, "st.shared": 1.999},
}
FIGURES: script.Figures = {
    "k": {
        "sm75": ONE,
        "sm80": {**ONE, "ptx_per_unit": 9.0, "shared_wavefronts_per_request": {}},
        "registers": {f"sm{sm}": sm + 1 for sm in SMS},
    }
}
COMMITTED = json.loads(script.FIGURES.read_text(encoding="utf-8"))


def test_a_row_of_the_counts_has_both_architectures() -> None:
    assert script.tables(FIGURES)["kernels"].splitlines()[-1] == (
        "| k | product | 12.5 / 9.0 | 10.0 / 10.0 | 1.50 | 20,480 "
        "| ldmatrix 1, st.shared 2 / none |"
    )


def test_what_both_architectures_share_is_said_once() -> None:
    same = {"k": {**FIGURES["k"], "sm80": ONE}}
    row = script.tables(same)["kernels"].splitlines()[-1]
    assert row.endswith("| 20,480 | ldmatrix 1, st.shared 2 |")


def test_a_row_of_the_registers_has_every_card() -> None:
    row = script.tables(FIGURES)["kernel-registers"].splitlines()[-1]
    assert row == f"| k | {' | '.join(str(sm + 1) for sm in SMS)} |"


def test_copies_between_registers_do_not_count_as_work() -> None:
    counts = {"mov.b32": 5, "cvta.to.global.u64": 1, "cvt.s64.s32": 1, "cvt.rn.f32.s32": 3}
    assert script._without_moves(counts) == 3


def test_machine_instructions_are_counted_by_family_and_products_by_shape() -> None:
    opcodes = {"IMMA.16832.S8.S8": 2, "IMMA.16832.U8.S8": 3, "IADD3": 1, "IADD3.X": 4}
    assert script._families(opcodes) == {"IMMA.16832": 5, "IADD3": 5}


@needs_nvrtc
@needs_ptxas
@needs_disassembler
@pytest.mark.parametrize("sm", [75, 80])
@pytest.mark.parametrize("name", ["int8_attention D=64 S=128", "bias_gelu_quant H=3072, half"])
def test_the_committed_figures_are_those_of_the_source(name: str, sm: int) -> None:
    found = script.measure(SUBJECTS[name](sm))
    assert json.loads(json.dumps(found)) == COMMITTED[name][f"sm{sm}"]


def test_there_are_figures_of_every_subject() -> None:
    assert list(COMMITTED) == list(SUBJECTS)


@pytest.mark.parametrize(("sm", "most"), [(75, 30.0), (80, 24.0)])
def test_attention_takes_few_instructions_per_product(sm: int, most: float) -> None:
    assert COMMITTED["int8_attention D=64 S=384"][f"sm{sm}"]["ptx_per_unit"] <= most


def test_matrices_are_read_without_bank_conflicts() -> None:
    found = [
        one["shared_wavefronts_per_request"]["ldmatrix"]
        for name, of in COMMITTED.items()
        for sm, one in of.items()
        if name.startswith("int8_attention") and sm != "registers"
    ]
    assert len(found) == 2 * 7
    assert set(found) == {1.0}


def test_the_page_changes_between_its_marks_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- kernels:start -->\nold\n<!-- kernels:end -->\nafter\n")
    monkeypatch.setattr(script, "SUBJECTS", {})
    figures = tmp_path / "kernels.json"
    monkeypatch.setattr("sys.argv", ["x", "--json", str(figures), "--page", str(page)])
    script.main()
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert json.loads(figures.read_text()) == {}


@pytest.mark.parametrize("mark", ["kernels", "kernel-registers"])
def test_the_page_holds_the_tables_of_the_committed_figures(mark: str) -> None:
    text = script.PAGE.read_text(encoding="utf-8")
    body = text.split(f"<!-- {mark}:start -->\n")[1].split(f"\n<!-- {mark}:end -->")[0]
    assert body == script.tables(COMMITTED)[mark]
