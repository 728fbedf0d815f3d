"""Calibrated ranges: one amax per quantized activation."""

from __future__ import annotations

import math

from pydantic import model_validator

from trt_int8.errors import RangeError
from trt_int8.spec.base import Frozen


class TensorRange(Frozen):
    """What calibration saw and chose for one tensor, in tensor units.

    Attributes:
        amax: the range kept; the scale is amax / 127.
        peak: the largest |x| seen (amax < peak means values above amax are clipped).
    """

    amax: float
    peak: float


class RangeTable(Frozen):
    """Ranges of a whole model, and what they were made from.

    Attributes:
        method: `max` or `percentile:<p>`.
        samples: calibration texts used.
        model_sha256: hash of the model files.
        data_sha256: hash of the calibration texts in order.
        ranges: by site name (PyTorch) or tensor name (ONNX).
    """

    format: str = "trt_int8-ranges-1"
    method: str
    samples: int
    model_sha256: str
    data_sha256: str
    ranges: dict[str, TensorRange]

    @model_validator(mode="after")
    def _usable(self) -> RangeTable:
        bad = [
            name
            for name, r in self.ranges.items()
            if not (math.isfinite(r.amax) and math.isfinite(r.peak) and r.amax > 0)
        ]
        if bad:
            first = self.ranges[bad[0]]
            raise RangeError(
                f"the range of {bad[0]!r} has amax {first.amax} and peak {first.peak}"
                f" ({len(bad)} such tensors)",
                wanted="a finite amax > 0 and a finite peak",
                todo="check the calibration texts, or add the tensor to 'keep' in the recipe",
            )
        return self
