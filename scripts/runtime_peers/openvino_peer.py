"""OpenVINO on the CPU: the float32 model under an inference precision, and our Q/DQ graph bare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from scripts.runtime_peers.context import Context, Prepared
from trt_int8.calibrate.texts import TokenArrays


def prepare_float(context: Context, *, precision: str, fixed: bool = False) -> Prepared:
    """The float32 ONNX file; `precision` is the hint, `f32` or `bf16`."""
    return prepare_model(
        context, read_model(context.float_onnx), {"precision": precision}, fixed=fixed
    )


def prepare_bundle(context: Context, *, precision: str, fixed: bool = False) -> Prepared:
    """The bundle's Q/DQ graph, straight in OpenVINO."""
    model = read_model(context.bundle / "model.int8.onnx")
    return prepare_model(context, model, {"precision": precision}, fixed=fixed)


def read_model(path: Path) -> Any:
    """Read an ONNX file, or OpenVINO's own format, into an OpenVINO model."""
    return openvino.Core().read_model(path)


def prepare_model(
    context: Context, model: Any, settings: dict[str, Any], *, fixed: bool = False
) -> Prepared:
    """Compile for latency: one stream, all threads on one request.

    Args:
        context: threads.
        model: OpenVINO model with dynamic axes.
        settings: `precision`, and more for the record.
        fixed: compile a copy for every shape that comes, instead of one with dynamic axes.
    """
    config = compile_config(context.threads, settings["precision"])
    models: dict[tuple[int, ...], Any] = {}
    requests: dict[tuple[int, ...], Any] = {}

    def request_for(shape: tuple[int, ...]) -> Any:
        if shape not in requests:
            copy = model.clone()
            if fixed:
                copy.reshape({port.any_name: list(shape) for port in copy.inputs})
            models[shape] = openvino.Core().compile_model(copy, "CPU", config)
            requests[shape] = models[shape].create_infer_request()
        return requests[shape]

    def run(feeds: TokenArrays) -> NDArray[np.float32]:
        request = request_for(next(iter(feeds.values())).shape if fixed else ())
        # Inputs are shared; the output is copied, for the next call writes into the same memory.
        found = request.infer(feeds, share_inputs=True, share_outputs=False)
        array: NDArray[np.float32] = found[0]
        return array

    def compiled(feeds: TokenArrays) -> Any:
        run(feeds)
        return models[next(iter(feeds.values())).shape if fixed else ()]

    return Prepared(run, {**config, **settings, "fixed_shapes": fixed}, compiled)


def compile_config(threads: int, precision: str) -> dict[str, Any]:
    """Properties that `compile_model` is given."""
    return {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": precision,
    }
