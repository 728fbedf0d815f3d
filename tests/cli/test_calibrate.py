"""`trt-int8 calibrate`: what goes to which stream, and wrong input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.tiny_folder import write_bert, write_texts
from trt_int8 import cli


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(["calibrate", *(str(a) for a in arguments)])
    output = capsys.readouterr()
    return int(ended.value.code or 0), output.out, output.err


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli_calibrate")
    write_bert(folder / "bert")
    write_texts(folder / "texts.txt")
    return folder


def arguments(inputs: Path, out: Path, methods: str = "max,sqnr") -> list[object]:
    return [
        *(inputs / "bert", "--data", inputs / "texts.txt", "--methods", methods),
        *("--out", out, "--shapes", "batch=1:2:4,seq=8:16:40"),
    ]


def test_a_table_and_the_page_are_shown(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, *arguments(inputs, tmp_path))
    assert (code, err) == (0, "")
    assert "sqnr" in out
    assert "recommended:" in out
    assert "calibration.html" in out


def test_with_json_standard_output_holds_the_study_alone(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, *arguments(inputs, tmp_path), "--json")
    assert code == 0
    assert [method["method"] for method in json.loads(out)["methods"]] == ["max", "sqnr"]
    assert "Calibrating" in err


@pytest.mark.parametrize(
    ("methods", "text"),
    [
        ("best", "calibration method 'best' is unknown; wanted one of max, "),
        ("percentile:101", "method 'percentile:101' has the number '101'; wanted a number from"),
        ("max,max", "method 'max' is named twice"),
        ("", "calibration method '' is unknown"),
    ],
)
def test_wrong_methods_are_one_line(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], methods: str, text: str
) -> None:
    code, out, err = run(capsys, *arguments(inputs, tmp_path / "new", methods))
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert text in err
    assert err.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_texts_may_be_named_as_for_a_build(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, inputs / "bert", "--calib", tmp_path / "gone.txt")
    assert code == 1
    assert "gone.txt' cannot be read" in err
    assert "pass --calib FILE" in err
