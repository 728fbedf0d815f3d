"""Calibration caches of smoothed models: shown, compared, and not converted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.cli.test_calib import refusal, run
from trt_int8.calibrate import cache
from trt_int8.spec.ranges import RangeTable, TensorRange
from trt_int8.spec.smoothing import Alpha, Smoothing


def smoothed_file(path: Path, smoothing: Smoothing | None) -> Path:
    """A file of two ranges."""
    ranges = {"x": TensorRange(amax=1, peak=1), "y": TensorRange(amax=10, peak=10)}
    table = RangeTable(
        method="max", samples=3, model_sha256="m", data_sha256="d", versions={"v": "1"},
        ranges=ranges, smoothing=smoothing,
    )  # fmt: skip
    cache.save(path, table)
    return path


def smoothed_by(*factors: float, alpha: Alpha = "auto") -> Smoothing:
    return Smoothing.of(alpha, {"x": np.array(factors, np.float32)})


@pytest.mark.parametrize(
    ("smoothing", "line"),
    [
        (smoothed_by(2, 0.5), "1 input of Linears smoothed with alpha auto"),
        (smoothed_by(2, 0.5, alpha=0.75), "1 input of Linears smoothed with alpha 0.75"),
        (Smoothing(alpha="auto"), "0 inputs of Linears smoothed with alpha auto"),
    ],
)
def test_show_says_how_many_tensors_were_smoothed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], smoothing: Smoothing, line: str
) -> None:
    source = smoothed_file(tmp_path / "a", smoothing)
    run("show", source)
    assert capsys.readouterr().out.splitlines()[0] == f"max, 3 texts, {line}, v 1"
    run("show", source, "--json")
    about = {"alpha": smoothing.alpha, "factors": smoothing.factors}
    assert json.loads(capsys.readouterr().out)["smoothing"] == about


@pytest.mark.parametrize("other", [None, smoothed_by(2, 0.25)])
def test_ranges_of_tensors_smoothed_differently_are_different(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], other: Smoothing | None
) -> None:
    first = smoothed_file(tmp_path / "a", smoothed_by(2, 0.5))
    second = smoothed_file(tmp_path / "b", other)
    assert run("diff", first, second) == 3
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "2 the same, 0 changed, 0 in one only"
    assert lines[1].startswith("the models were smoothed differently")
    assert run("diff", first, second, "--json") == 3
    assert json.loads(capsys.readouterr().out)["smoothed_alike"] is False


def test_the_same_factors_found_with_another_alpha_are_no_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = smoothed_file(tmp_path / "a", smoothed_by(2, 0.5))
    second = smoothed_file(tmp_path / "b", smoothed_by(2, 0.5, alpha=0.5))
    assert run("diff", first, second, "--json") == 0
    assert json.loads(capsys.readouterr().out)["smoothed_alike"] is True


def test_ranges_of_smoothed_tensors_become_no_tensorrt_cache(tmp_path: Path) -> None:
    source = smoothed_file(tmp_path / "a", smoothed_by(2, 0.5))
    assert refusal("convert", source, tmp_path / "new") == (
        "1 tensors of these ranges are smoothed; wanted ranges of the model's own tensors:"
        " TensorRT's cache has no place for factors; calibrate with smooth = 0 in the recipe."
    )
    assert not (tmp_path / "new").exists()


def test_a_smoothing_of_no_tensor_does_not_stop_a_tensorrt_cache(tmp_path: Path) -> None:
    source = smoothed_file(tmp_path / "a", Smoothing(alpha="auto"))
    run("convert", source, tmp_path / "new")
    assert (tmp_path / "new").read_text() == (
        "TRT-101401-EntropyCalibration2\nx: 3c010204\ny: 3da14285\n"
    )
