"""From built engines to coverage: evidence that does not fit is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pipeline.conftest import Built
from trt_int8.errors import CoverageError
from trt_int8.pipeline import engines
from trt_int8.spec.build import BuildRequest, BuildResult, Flavour

pytestmark = pytest.mark.xdist_group("tiny-bundle")


def test_an_engine_that_names_another_target_is_refused(built: Built, tmp_path: Path) -> None:
    evidence = tmp_path / "layers"
    evidence.write_text("Layers:\n", encoding="utf-8")
    request = BuildRequest(
        flavour=Flavour.RTX,
        onnx_path=str(built.outcome.bundle / "model.int8.onnx"),
        engine_path=str(built.outcome.bundle / "sm75" / "int8.engine"),
        evidence_path=str(evidence),
        sm=80,
        profiles=(),
    )
    result = BuildResult(tensorrt_version="1.7.1.116", engine_bytes=1, build_seconds=1)
    with pytest.raises(CoverageError, match=r"the engine for SM80 says it is for SM \(75,\)"):
        engines._coverage((), engines._Built(request, result, ("",)), "int8")


def test_engines_are_labelled_by_target_and_precision() -> None:
    assert engines.label(75, "int8") == "sm75 int8"
    assert engines.label(None, "fp16") == "local fp16"
