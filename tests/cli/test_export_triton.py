from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.runtime.triton.tiny import CLASSES, make_bundle
from trt_int8.cli.app import main


def export(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["export-triton", *map(str, arguments)])
    return int(ended.value.code or 0)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle", text=CLASSES)


def test_it_says_what_it_wrote_and_what_to_call(
    tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(bundle, "--out", tmp_path / "repo", "--text", "--name", "mine") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "models mine, mine_scores, mine_tokenizer, mine_text" in shown
    assert "clients call mine_text" in shown
    assert "tensorrt on cuda, int8" in shown
    assert "batches up to 6" in shown
    assert "lengths 8, 16, 20" in shown
    assert "(not run here)" in shown


def test_json_is_all_that_is_printed(
    tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--device", "cpu", "--backend", "onnxruntime", "--max-batch", 2, "--json")
    assert export(bundle, "--out", tmp_path / "repo", *arguments) == 0
    shown = json.loads(capsys.readouterr().out)
    written = sum(p.stat().st_size for p in (tmp_path / "repo").rglob("*") if p.is_file())
    marker = (tmp_path / "repo" / "trt_int8-triton.json").stat().st_size
    assert shown == {
        "folder": str(tmp_path / "repo"),
        "models": ["tiny"],
        "backend": "onnxruntime",
        "device": "cpu",
        "precision": "int8",
        "max_batch": 2,
        "lengths": [8, 16, 20],
        "size_bytes": written - marker,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--backend", "pytorch"), "--backend 'pytorch'; wanted one of tensorrt"),
        (("--precision", "fp8"), "--precision 'fp8'"),
        (("--device", "tpu"), "--device 'tpu'"),
        (("--max-batch", "99"), "at most 6"),
    ],
)
def test_odd_options_end_with_one_line(
    tmp_path: Path,
    bundle: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    assert export(bundle, "--out", tmp_path / "repo", *arguments) == 1
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""
    assert not (tmp_path / "repo").exists()


def test_a_folder_without_a_bundle_ends_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(tmp_path / "nothing", "--out", tmp_path / "repo") == 1
    assert capsys.readouterr().err.startswith("error: ")
