"""The Mul of smoothing in engines of TensorRT-RTX: part of kernels that are there anyway."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pipeline.conftest import tiny_options
from trt_int8.pipeline.build import run_build
from trt_int8.pipeline.inspect import run_inspect
from trt_int8.pipeline.progress import SilentReporter
from trt_int8.spec.inspection import EngineInspection
from trt_int8.spec.recipe import Recipe
from trt_int8.spec.targets import parse_targets


def engines(inputs: Path, out: Path, smooth: float) -> dict[str, EngineInspection]:
    options = tiny_options(
        inputs, out=out, recipe=Recipe(smooth=smooth), targets=parse_targets("t4,a100")
    )
    run_build(options, SilentReporter())
    return {engine.name: engine for engine in run_inspect(out).engines}


@pytest.mark.slow
def test_a_smoothed_model_has_as_many_kernels_and_all_of_its_matmuls_int8(
    tiny_inputs: Path, tmp_path: Path
) -> None:
    plain = engines(tiny_inputs, tmp_path / "plain", 0)
    smoothed = engines(tiny_inputs, tmp_path / "smoothed", 0.5)
    assert len(plain) == 4
    assert plain.keys() == smoothed.keys()
    for key, engine in smoothed.items():
        assert engine.kernels
        assert len(engine.kernels) == len(plain[key].kernels or ())
        assert engine.attentions_int8 == plain[key].attentions_int8
        assert [m.runs for m in engine.matmuls] == [m.runs for m in plain[key].matmuls]
