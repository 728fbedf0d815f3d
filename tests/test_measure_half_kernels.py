"""The table of kernels in half: what is read from an engine, and what the page says."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from scripts import measure_half_kernels as script

ROW: script.Row = {
    "sm75": {"kernels": ["MulTanh", "Cast"], "reductions": ["AddOp<float>"]},
    "sm80": {"kernels": ["MulTanh"], "reductions": ["AddOp<float>"]},
}


def test_what_both_cards_have_is_written_once() -> None:
    assert script.table({"GELU": ROW}).splitlines()[-1] == (
        "| GELU | `MulTanh`, `Cast` / `MulTanh` | `AddOp<float>` |"
    )


def test_reductions_are_read_once_each_and_start_values_are_none() -> None:
    text = (
        b"\0f<AddOp<__myln_float>,__myln_float,4>(x) AddOp<__myln_half>::identity\0"
        b"MaxOp<__myln_half>,__myln_half AddOp<__myln_float>,4 block_norm<__myln_float,__myln_half>"
    )
    assert script.reductions(text) == ["AddOp<float>", "MaxOp<half>", "block_norm<float>"]


def test_kernels_lose_their_numbers_and_what_computes_shapes_is_left_out() -> None:
    rest = "Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0, Metadata: "
    listing = "Layers:\n" + "\n".join(
        f"Name: {name}, LayerType: {kind}, {rest}"
        for name, kind in (("__mye1_0_myl0_0", "shape_call"), ("__myl_MulTanh_myl0_12", "kgen"))
    )
    assert script.kernels(listing) == ["MulTanh"]


@pytest.mark.parametrize("name", list(script.OPERATORS))
def test_every_operator_has_a_valid_graph_in_half(name: str) -> None:
    model = script.OPERATORS[name]()
    onnx.checker.check_model(model, full_check=True)
    assert {each.data_type for each in model.graph.initializer} <= {onnx.TensorProto.FLOAT16}


def test_figures_and_table_are_written_and_the_page_keeps_its_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "measured").mkdir()
    page = tmp_path / "profiles.md"
    page.write_text("a\n<!-- half-kernels:start -->\nold\n<!-- half-kernels:end -->\nb\n")
    monkeypatch.setattr(script, "measure", lambda model: ROW)
    monkeypatch.setattr("sys.argv", ["x", "--docs", str(tmp_path)])
    script.main()
    lines = page.read_text("utf-8").splitlines()
    assert [lines[0], lines[-1], "old" in lines] == ["a", "b", False]
    assert sum("`MulTanh`" in line for line in lines) == len(script.OPERATORS)
    figures = json.loads((tmp_path / "measured" / "half_kernels.json").read_text("utf-8"))
    assert set(figures) == set(script.OPERATORS)


def test_the_committed_page_says_what_the_committed_figures_say() -> None:
    rows = json.loads((script.DOCS / "measured" / "half_kernels.json").read_text("utf-8"))
    ordered = {name: rows[name] for name in script.OPERATORS}
    assert script.table(ordered) in (script.DOCS / "profiles.md").read_text("utf-8")
