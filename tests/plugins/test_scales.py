from __future__ import annotations

import math
import struct

import pytest

from trt_int8.errors import PluginError
from trt_int8.plugins.scales import MAX_SCALE, MIN_SCALE, check_scale, inverse_scale


@pytest.mark.parametrize("value", [0.0, -0.1, math.nan, math.inf, MIN_SCALE / 2, MAX_SCALE * 2])
def test_a_scale_outside_the_range_is_refused_by_name(value: float) -> None:
    with pytest.raises(PluginError, match=f"Some got x_scale = {value}; wanted a positive scale"):
        check_scale("Some", "x_scale", value)


@pytest.mark.parametrize("value", [MIN_SCALE, 1.0, MAX_SCALE])
def test_scales_of_the_range_are_taken_and_have_a_finite_inverse(value: float) -> None:
    check_scale("Some", "x_scale", value)
    assert 0 < inverse_scale(value) < math.inf


def test_the_inverse_is_that_of_the_scale_as_float32() -> None:
    scale_bits = struct.unpack("<f", struct.pack("<f", 0.26))[0]
    nearest = struct.unpack("<f", struct.pack("<f", 1 / scale_bits))[0]
    assert inverse_scale(0.26) == nearest
    assert inverse_scale(0.26) != 1 / 0.26
