from __future__ import annotations

import json
import re
from pathlib import Path

import onnx
import pytest

from scripts import write_lint_table
from tests.support.lint_faults import scale, twice, weight
from tests.support.lint_graphs import attention, quantized_linear
from tests.support.lint_odd import float_linear
from trt_int8.cli.app import main
from trt_int8.graph.lint.run import ALL_CHECKS

DOCS = Path(__file__).parent.parent.parent / "docs" / "lint.md"


def lint(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["lint", *map(str, arguments)])
    return int(ended.value.code or 0)


def saved(folder: Path, model: onnx.ModelProto) -> Path:
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def many_faults() -> onnx.ModelProto:
    """Seven nodes without the names that coverage needs."""
    model = attention()
    for node in model.graph.node:
        if node.op_type in ("MatMul", "Softmax"):
            node.name = ""
    return model


def test_a_sound_file_ends_with_code_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lint(saved(tmp_path, quantized_linear())) == 0
    shown = capsys.readouterr().out
    assert "m.onnx: 9 nodes, for SM75, SM80" in shown
    assert "0 errors, 0 warnings, 0 infos" in shown


def test_warnings_alone_end_with_code_0(tmp_path: Path) -> None:
    assert lint(saved(tmp_path, weight("turned")())) == 0


def test_errors_end_with_code_2(tmp_path: Path) -> None:
    path = saved(tmp_path, float_linear()())
    assert lint(path) == 2
    assert lint(path, "--target", "a100") == 0


@pytest.mark.parametrize("data", [b"", b"\xff" * 64, b"hello"])
def test_an_unusable_file_is_one_line_and_code_1(
    data: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    assert lint(path) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert re.fullmatch(r"error: 'm\.onnx' is no ONNX file.*\n", shown.err)


@pytest.mark.parametrize(
    "options", [("--target", "t5"), ("--shapes", "seq=9:1:2"), ("--force",)], ids=str
)
def test_a_wrong_option_is_one_line_and_code_1(
    options: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lint(saved(tmp_path, quantized_linear()), *options) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_first_five_nodes_are_shown_and_the_rest_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path, many_faults())
    lint(path)
    short = capsys.readouterr().out
    lint(path, "--all")
    long = capsys.readouterr().out
    assert "7x" in short
    assert "+ 2 more (--all lists them)" in short
    assert (short.count("    node_of_"), long.count("    node_of_")) == (5, 7)
    assert "more" not in long


def test_errors_are_shown_above_warnings_with_reason_and_mend(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = scale(0.0)()
    model.graph.node[-2].name = ""
    lint(saved(tmp_path, model))
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.index("2 errors") < shown.index("scale-value") < shown.index("1 warning")
    assert "Scale coefficients must all be positive" in shown
    assert "mend: calibrate again" in shown


def test_node_names_that_look_like_markup_are_shown_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = scale(0.0)()
    next(n for n in model.graph.node if n.name == "quant").name = "a[red]b[/red]" + "long" * 40
    lint(saved(tmp_path, model))
    assert "a[red]b[/red]" + "long" * 40 in capsys.readouterr().out


def test_json_holds_all_of_each_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lint(saved(tmp_path, scale(0.0)()), "--json", "--shapes", "batch=1,seq=7") == 2
    shown = json.loads(capsys.readouterr().out)
    assert shown["counts"] == {"error": 2, "warning": 0, "info": 0}
    assert (shown["targets"], shown["shapes"]) == ([75, 80], "batch=1:1:1,seq=7:7:7")
    first = shown["findings"][0]
    assert set(first) == {"check", "severity", "node", "found", "reason", "mend", "fixable"}
    assert (first["check"], first["node"], first["found"]) == (
        "scale-value", "quant", "its scale is 0",
    )  # fmt: skip


def test_fix_writes_a_copy_and_judges_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = saved(tmp_path, twice(True, 0.02)()), tmp_path / "mended.onnx"
    data = path.read_bytes()
    assert lint(path, "--fix", out) == 0
    shown = capsys.readouterr().out
    assert f"wrote {out}" in shown
    assert "done: requantized: 1 before, 0 after" in shown
    assert "0 errors, 0 warnings, 0 infos" in shown
    assert path.read_bytes() == data
    assert lint(path, "--fix", out) == 1
    assert "add" not in capsys.readouterr().out
    assert lint(path, "--fix", out, "--force", "--json") == 0
    assert json.loads(capsys.readouterr().out)["fix"]["path"] == str(out)


def test_the_page_lists_every_check() -> None:
    page = DOCS.read_text(encoding="utf-8")
    body = page.split("<!-- checks:start -->\n")[1].split("\n<!-- checks:end -->")[0]
    assert body == write_lint_table.table()
    assert all(f"`{info.id}`" in body for info in ALL_CHECKS)
