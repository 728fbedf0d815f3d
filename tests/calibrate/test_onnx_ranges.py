from __future__ import annotations

import numpy as np
import pytest

from tests.support.range_models import halver_onnx, ids
from trt_int8.calibrate.onnx_ranges import collect_onnx_ranges
from trt_int8.errors import GraphError, RangeError
from trt_int8.spec.recipe import CalibrationSettings

MAX = CalibrationSettings(method="max")
BATCHES = [ids([4, 30], [8, 2]), ids([1, 3, 5])]


def nothing() -> None:
    """Progress that nobody watches."""


def test_inner_tensors_and_outputs_get_the_ranges_of_their_values() -> None:
    found = collect_onnx_ranges(halver_onnx(), ("shifted", "half"), BATCHES, MAX, nothing)
    assert {name: r.amax for name, r in found.items()} == {"shifted": 9.5, "half": 15.0}


def test_the_estimator_is_the_one_of_the_settings() -> None:
    batch = ids([2] * 999 + [2000])
    clipped = CalibrationSettings(method="percentile", percentile=99)
    (found,) = collect_onnx_ranges(halver_onnx(), ("half",), [batch], clipped, nothing).values()
    assert found.amax == pytest.approx(1.0, abs=2 * 1000 / 2048)
    assert found.peak == 1000.0


def test_the_model_is_left_as_it_was() -> None:
    model = halver_onnx()
    before = model.SerializeToString()
    collect_onnx_ranges(model, ("half",), BATCHES, MAX, nothing)
    assert model.SerializeToString() == before


def test_progress_is_told_once_per_batch() -> None:
    ticks: list[int] = []
    collect_onnx_ranges(halver_onnx(), ("half",), BATCHES, MAX, lambda: ticks.append(1))
    assert len(ticks) == 2


def test_a_tensor_of_zeros_is_refused_by_name() -> None:
    with pytest.raises(RangeError, match=r"calibration of 'half' gave 0\.0"):
        collect_onnx_ranges(halver_onnx(), ("half",), [ids([0, 0])], MAX, nothing)


def test_infinity_is_refused_by_name() -> None:
    model = halver_onnx()
    model.graph.initializer[0].float_data[0] = np.inf
    with pytest.raises(RangeError, match="tensor 'half' holds NaN or infinity"):
        collect_onnx_ranges(model, ("half",), BATCHES, MAX, nothing)


def test_inputs_of_a_wrong_type_are_refused() -> None:
    batch = {"ids": np.ones((1, 3), np.int32)}
    with pytest.raises(GraphError, match=r"ONNX Runtime cannot run the model \(.*int32"):
        collect_onnx_ranges(halver_onnx(), ("half",), [batch], MAX, nothing)  # type: ignore[list-item]


def test_a_graph_that_onnx_runtime_cannot_load_is_refused() -> None:
    model = halver_onnx()
    model.graph.node[1].op_type = "NoSuchOperator"
    with pytest.raises(GraphError, match=r"ONNX Runtime cannot run the model \(.*NoSuchOperator"):
        collect_onnx_ranges(model, ("half",), BATCHES, MAX, nothing)


def test_an_error_of_the_progress_display_is_not_blamed_on_the_model() -> None:
    def broken() -> None:
        raise ValueError("display")

    with pytest.raises(ValueError, match=r"^display$"):
        collect_onnx_ranges(halver_onnx(), ("half",), BATCHES, MAX, broken)


def test_an_input_that_is_missing_is_refused() -> None:
    with pytest.raises(GraphError, match=r"ONNX Runtime cannot run the model \(.*ids"):
        collect_onnx_ranges(halver_onnx(), ("half",), [{}], MAX, nothing)
