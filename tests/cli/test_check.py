from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.support.runtime_bundle import A10, FILES, T4, Installed, flip, make
from trt_int8 import cli
from trt_int8.runtime import audit
from trt_int8.runtime.gpu.cards import Card
from trt_int8.spec.bundle_report import BundleReport

MACHINE = audit.Machine


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COLUMNS", "200")
    give(monkeypatch, T4)
    return make(tmp_path / "bundle")


def give(monkeypatch: pytest.MonkeyPatch, *cards: Card) -> None:
    """Let the machine have these cards."""
    made = MACHINE(lambda: cards, Installed(), lambda name: name == "openvino")
    monkeypatch.setattr(audit, "Machine", lambda: made)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(["check", *map(str, arguments)])
    output = capsys.readouterr()
    return int(ended.value.code or 0), output.out, output.err


def errors(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("error: ")]


def test_a_whole_bundle_is_shown_file_by_file(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, bundle)
    assert (code, errors(err)) == (0, [])
    rows = [[c.strip() for c in x.split("│")[1:-1]] for x in out.splitlines() if "│" in x]
    assert rows == [[name, str(len(FILES[name])), "whole"] for name in sorted(FILES)]
    assert "cpu (openvino): runs model.int8.onnx" in out
    assert "cuda:0 (Tesla T4, SM75): runs sm75/int8.engine" in out
    assert out.splitlines()[-1] == "whole"


def test_a_damaged_bundle_ends_with_the_first_error_below_the_table(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(bundle / "sm75/fp16.engine", -1)
    os.truncate(bundle / "sm80/int8.engine", 7)
    code, out, err = run(capsys, bundle)
    assert code == 1
    assert len(errors(err)) == 1
    assert "'sm75/fp16.engine'" in errors(err)[0]
    assert "changed" in out
    assert "cut off" in out
    assert "not whole: 2 of 7 files" in out


def test_a_device_that_cannot_run_it_fails_only_if_asked_for(
    bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    give(monkeypatch, A10)
    code, out, _ = run(capsys, bundle)
    assert code == 0
    assert "cuda:0 (NVIDIA A10, SM86): cannot run it: card cuda:0 (NVIDIA A10) is SM86" in out
    code, _, err = run(capsys, bundle, "--device", "cuda:0")
    assert code == 1
    assert "trt-int8 build --model MODEL --flavour rtx --target sm75,sm80,sm86" in err


def test_a_machine_without_a_card_says_so(
    bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    give(monkeypatch)
    code, out, _ = run(capsys, bundle)
    assert code == 0
    assert "no card: there is no NVIDIA card" in out


@pytest.mark.parametrize("device", ["cpu", "auto", "cuda", "cuda:0"])
def test_a_device_that_can_run_it_is_fine(
    bundle: Path, capsys: pytest.CaptureFixture[str], device: str
) -> None:
    assert run(capsys, bundle, "--device", device)[0] == 0


def test_an_unknown_device_is_refused_before_anything_is_read(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, bundle, "--device", "gpu0")
    assert (code, out) == (1, "")
    assert err.startswith("error: unknown device 'gpu0'")


def test_the_twin_is_judged_if_asked_for(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, bundle, "--precision", "fp16")
    assert "cuda:0 (Tesla T4, SM75): runs sm75/fp16.engine" in out


def test_json_is_the_report_and_nothing_else(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(bundle / "model.int8.onnx", 0)
    code, out, err = run(capsys, bundle, "--json")
    assert code == 1
    assert len(errors(err)) == 1
    report = BundleReport.model_validate(json.loads(out))
    assert [file.name for file in report.files if file.state == "changed"] == ["model.int8.onnx"]


def test_a_folder_that_is_no_bundle_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, tmp_path)
    assert (code, out) == (1, "")
    assert errors(err) == err.splitlines()
    assert "has no manifest.json" in err


def test_names_that_look_like_markup_are_shown_as_they_are(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (bundle / "[red]odd").write_bytes(b"123")
    _, out, _ = run(capsys, bundle)
    assert "[red]odd" in out
    assert "not listed" in out
