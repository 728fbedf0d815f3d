"""Factors that move outliers of activations into the weights that read them (SmoothQuant)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Annotated, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from trt_int8.errors import RangeError
from trt_int8.spec.base import Frozen

AUTO: Final = "auto"
Alpha = Literal["auto"] | Annotated[float, Field(gt=0, le=1)]
Factors = NDArray[np.float32]
_STORED = np.dtype("<f4")
# The reciprocals of the largest and the smallest float16 number.
_LEAST, _MOST = 1 / 65504, 2.0**24


class Smoothing(Frozen):
    """What the channels of each smoothed activation are divided by.

    Attributes:
        alpha: how much of the outliers goes into the weights, above 0, at most 1; `auto` for the
            best of each activation.
        factors: by site, each of them that was divided: base64 of the factors, float32, little
            endian, one per channel. A model has too many for readable JSON.
    """

    alpha: Alpha
    factors: dict[str, str] = Field(default_factory=dict)

    @classmethod
    def of(cls, alpha: Alpha, factors: Mapping[str, Factors]) -> Smoothing:
        """The value object of factors float32 [K] by site."""
        return cls(alpha=alpha, factors={name: _written(each) for name, each in factors.items()})

    @classmethod
    def planned(cls, alpha: Alpha | Literal[0]) -> Smoothing | None:
        """With this alpha, before its factors are known; None for 0."""
        return cls(alpha=alpha) if alpha else None

    def arrays(self) -> dict[str, Factors]:
        """The factors by site, float32 [K]."""
        return {name: _read(text) for name, text in self.factors.items()}

    @field_validator("factors")
    @classmethod
    def _usable(cls, given: dict[str, str]) -> dict[str, str]:
        for name, text in given.items():
            try:
                factors = _read(text)
            except (binascii.Error, ValueError):
                raise _refused(name, "are not base64 of float32 numbers") from None
            if not (factors.size and np.isfinite(factors).all() and (factors > 0).all()):
                raise _refused(name, "are not all finite and above 0")
            if not (factors.min() > _LEAST and factors.max() < _MOST):
                raise _refused(name, "have reciprocals that float16 does not hold")
            if _written(factors) != text:
                raise _refused(name, "have another spelling than they are written in")
        return given


def _refused(name: str, why: str) -> RangeError:
    return RangeError(
        f"the smoothing factors of {name!r} {why}",
        wanted="one finite factor above 0 per channel",
        todo="calibrate again",
    )


def _written(factors: Factors) -> str:
    return base64.b64encode(np.ascontiguousarray(factors, _STORED).tobytes()).decode("ascii")


def _read(text: str) -> Factors:
    stored = base64.b64decode(text.encode("ascii"), validate=True)
    return np.frombuffer(stored, _STORED).astype(np.float32)
