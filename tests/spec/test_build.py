from __future__ import annotations

import pytest
from pydantic import ValidationError

from trt_int8.spec.build import BuildRequest, Flavour, ImplicitInt8
from trt_int8.spec.shapes import InputShape


def test_a_request_survives_the_way_to_the_worker() -> None:
    request = BuildRequest(
        flavour=Flavour.TENSORRT,
        onnx_path="m.onnx",
        engine_path="e",
        evidence_path="l",
        sm=None,
        profiles=((InputShape(name="ids", min=(1, 3), opt=(2, 5), max=(7, 11)),),),
        timing_cache=None,
        plugin_libraries=("libodd.so",),
    )
    assert BuildRequest.model_validate_json(request.to_json()) == request


def test_the_flavours_are_plain_words_in_json() -> None:
    assert [flavour.value for flavour in Flavour] == ["rtx", "tensorrt"]


def test_implicit_int8_survives_the_way_to_the_build_process() -> None:
    implicit = ImplicitInt8(calibrator="minmax", cache_path="c ä.cache", batches_path="b.npz")
    request = BuildRequest(
        flavour=Flavour.TENSORRT,
        onnx_path="m.onnx",
        engine_path="m.engine",
        evidence_path="m.json",
        sm=None,
        profiles=(),
        implicit=implicit,
    )
    assert BuildRequest.model_validate_json(request.model_dump_json()).implicit == implicit


def test_a_calibrator_of_another_name_is_refused() -> None:
    with pytest.raises(ValidationError, match="'entropy2' or 'minmax'"):
        ImplicitInt8.model_validate({"calibrator": "legacy", "cache_path": "", "batches_path": ""})
