"""From calibration data to the twins' islands."""

from __future__ import annotations

import numpy as np
import pytest

from tests.graph.test_islands import X, two_layers
from tests.support.onnx_tiny import noise
from trt_int8.pipeline.data import PreparedModel
from trt_int8.pipeline.overflow import find_overflows
from trt_int8.pipeline.progress import SilentReporter


def prepared(large: float, *, calibrated: bool = True) -> PreparedModel:
    fp32, int8 = two_layers("linear", large), two_layers("qdq", large)
    batches = [{"x": X}]
    used = tuple(batches) if calibrated else ()
    return PreparedModel(fp32, int8, None, batches, "", (), used)


@pytest.mark.parametrize("calibrated", [True, False])
def test_tensors_of_both_twins_are_looked_at(calibrated: bool) -> None:
    found = find_overflows(prepared(2e5, calibrated=calibrated), SilentReporter())
    assert {each.tensor for each in found.overflow} == {"first", "second", "large"}
    assert found.fp32["large"] > 65504
    assert found.int8["large"] == pytest.approx(found.fp32["large"], rel=0.2)
    (note,) = found.notes
    assert note.startswith("3 tensors may not fit float16 and are kept out of it in both twins; l")


def test_a_model_far_below_the_end_of_float16_is_looked_at_once() -> None:
    found = find_overflows(prepared(20.0), SilentReporter())
    assert found.fp32["large"] < 100
    assert (found.int8, found.overflow, found.notes) == ({}, (), ())


def test_a_model_that_cannot_be_looked_at_says_so_and_builds_as_before() -> None:
    odd = prepared(2e5).__class__(
        **{**vars(prepared(2e5)), "calibration": ({"x": np.asarray(noise(1, 2, 3))},)}
    )
    found = find_overflows(odd, SilentReporter())
    assert (found.fp32, found.int8) == ({}, {})
    assert found.notes[0].startswith("float16 overflow was not looked for (ONNX Runtime cannot")
