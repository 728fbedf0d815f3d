"""The opset of a graph."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from tests.support.onnx_tiny import Tiny, noise, run_ort
from trt_int8.graph.opset import fit_opset, opset_of, raise_opset


def turned(opset: int) -> onnx.ModelProto:
    """A Q/DQ pair in front of a Transpose."""
    tiny = Tiny()
    product = tiny.op("MatMul", tiny.pair("x", 0.02), tiny.const("w", noise(4, 6)), name="proj")
    tiny.op("Transpose", tiny.pair(product, 0.05), perm=[1, 0], out="y")
    return tiny.build({"x": [3, 4]}, {"y": [6, 3]}, opset=opset)


@pytest.mark.parametrize("opset", [17, 18, 20])
def test_an_opset_that_fits_stays(opset: int) -> None:
    model = turned(opset)
    assert fit_opset(model) is model


@pytest.mark.parametrize(
    ("opset", "wanted"), [(13, 17), (14, 17), (16, 17), (21, 20), (22, 20), (23, 20)]
)
def test_another_becomes_the_nearest_with_the_same_names_and_values(
    opset: int, wanted: int
) -> None:
    model = turned(opset)
    found = fit_opset(model)
    assert opset_of(found) == wanted
    assert [n.name for n in found.graph.node] == [n.name for n in model.graph.node]
    feeds = {"x": noise(3, 4, seed=3)}
    np.testing.assert_array_equal(run_ort(found, feeds)[0], run_ort(model, feeds)[0])


def loads(model: onnx.ModelProto) -> bool:
    """Whether ONNX Runtime takes it as a user would give it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except onnxruntime.capi.onnxruntime_pybind11_state.Fail:
        return False
    return True


def test_onnx_runtime_loads_it_then() -> None:
    assert (loads(turned(21)), loads(fit_opset(turned(21)))) == (False, True)


def test_what_has_no_older_form_stays() -> None:
    tiny = Tiny()
    tiny.op("RMSNormalization", "x", tiny.const("gain", noise(4)), out="y")
    model = tiny.build({"x": [3, 4]}, {"y": [3, 4]}, opset=23)
    assert fit_opset(model) is model


@pytest.mark.parametrize("opset", [13, 19])
def test_an_opset_with_an_axis_for_q_dq_is_left_alone(opset: int) -> None:
    model = turned(21)
    model.opset_import[0].version = opset
    assert raise_opset(model) is model
