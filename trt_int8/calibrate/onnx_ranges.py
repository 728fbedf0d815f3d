"""Collect activation ranges of a float ONNX graph with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import onnxruntime
import torch

from trt_int8.calibrate.estimators import collect, find_range, make_calibrator
from trt_int8.calibrate.texts import TokenArrays
from trt_int8.errors import GraphError
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
    calibrators = {name: make_calibrator(settings) for name in tensors}
    try:
        session = _session_with_outputs(model, tensors)
        for batch in batches:
            for name, value in zip(tensors, session.run(list(tensors), batch), strict=True):
                collect(calibrators[name], torch.from_numpy(value), name)
            advance()
    except (RuntimeError, ValueError) as error:
        raise GraphError(
            f"ONNX Runtime cannot run the model ({str(error).splitlines()[0]})",
            wanted="a model that runs on these calibration inputs",
            todo="check the ONNX file and its tokenizer",
        ) from error
    return {name: find_range(name, calibrators[name], settings) for name in tensors}


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
