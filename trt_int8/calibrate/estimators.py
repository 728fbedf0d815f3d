"""From the values of one tensor to its range, with pytorch-quantization's calibrators."""

from __future__ import annotations

import math
from typing import Any

import torch
from pytorch_quantization import calib

from trt_int8.annotate.torch_model import silent_absl
from trt_int8.errors import RangeError
from trt_int8.spec.ranges import TensorRange
from trt_int8.spec.recipe import CalibrationSettings


def make_calibrator(settings: CalibrationSettings) -> Any:
    """A fresh calibrator; feed it with `collect(tensor)`."""
    if settings.method == "max":
        return calib.MaxCalibrator(num_bits=8, axis=None, unsigned=False)
    return calib.HistogramCalibrator(num_bits=8, axis=None, unsigned=False)


def method_name(settings: CalibrationSettings) -> str:
    """`max` or `percentile:<p>`, as recorded in range tables."""
    return "max" if settings.method == "max" else f"percentile:{settings.percentile:g}"


def find_range(name: str, calibrator: Any, settings: CalibrationSettings) -> TensorRange:
    """Range of a tensor from what its calibrator collected.

    `max`: amax = max |x|. `percentile` p: the first of 2,048 or more histogram edges with at least
    p % of all |x| below it.

    Raises:
        RangeError: no data, NaN, infinity, or zeros only.
    """
    with silent_absl():
        if settings.method == "max":
            amax = peak = calibrator.compute_amax()
        elif calibrator._calib_hist is None:
            amax = peak = None
        else:
            amax = calibrator.compute_amax("percentile", percentile=settings.percentile)
            peak = calibrator._calib_bin_edges[-1]
    if amax is None:
        raise RangeError(
            f"no calibration data reached {name!r}",
            wanted="every quantized tensor to be computed",
            todo="add it to 'keep' in the recipe",
        )
    found = TensorRange(amax=float(amax), peak=float(peak))
    if not (math.isfinite(found.amax) and found.amax > 0):
        raise RangeError(
            f"calibration of {name!r} gave {found.amax}",
            wanted="a finite range > 0",
            todo="check model and texts, or add it to 'keep' in the recipe",
        )
    return found


def collect(calibrator: Any, tensor: torch.Tensor, name: str) -> None:
    """Feed one batch of a tensor.

    Raises:
        RangeError: it holds NaN or infinity.
    """
    if not bool(torch.isfinite(tensor).all()):
        raise RangeError(
            f"tensor {name!r} holds NaN or infinity during calibration",
            wanted="finite values",
            todo="check the model on this text, or add the tensor to 'keep' in the recipe",
        )
    with silent_absl():
        calibrator.collect(tensor)
