"""Collect activation ranges of a float ONNX graph with ONNX Runtime."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import onnx
import onnxruntime
import torch

from trt_int8.calibrate.estimators import find_range
from trt_int8.calibrate.histogram import HistogramCalibrator
from trt_int8.calibrate.texts import TokenArrays
from trt_int8.errors import GraphError, first_line
from trt_int8.spec.ranges import TensorRange
from trt_int8.spec.recipe import CalibrationSettings


def collect_onnx_ranges(
    model: onnx.ModelProto,
    tensors: tuple[str, ...],
    batches: list[TokenArrays],
    settings: CalibrationSettings,
    advance: Callable[[], None],
) -> dict[str, TensorRange]:
    """Run the graph with the named tensors as extra outputs and find one range for each.

    Args:
        model: float graph.
        tensors: names of float tensors in it.
        batches: inputs by name, without padding.
        settings: the estimator.
        advance: called after each batch.

    Raises:
        GraphError: ONNX Runtime cannot run the graph on these inputs.
        RangeError: a tensor holds NaN or infinity, or only zeros.
    """
    calibrators = [HistogramCalibrator(name) for name in tensors]
    with _named_errors():
        session = _session_with_outputs(model, tensors)
    for batch in batches:
        with _named_errors():
            values = session.run(list(tensors), batch)
        for calibrator, value in zip(calibrators, values, strict=True):
            calibrator.collect(torch.from_numpy(value))
        advance()
    return {calibrator.name: find_range(calibrator, settings) for calibrator in calibrators}


@contextlib.contextmanager
def _named_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # ONNX Runtime's errors share no narrower base
        raise GraphError(
            f"ONNX Runtime cannot run the model ({first_line(error)})",
            wanted="a model that runs on these calibration inputs",
            todo="check the ONNX file and its tokenizer",
        ) from error


def _session_with_outputs(
    model: onnx.ModelProto, tensors: tuple[str, ...]
) -> onnxruntime.InferenceSession:
    observed = onnx.ModelProto()
    observed.CopyFrom(model)
    present = {output.name for output in observed.graph.output}
    observed.graph.output.extend(
        onnx.helper.make_empty_tensor_value_info(name) for name in tensors if name not in present
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        observed.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
