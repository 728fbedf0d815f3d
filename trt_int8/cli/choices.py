"""Values of options that several commands share."""

from __future__ import annotations

from enum import Enum


class PrecisionChoice(str, Enum):
    """Values of `--precision`."""

    INT8 = "int8"
    FP16 = "fp16"
