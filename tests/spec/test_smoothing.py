"""Smoothing factors as a value object: what is stored, and what is refused."""

from __future__ import annotations

import base64
import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from trt_int8.errors import RangeError
from trt_int8.spec.ranges import RangeTable, TensorRange
from trt_int8.spec.smoothing import Smoothing

# What float16 holds the reciprocals of.
POSITIVE = st.floats(2.0**-15, 2.0**23, width=32)
FACTORS = st.lists(POSITIVE, min_size=1, max_size=9).map(lambda v: np.array(v, np.float32))


def stored(*numbers: float) -> str:
    """Base64 of little-endian float32, written without NumPy."""
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def table(smoothing: Smoothing | None) -> RangeTable:
    ranges = {"a.input": TensorRange(amax=1.0, peak=2.0)}
    return RangeTable(
        method="max",
        samples=3,
        model_sha256="m",
        data_sha256="d",
        ranges=ranges,
        smoothing=smoothing,
    )


@settings(max_examples=40)
@given(st.dictionaries(st.text(max_size=5), FACTORS, max_size=4))
def test_factors_survive_the_json_form_of_their_table_bit_for_bit(
    factors: dict[str, NDArray[np.float32]],
) -> None:
    text = table(Smoothing.of("auto", factors)).to_json()
    read = RangeTable.model_validate_json(text)
    assert read.to_json() == text
    assert read.smoothing is not None
    found = read.smoothing.arrays()
    assert {n: (a.dtype.str, a.tobytes()) for n, a in found.items()} == {
        n: ("<f4", a.tobytes()) for n, a in factors.items()
    }


def test_factors_are_base64_of_little_endian_float32() -> None:
    made = Smoothing.of(0.5, {"a": np.array([0.5, 1.0, 3.25], ">f4")})
    assert made.factors == {"a": stored(0.5, 1.0, 3.25)}


def test_factors_that_are_not_contiguous_are_stored_in_their_order() -> None:
    every_other = np.arange(1, 8, dtype=np.float32)[::2]
    assert Smoothing.of(0.5, {"a": every_other}).factors == {"a": stored(1, 3, 5, 7)}


def test_arrays_may_be_written_to_without_changing_what_is_stored() -> None:
    smoothing = Smoothing.of(0.5, {"a": np.ones(3, np.float32)})
    smoothing.arrays()["a"][:] = 7
    assert smoothing.arrays()["a"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 0.0, -0.0, -1.5])
def test_factors_that_nothing_can_be_divided_by_are_refused(bad: float) -> None:
    with pytest.raises(RangeError, match="factors of 'b' are not all finite and above 0"):
        Smoothing(alpha=0.5, factors={"a": stored(1.0), "b": stored(1.0, bad, 2.0)})


def test_no_factors_at_all_for_a_site_are_refused() -> None:
    with pytest.raises(RangeError, match="'a' are not all finite and above 0"):
        Smoothing(alpha=0.5, factors={"a": ""})


@pytest.mark.parametrize(
    "text",
    ["AACAP", "AACA", "AACAPw=", "AACA!w==", "AACAPw==\n", " AACAPw==", "ÄACAPw==", "AACAPwAA"],
    ids=["cut", "3 bytes", "padding", "sign", "newline", "space", "letter", "6 bytes"],
)
def test_what_is_no_base64_of_float32_is_refused_by_name(text: str) -> None:
    with pytest.raises(RangeError, match="'a' are not base64 of float32 numbers"):
        Smoothing(alpha=0.5, factors={"a": text})


def test_one_is_written_in_one_way() -> None:
    """The last four bits of `w` say nothing: `x` stands for the same number."""
    assert base64.b64decode("AACAPx==") == base64.b64decode("AACAPw==") == struct.pack("<f", 1)
    assert Smoothing(alpha=1, factors={"a": "AACAPw=="}).arrays()["a"].tolist() == [1.0]
    with pytest.raises(RangeError, match="'a' have another spelling"):
        Smoothing(alpha=1, factors={"a": "AACAPx=="})


@pytest.mark.parametrize("alpha", ["auto", 0.5, 1, 1e-9])
def test_alpha_is_auto_or_a_share(alpha: Any) -> None:
    smoothing = Smoothing(alpha=alpha)
    assert smoothing.alpha == alpha
    assert table(smoothing).smooth == alpha


@pytest.mark.parametrize("alpha", [0, -0.1, 1.01, math.nan, math.inf, "Auto", "best", None])
def test_another_alpha_is_refused(alpha: Any) -> None:
    with pytest.raises(ValidationError, match="alpha"):
        Smoothing(alpha=alpha)


def test_alpha_zero_plans_no_smoothing() -> None:
    assert Smoothing.planned(0) is None
    assert Smoothing.planned("auto") == Smoothing(alpha="auto", factors={})
    assert table(None).smooth == 0


def test_a_changed_factor_shows_in_the_checksum_of_the_table() -> None:
    one = table(Smoothing.of(0.5, {"a": np.array([1.0], np.float32)}))
    next_to_it = np.nextafter(np.float32(1), np.float32(2))
    other = table(Smoothing.of(0.5, {"a": np.array([next_to_it], np.float32)}))
    assert one.sha256 != other.sha256
    assert one.to_json().replace(stored(1.0), stored(float(next_to_it))) != other.to_json()


@pytest.mark.parametrize("number", [1e-45, 2.0**-16, 1.7e7, 3e38])
def test_factors_with_reciprocals_beyond_float16_are_refused(number: float) -> None:
    with pytest.raises(RangeError, match="have reciprocals that float16 does not hold"):
        Smoothing(alpha=0.5, factors={"a.input": stored(1.0, number)})
