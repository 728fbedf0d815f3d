"""From what a calibrator collected to the range of its tensor."""

from __future__ import annotations

from trt_int8.calibrate.histogram import HistogramCalibrator
from trt_int8.errors import RangeError
from trt_int8.spec.ranges import TensorRange
from trt_int8.spec.recipe import CalibrationSettings


def method_name(settings: CalibrationSettings) -> str:
    """`max` or `percentile:<p>`, as recorded in range tables; all digits of p."""
    return "max" if settings.method == "max" else f"percentile:{settings.percentile!r}"


def find_range(calibrator: HistogramCalibrator, settings: CalibrationSettings) -> TensorRange:
    """Range of a tensor by the method of the settings.

    Raises:
        RangeError: no data, or zeros only.
    """
    amax = calibrator.compute_amax(settings.method, percentile=settings.percentile)
    if amax is None:
        raise RangeError(
            f"no calibration data reached {calibrator.name!r}",
            wanted="every quantized tensor to be computed",
            todo="add it to 'keep' in the recipe",
        )
    if calibrator.peak == 0:
        raise RangeError(
            f"calibration of {calibrator.name!r} gave {calibrator.peak}",
            wanted="a finite range > 0",
            todo="check model and texts, or add it to 'keep' in the recipe",
        )
    return TensorRange(amax=float(amax), peak=calibrator.peak)
