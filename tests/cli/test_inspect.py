from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.block_bundle import make_block_bundle
from tests.support.plans import OUT, UP
from trt_int8 import cli
from trt_int8.spec.inspection import Inspection


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COLUMNS", "200")
    return make_block_bundle(tmp_path / "bundle")


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(["inspect", *map(str, arguments)])
    output = capsys.readouterr()
    return int(ended.value.code or 0), output.out, output.err


def cells(text: str) -> list[list[str]]:
    return [[c.strip() for c in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]


def test_a_bundle_is_shown_as_tables(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, bundle)
    assert (code, err) == (0, "")
    rows = cells(out)
    assert [row[:5] for row in rows[:2]] == [
        ["sm75/int8", "SM 75", "4 of 5", "1 of 1", "1 of 1"],
        ["sm75/fp16", "SM 75", "0 of 5", "1 of 1", "0 of 1"],
    ]
    assert ["GEMM", "int8 x int8", "float", "1"] in [row[:4] for row in rows]
    assert ["_gemm_mha_v2", "int8 x int8 x int8", "int8", "1"] in [row[:4] for row in rows]
    assert "TensorRT 1.7.1.116; log" in out
    assert ["model.int8.onnx", "7.7e-05"] in [row[:2] for row in rows]


def test_fallbacks_and_hazards_are_named_with_the_reason(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = run(capsys, bundle, "--engine", "sm75/int8")
    assert f"sm75/int8: 1 not INT8: no Q/DQ on <up>: {UP}" in out
    assert "sm75/fp16: " not in out
    assert "against its FP16 twin: 6 kernels / 6, 0.02663 MB of weights / 0.04301" in out


def test_an_int8_gemm_that_writes_half_is_warned_about(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = run(capsys, bundle / "sm75" / "int8.engine")
    assert (
        f"INT8 matmuls write float16, which their raw accumulator may overflow (65504): {OUT}"
        in (out)
    )
    assert "attentions fused" in out
    assert "1 of ?" in out


def test_all_lists_every_kernel(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, short, _ = run(capsys, bundle, "--engine", "sm75/int8")
    _, long, _ = run(capsys, bundle, "--engine", "sm75/int8", "--all")
    assert "__myl_MulMinMaxRounCast" not in short
    assert "and 2 kernels without a matmul" in short
    names = [row[0] for row in cells(long)]
    assert names.index("__myl_MulMinMaxRounCast") < names.index("_gemm_mha_v2")


def test_json_is_printed_alone_and_holds_the_chosen_engine(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, bundle, "--json", "--engine", "sm75/fp16")
    assert (code, err) == (0, "")
    found = Inspection.model_validate_json(out)
    assert [engine.name for engine in found.engines] == ["sm75/fp16"]
    assert json.loads(out)["format"] == "trt_int8-inspection-1"


def test_a_page_is_written_and_not_replaced_without_force(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "deep" / "page.html"
    code, out, _ = run(capsys, bundle, "--html", page)
    assert code == 0
    assert f"page: {page}" in out
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    page.write_text("mine")
    code, _, err = run(capsys, bundle, "--html", page)
    assert code == 1
    assert "exists; wanted a new file; add --force" in err
    assert page.read_text() == "mine"
    assert run(capsys, bundle, "--html", page, "--force")[0] == 0
    assert page.read_text(encoding="utf-8") != "mine"


@pytest.mark.parametrize("place", ["report.html", "sm75/int8.engine", "."])
def test_a_page_inside_the_bundle_is_refused(
    bundle: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    before = sorted(bundle.rglob("*"))
    code, _, err = run(capsys, bundle, "--html", bundle / place, "--force")
    assert code == 1
    assert "lies in what is read" in err or "is a folder" in err
    assert sorted(bundle.rglob("*")) == before


def test_an_engine_is_never_overwritten_by_its_page(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bundle / "sm75" / "int8.engine"
    data = path.read_bytes()
    assert run(capsys, path, "--html", path, "--force")[0] == 1
    assert path.read_bytes() == data


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (
            ("--engine", "sm90/int8"),
            "no engine 'sm90/int8' here; wanted one of sm75/int8",
        ),
        (("--bogus",), "No such option: --bogus"),
    ],
)
def test_a_wrong_option_is_one_line_and_writes_no_page(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...], why: str,
) -> None:  # fmt: skip
    code, out, err = run(capsys, bundle, "--html", tmp_path / "p.html", *arguments)
    assert (code, out) == (1, "")
    assert why in err
    assert err.count("\n") == 1
    assert not (tmp_path / "p.html").exists()


def test_a_missing_path_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, tmp_path / "gone")
    assert (code, out) == (1, "")
    assert err.startswith("error: no file or folder")
