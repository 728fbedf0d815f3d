"""Calibrated ranges: one amax per quantized activation."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from typing import Any, Literal

from pydantic import Field, ModelWrapValidatorHandler, computed_field, model_validator

from trt_int8.errors import RangeError
from trt_int8.spec.base import Frozen
from trt_int8.spec.smoothing import Alpha, Smoothing

FORMAT = "trt_int8-ranges-3"
_QMAX = 127


class TensorRange(Frozen):
    """What calibration saw and chose for one tensor, in tensor units.

    Attributes:
        amax: the range kept; the scale is amax / 127.
        peak: the largest |x| seen (amax < peak means values above amax are clipped); equal to amax
            if only the range is known.
    """

    amax: float
    peak: float

    @property
    def scale(self) -> float:
        """Real value of one INT8 step: float32(amax) / 127, divided in float32.

        An amax that is exactly 127 times a float32 number gives that number: a scale read from
        elsewhere comes back as it was, and 1 in 128 of them is no float32 divided by 127.
        It may be 0 or infinity, where float32 cannot hold it.
        """
        nearest = _float32(self.amax / _QMAX)
        if nearest * _QMAX == self.amax:  # exact in float64: 24 and 7 bits
            return nearest
        # A float64 quotient, rounded again, is the float32 quotient: 53 bits >= 2 * 24 + 2
        # (S. Figueroa, "When is double rounding innocuous?", 1995).
        return _float32(_float32(self.amax) / _QMAX)


class AffineRange(Frozen):
    """An asymmetric range of one tensor: scale (high - low) / 255 and a zero point.

    For the CPU and for simulation (OpenVINO, ONNX Runtime). TensorRT and TensorRT-RTX refuse a
    zero point other than 0, so no recipe of a build takes it.

    Attributes:
        low: its lower end, <= 0.
        high: its upper end, >= low.
    """

    low: float
    high: float

    @property
    def scale(self) -> float:
        """Real value of one of the 255 steps."""
        return (self.high - self.low) / 255

    @property
    def zero_point(self) -> int:
        """Code of 0.0, 0 to 255 (Bondarenko 2021, asymmetric uniform quantization)."""
        return min(max(round(-self.low / self.scale), 0), 255) if self.scale > 0 else 0


class RangeTable(Frozen):
    """Ranges of a whole model, and what they were made from.

    Its JSON form has one more key, `sha256`: see the property. A table is made without it; where
    it is given, it must fit.

    Attributes:
        format: name and number of the JSON form.
        method: a label such as `max` or `percentile:99.995`; `tensorrt:<calibrator>` if TensorRT
            made the ranges.
        samples: calibration texts used; 0 if unknown.
        model_sha256: hash of the model files; empty if unknown.
        data_sha256: hash of the calibration texts in order; empty if unknown.
        versions: of the packages that made the ranges, by name.
        ranges: by site name (PyTorch) or tensor name (ONNX).
        order: all tensors of the TensorRT cache the ranges were read from, in its order; those for
            which TensorRT had no range are only here. Else empty.
        smoothing: what the activations were divided by before they were looked at; None if they
            were taken as they are.
    """

    format: str = FORMAT
    method: str
    samples: int
    model_sha256: str
    data_sha256: str
    versions: dict[str, str] = Field(default_factory=dict)
    ranges: dict[str, TensorRange]
    order: tuple[str, ...] = ()
    smoothing: Smoothing | None = None

    @computed_field(repr=False)  # type: ignore[prop-decorator]
    @property
    def sha256(self) -> str:
        """Hash of the JSON text without the line of this key; 64 hex digits."""
        # Base.to_json would ask for this very property.
        fields = json.loads(self.model_dump_json(exclude={"sha256"}))
        text = json.dumps(fields, indent=1, sort_keys=True) + "\n"
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def smooth(self) -> Alpha | Literal[0]:
        """The alpha of its smoothing; 0 without."""
        return 0 if self.smoothing is None else self.smoothing.alpha

    @property
    def without_range(self) -> tuple[str, ...]:
        """Tensors of `order` that have no range."""
        return tuple(name for name in self.order if name not in self.ranges)

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

    @model_validator(mode="wrap")
    @classmethod
    def _unedited(cls, data: Any, build: ModelWrapValidatorHandler[RangeTable]) -> RangeTable:
        # Defined last, so it runs around the others: an unusable number is named first.
        if not (isinstance(data, dict) and "sha256" in data):
            return build(data)
        table = build({key: value for key, value in data.items() if key != "sha256"})
        if data["sha256"] != table.sha256:
            raise RangeError(
                f"the range table was edited: its checksum is {data['sha256']!r},"
                f" that of its content {table.sha256!r}",
                wanted="a table as it was written",
                todo="calibrate again",
            )
        return table


def _float32(value: float) -> float:
    """The nearest float32, ties to even; infinity above the largest one."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return math.inf
