"""ONNX Runtime on the CPU: float32, dynamic and static quantization by its own tools."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

from scripts.runtime_peers.context import Context, Prepared
from trt_int8.calibrate.texts import TokenArrays


def prepare_float(context: Context) -> Prepared:
    """The float32 model as it is."""
    return prepare_file(context, context.float_onnx, {})


def prepare_dynamic(context: Context) -> Prepared:
    """`quantize_dynamic` with int8 weights: the scale of each activation is found at run time."""
    path = context.folder / "ort_dynamic.onnx"
    quantization.quantize_dynamic(
        _preprocessed(context), path, weight_type=quantization.QuantType.QInt8, per_channel=True
    )
    return prepare_file(context, path, {"quantize_dynamic": "QInt8, per channel"})


def prepare_static(
    context: Context, *, method: str, unsigned: bool, operators: tuple[str, ...]
) -> Prepared:
    """`quantize_static` in Q/DQ form, 8-bit weights per channel.

    Args:
        context: the model.
        method: name of a `CalibrationMethod`.
        unsigned: U8 activations with a zero point, as its guide advises for x86; else S8.
        operators: types to quantize; empty for all that it can.
    """
    kind = "u8" if unsigned else "s8"
    path = context.folder / f"ort_static_{method}_{kind}_{'_'.join(operators) or 'all'}.onnx"
    kinds = quantization.QuantType
    if not path.exists():
        quantization.quantize_static(
            _preprocessed(context),
            path,
            _Reader(context, None if method == "MinMax" else _HISTOGRAM_SAMPLES),
            quant_format=quantization.QuantFormat.QDQ,
            calibrate_method=getattr(quantization.CalibrationMethod, method),
            op_types_to_quantize=list(operators) or None,
            activation_type=kinds.QUInt8 if unsigned else kinds.QInt8,
            weight_type=kinds.QInt8,
            per_channel=True,
            extra_options={"ActivationSymmetric": not unsigned},
        )
    told = f"QDQ, {method}, activations {kind}, per channel, {', '.join(operators) or 'all types'}"
    return prepare_file(context, path, {"quantize_static": told})


# Its histograms keep every activation of every sample in memory: 50 MB each at 128 tokens.
_HISTOGRAM_SAMPLES, _HISTOGRAM_TOKENS = 48, 64


def prepare_file(context: Context, path: Path, settings: dict[str, Any]) -> Prepared:
    """A session of an ONNX file that gives sentence embeddings as its first output."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = context.threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])

    def run(feeds: TokenArrays) -> NDArray[np.float32]:
        found: NDArray[np.float32] = session.run(None, feeds)[0]
        return found

    known = {"graph_optimization": "all", "intra_op_num_threads": context.threads}
    return Prepared(run, {**known, **settings, "spinning": "default, settled between turns"})


def _preprocessed(context: Context) -> Path:
    path = context.folder / "ort_preprocessed.onnx"
    if not path.exists():
        quant_pre_process(context.float_onnx, path, skip_symbolic_shape=True)
    return path


class _Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Feeds calibration samples one at a time.

    For histograms, which take samples of one length only, they are cut and padded to that.
    """

    def __init__(self, context: Context, limit: int | None) -> None:
        samples = context.calibration[:limit]
        if limit is not None:
            samples = [_to_length(sample, _HISTOGRAM_TOKENS) for sample in samples]
        self._left: Iterator[TokenArrays] = iter(samples)

    def get_next(self) -> TokenArrays | None:
        """The next sample; None at the end."""
        return next(self._left, None)


def _to_length(sample: TokenArrays, length: int) -> TokenArrays:
    missing = max(0, length - sample["input_ids"].shape[1])
    return {
        name: np.pad(array[:, :length], ((0, 0), (0, missing))) for name, array in sample.items()
    }
