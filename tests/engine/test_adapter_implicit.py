"""The adapter when a request asks for implicit INT8."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from tests.support.fake_tensorrt import FakeTensorRT
from trt_int8.engine import implicit as calibrators
from trt_int8.engine.adapter import Adapter, ProgressSink
from trt_int8.errors import CalibrationError, EngineError, TargetError
from trt_int8.spec.build import BuildRequest, Flavour, ImplicitInt8
from trt_int8.spec.shapes import InputShape

SHAPE = InputShape(name="ids", min=(1, 7), opt=(3, 19), max=(5, 33))
IMPLICIT = ImplicitInt8(calibrator="minmax", cache_path="a/calib.cache", batches_path="b.npz")


def build(trt: FakeTensorRT, implicit: ImplicitInt8 | None = IMPLICIT) -> None:
    request = BuildRequest(
        flavour=Flavour.TENSORRT,
        onnx_path="folder/model.onnx",
        engine_path="e",
        evidence_path="l",
        sm=None,
        profiles=((SHAPE,),),
        implicit=implicit,
    )
    Adapter(Flavour.TENSORRT, cast(ModuleType, trt)).build(request, ProgressSink())


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What calibrators were asked for; each asked for is the text "calibrator"."""
    asked: list[tuple[Any, ...]] = []

    def make(trt: object, *arguments: Any) -> str:
        asked.append(arguments)
        return "calibrator"

    monkeypatch.setattr(calibrators, "make_calibrator", make)
    return asked


def test_implicit_int8_lets_tensorrt_choose_types_and_allows_both(made: list[object]) -> None:
    trt = FakeTensorRT()
    build(trt)
    assert trt.argument("create_network") == 0b01
    assert [call[1] for call in trt.calls if call[0] == "set_flag"] == ["FP16", "INT8"]


def test_the_calibrator_is_attached_with_the_profile_of_the_build(made: list[object]) -> None:
    trt = FakeTensorRT()
    build(trt)
    assert trt.argument("build_serialized_network").int8_calibrator == "calibrator"
    assert trt.argument("set_calibration_profile") is trt.argument("add_optimization_profile")


def test_the_calibrator_is_told_its_files_and_the_networks_inputs(made: list[object]) -> None:
    trt = FakeTensorRT()
    trt.inputs = {"ids": "int32", "mask": "bool"}
    build(trt)
    assert made == [(IMPLICIT, (SHAPE,), {"ids": np.dtype("int32"), "mask": np.dtype("bool")})]


def test_without_implicit_int8_there_is_no_calibrator(made: list[object]) -> None:
    trt = FakeTensorRT()
    build(trt, implicit=None)
    assert trt.argument("build_serialized_network").int8_calibrator is None
    assert made == []
    assert "set_calibration_profile" not in trt.names()


def test_implicit_int8_is_refused_where_there_are_no_calibrators_before_anything_is_done(
    made: list[object],
) -> None:
    trt = FakeTensorRT()
    trt.BuilderFlag = SimpleNamespace(FP16="FP16")
    with pytest.raises(TargetError, match=r"TensorRT 10\.99 has no INT8 calibrators"):
        build(trt)
    assert trt.calls == made == []


def test_batches_that_cannot_be_read_end_the_build_before_it_begins() -> None:
    trt = FakeTensorRT()
    with pytest.raises(CalibrationError, match=r"'b\.npz' cannot be read"):
        build(trt)
    assert "build_serialized_network" not in trt.names()


def test_a_failed_build_with_implicit_int8_points_at_the_calibration_cache(
    made: list[object],
) -> None:
    match = r"delete 'calib\.cache' \(it may be of another TensorRT\)"
    with pytest.raises(EngineError, match=match):
        build(FakeTensorRT(plan=None))
