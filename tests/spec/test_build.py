from __future__ import annotations

from trt_int8.spec.build import BuildRequest, Flavour
from trt_int8.spec.shapes import InputShape


def test_a_request_survives_the_way_to_the_worker() -> None:
    request = BuildRequest(
        flavour=Flavour.TENSORRT,
        onnx_path="m.onnx",
        engine_path="e",
        evidence_path="l",
        sm=None,
        shapes=(InputShape(name="ids", min=(1, 3), opt=(2, 5), max=(7, 11)),),
        timing_cache=None,
        plugin_libraries=("libodd.so",),
    )
    assert BuildRequest.model_validate_json(request.to_json()) == request


def test_the_flavours_are_plain_words_in_json() -> None:
    assert [flavour.value for flavour in Flavour] == ["rtx", "tensorrt"]
