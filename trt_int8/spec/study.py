"""What a calibration study found: every method on every tensor, side by side."""

from __future__ import annotations

import math
from typing import Final

from pydantic import model_validator

from trt_int8.errors import RangeError
from trt_int8.spec.base import Frozen
from trt_int8.spec.recipe import Recipe

STUDY_PAGE = "calibration.html"
STUDY_FORMAT: Final = "trt_int8-study-1"


class MethodResult(Frozen):
    """One method over all tensors.

    Attributes:
        method: its label, for example `percentile:99.99`.
        about: one line for people.
        symmetric: one amax per tensor, as TensorRT needs it; else affine ranges.
        seconds: time to find the ranges from the statistics.
        mean_sqnr_db: mean over the tensors, in dB; None if the method failed.
        min_sqnr_db: of the worst tensor, in dB; None if the method failed.
        clipped_tensors: how many tensors have values beyond their range.
        output_cosine_mean: mean over held-out texts of the cosine between the model's output with
            these ranges (fake-quantized) and the float one; None where it was not measured.
        output_cosine_min: the worst text.
        failure: why the method gave no ranges.
    """

    method: str
    about: str
    symmetric: bool
    seconds: float
    mean_sqnr_db: float | None
    min_sqnr_db: float | None
    clipped_tensors: int
    output_cosine_mean: float | None = None
    output_cosine_min: float | None = None
    failure: str | None = None


class TensorThreshold(Frozen):
    """What one method chose for one tensor.

    Attributes:
        method: its label.
        low: lower end of the range, in tensor units; -amax for a symmetric method.
        high: upper end; amax for a symmetric method.
        sqnr_db: signal to quantization noise of the tensor with this range, in dB.
        clipped_share: share of the values beyond the range, 0 to 1.
    """

    method: str
    low: float
    high: float
    sqnr_db: float
    clipped_share: float


class CoarseHistogram(Frozen):
    """Counts of a tensor's values in few bins, for drawing.

    Bin k holds k * width <= x < (k + 1) * width for k > 0, the mirror image for k < 0, and all
    |x| < width for k = 0.

    Attributes:
        width: width of a bin, in tensor units.
        first: the number k of the first bin.
        counts: of the bins from `first` on.
    """

    width: float
    first: int
    counts: tuple[int, ...]

    def edges(self, bin_number: int) -> tuple[float, float]:
        """Lower and upper end of bin k, in tensor units."""
        below = bin_number if bin_number > 0 else bin_number - 1
        above = bin_number if bin_number < 0 else bin_number + 1
        return below * self.width, above * self.width


class OutlierChannel(Frozen):
    """A channel whose values lie far beyond those of the others.

    Attributes:
        channel: its number.
        peak: its largest |x|, in tensor units.
        sigmas: its distance from the tensor's mean, in standard deviations of the tensor.
    """

    channel: int
    peak: float
    sigmas: float


class TensorStudy(Frozen):
    """One tensor: what it looks like and what each method made of it.

    Attributes:
        name: site name (PyTorch) or tensor name (ONNX).
        count: number of values seen.
        low: smallest value.
        high: largest value.
        histogram: of all values.
        channels: number of channels; 0 if it has no fixed ones.
        outlier_channels: largest peak first.
        near_fp16_overflow: a LayerNorm computed in float16 from these values may overflow.
        thresholds: one per method that gave ranges.
    """

    name: str
    count: int
    low: float
    high: float
    histogram: CoarseHistogram
    channels: int
    outlier_channels: tuple[OutlierChannel, ...]
    near_fp16_overflow: bool
    thresholds: tuple[TensorThreshold, ...]

    @property
    def peak(self) -> float:
        """Largest |x|."""
        return max(-self.low, self.high)

    @property
    def is_flagged(self) -> bool:
        """Something about the tensor calls for a look, whatever the method."""
        return self.near_fp16_overflow or bool(self.outlier_channels)

    def of(self, method: str) -> TensorThreshold | None:
        """What the method of this label chose; None if it failed."""
        return next((t for t in self.thresholds if t.method == method), None)


class CalibrationStudy(Frozen):
    """Several methods on one model and one set of texts.

    Attributes:
        model: its name.
        model_sha256: hash of the model files.
        data_sha256: hash of the calibration texts in order.
        samples: calibration texts.
        texts_held_out: texts the output cosines were measured on.
        recipe: what is quantized.
        methods: in the order asked for.
        tensors: in the order of the model.
        recommended: label of the method to use; None if none can be deployed.
    """

    format: str = STUDY_FORMAT
    model: str
    model_sha256: str
    data_sha256: str
    samples: int
    texts_held_out: int
    recipe: Recipe
    methods: tuple[MethodResult, ...]
    tensors: tuple[TensorStudy, ...]
    recommended: str | None

    @model_validator(mode="after")
    def _methods_are_known(self) -> CalibrationStudy:
        known = {result.method for result in self.methods}
        named = {t.method for tensor in self.tensors for t in tensor.thresholds}
        if self.recommended is not None:
            named.add(self.recommended)
        if named - known:
            raise RangeError(
                f"the study names the method {min(named - known)!r}",
                wanted=f"one of its methods: {', '.join(sorted(known))}",
                todo="add the result of that method",
            )
        return self

    def ranked(self) -> tuple[MethodResult, ...]:
        """The methods, best first: by output cosine, where there is none by mean SQNR."""
        return tuple(sorted(self.methods, key=rank))

    def flagged(self) -> tuple[TensorStudy, ...]:
        """The flagged tensors, most serious first: float16 overflow, then outliers by sigmas."""
        chosen = [tensor for tensor in self.tensors if tensor.is_flagged]
        return tuple(sorted(chosen, key=_seriousness))


def rank(result: MethodResult) -> tuple[float, float, float]:
    """Sort key, best first: cosine of the output, of its worst text, mean SQNR; NaN comes last."""
    numbers = (result.output_cosine_mean, result.output_cosine_min, result.mean_sqnr_db)
    first, second, third = (
        math.inf if value is None or math.isnan(value) else -value for value in numbers
    )
    return first, second, third


def recommend(results: tuple[MethodResult, ...]) -> str | None:
    """Label of the method whose ranges keep the output closest to float.

    Only symmetric methods with a measured, finite cosine count: TensorRT takes no others, and a
    tensor's SQNR does not tell how much its noise matters to the output.
    """
    usable = [
        result
        for result in results
        if result.symmetric and result.failure is None and math.isfinite(rank(result)[0])
    ]
    return min(usable, key=rank).method if usable else None


def _seriousness(tensor: TensorStudy) -> tuple[bool, float]:
    worst = max((channel.sigmas for channel in tensor.outlier_channels), default=0.0)
    return not tensor.near_fp16_overflow, -worst
