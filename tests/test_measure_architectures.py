"""The table of architectures: which rows are measured, what they say, how a run goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scripts import measure_architectures as script
from tests.support.architectures import ARCHITECTURES
from trt_int8.errors import EngineError, GraphError

ENGINE = {
    "int8": 15, "counted": 16, "attentions": 2, "attentions_fused": 2, "attentions_int8": 1,
    "engine_bytes": 2_570_000,
}  # fmt: skip
ROW: dict[str, Any] = {
    "engines": {"sm75": ENGINE, "sm80": ENGINE | {"int8": 16, "engine_bytes": 3_141_000}},
    "cosine": 0.98765, "onnx_bytes": 171_000, "tensorrt_version": "1",
}  # fmt: skip


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    (tmp_path / "measured").mkdir()
    text = "before\n<!-- architectures:start -->\n<!-- architectures:end -->\nafter\n"
    (tmp_path / "architectures.md").write_text(text, encoding="utf-8")
    return tmp_path


def run(docs: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> list[str]:
    """Run the script with a stand-in for the build; the rows that it measured."""
    measured: list[str] = []

    def measure(name: str, recipe: str) -> dict[str, Any]:
        measured.append(f"{name}/{recipe}")
        return {"refused": "no"} if recipe == "full" else ROW

    monkeypatch.setattr(script, "measure", measure)
    monkeypatch.setattr("sys.argv", ["x", "--docs", str(docs), *arguments])
    script.main()
    return measured


def table_of(docs: Path) -> list[str]:
    lines = (docs / "architectures.md").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith("| ")][1:]


def test_every_architecture_is_measured_with_every_recipe() -> None:
    assert len(script.all_rows()) == len(ARCHITECTURES) * 4
    assert script.all_rows()[:4] == [
        "bert/ffn",
        "bert/linear",
        "bert/linear+attention",
        "bert/full",
    ]


def test_only_names_architectures_or_single_rows(
    docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = run(docs, monkeypatch, "--only", "vit, bert/full")
    assert found == ["bert/full", *(f"vit/{r}" for r in script.RECIPES)]
    assert len(table_of(docs)) == 5


def test_finished_rows_are_kept_and_crashed_ones_tried_again(
    docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {
        "bert/ffn": ROW,
        "bert/linear": {"crash": "KeyError: x"},
        "bert/full": {"refused": "n"},
    }
    (docs / "measured" / "architectures.json").write_text(json.dumps(known))
    assert run(docs, monkeypatch, "--only", "bert") == ["bert/linear", "bert/linear+attention"]
    assert run(docs, monkeypatch, "--only", "bert") == []
    assert len(run(docs, monkeypatch, "--only", "bert", "--again")) == 4


def test_the_page_keeps_its_text_and_gets_the_table(
    docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(docs, monkeypatch, "--only", "bert/linear,bert/full")
    text = (docs / "architectures.md").read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert table_of(docs) == [
        "| bert | `linear` | 15 / 16, 16 / 16 | 2 / 2 (1) | 0.9877 | 0.17 | 2.57 / 3.14 |",
        "| bert | `full` | refused: no |  |  |  |  |",
    ]


def test_an_unknown_name_is_refused(docs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit):
        run(docs, monkeypatch, "--only", "bort")


@pytest.mark.parametrize(
    ("error", "row"),
    [
        (GraphError("a | b", wanted="c", todo="d"), {"refused": "a | b; wanted c; d."}),
        (ValueError("e\nf"), {"crash": "ValueError: e"}),
        (
            EngineError("x: TensorRT's process ended with code 1", wanted="c", todo="d"),
            {"crash": "x: TensorRT's process ended with code 1; wanted c; d."},
        ),
    ],
)
def test_a_refusal_and_a_crash_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, error: Exception, row: dict[str, str]
) -> None:
    def run_build(*_: object) -> None:
        raise error

    monkeypatch.setattr(script, "run_build", run_build)
    assert script.measure("distilbert", "linear") == row


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_texts_or_arrays_calibrate_what_fits_the_model(tmp_path: Path, name: str) -> None:
    options = script._options(tmp_path, name, "linear")
    assert options.calib is not None
    assert options.calib.suffix == {"bert": ".txt", "vit": ".npz"}[name]
    assert options.calib.is_file()
    assert {target.sm for target in options.targets or ()} == {75, 80}
    assert options.recipe.name == "linear"
