"""Scales that the plugins take, and how they reach a kernel."""

from __future__ import annotations

from typing import Final

import numpy as np

from trt_int8.errors import PluginError

# Sums of two rows of the largest scale stay below 2^28, so the squares of 4096 elements below 2^68,
# far from the largest float; the inverse of the smallest scale is finite. A calibrated tensor of
# halves has scales below 2^10.
MIN_SCALE: Final = 2.0**-64
MAX_SCALE: Final = 2.0**20


def check_scale(plugin: str, name: str, value: float, least: float = MIN_SCALE) -> None:
    """Refuse a scale that no calibrated tensor has.

    Raises:
        PluginError: it is NaN, not positive, or outside least .. MAX_SCALE.
    """
    if not least <= value <= MAX_SCALE:
        raise PluginError(
            f"{plugin} got {name} = {value}",
            wanted=f"a positive scale from {least:.3g} to {MAX_SCALE:.7g}",
            todo="calibrate again, or leave this node to TensorRT (--plugins off)",
        )


def inverse_scale(scale: float) -> float:
    """1 / scale, rounded to float32: kernels multiply by it instead of dividing."""
    return float(np.float32(1.0) / np.float32(scale))
