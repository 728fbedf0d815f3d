"""Collect activation ranges of an annotated PyTorch model."""

from __future__ import annotations

from collections.abc import Callable

import torch

from trt_int8.annotate.torch_model import AnnotatedModel, silent_absl
from trt_int8.calibrate.estimators import find_range
from trt_int8.calibrate.histogram import HistogramCalibrator
from trt_int8.calibrate.texts import TokenArrays
from trt_int8.errors import RangeError
from trt_int8.model.huggingface import TextModel
from trt_int8.spec.ranges import TensorRange
from trt_int8.spec.recipe import CalibrationSettings


def collect_ranges(
    model: TextModel,
    annotated: AnnotatedModel,
    batches: list[TokenArrays],
    settings: CalibrationSettings,
    advance: Callable[[], None],
) -> dict[str, TensorRange]:
    """Run the float model over the batches and find one range per activation site.

    Args:
        model: its wrapper is called with each batch.
        annotated: its quantizers collect, each with a new calibrator of ours.
        batches: int64 [B, S] arrays without padding.
        settings: the estimator.
        advance: called after each batch.

    Raises:
        RangeError: a site or an output is NaN or infinite, or a site saw no data or only zeros.
    """
    calibrators = [HistogramCalibrator(name) for name in annotated.activations]
    for calibrator in calibrators:
        annotated.activations[calibrator.name]._calibrator = calibrator
    annotated.enable(quantize=False, collect=True)
    with torch.no_grad():
        for batch in batches:
            outputs = model.wrapper(*(torch.from_numpy(batch[n]) for n in model.input_names))
            if not all(bool(torch.isfinite(output).all()) for output in outputs):
                raise RangeError(
                    "the float model gives NaN or infinity on a calibration text",
                    wanted="finite outputs",
                    todo="check the model and the calibration texts",
                )
            advance()
    annotated.enable(quantize=False)
    return {calibrator.name: find_range(calibrator, settings) for calibrator in calibrators}


def apply_ranges(annotated: AnnotatedModel, ranges: dict[str, TensorRange]) -> None:
    """Load ranges into the quantizers.

    Raises:
        RangeError: a site has no range.
    """
    missing = sorted(set(annotated.activations) - set(ranges))
    if missing:
        raise RangeError(
            f"no range for {missing[0]!r} ({len(missing)} missing)",
            wanted="one per quantized tensor",
            todo="delete the calibration cache and run again",
        )
    with silent_absl():
        for name, quantizer in annotated.activations.items():
            quantizer.amax = ranges[name].amax
