from __future__ import annotations

import hashlib
import json
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trt_int8.errors import RangeError
from trt_int8.spec.ranges import AffineRange, RangeTable, TensorRange

FLOAT32 = st.floats(0, width=32, exclude_min=True, allow_infinity=False)


def table(ranges: dict[str, TensorRange]) -> RangeTable:
    return RangeTable(method="max", samples=3, model_sha256="m", data_sha256="d", ranges=ranges)


def one_tensor() -> RangeTable:
    return table({"a": TensorRange(amax=1.25, peak=2.5)})


@pytest.mark.parametrize("amax", [0.0, -1.5, math.nan, math.inf])
def test_an_unusable_range_is_refused_by_name(amax: float) -> None:
    bad = TensorRange(amax=amax, peak=2.0)
    with pytest.raises(RangeError, match=rf"'b' has amax {amax} and peak 2\.0 \(1 such"):
        table({"a": TensorRange(amax=1, peak=1), "b": bad})


def test_all_bad_tensors_are_counted() -> None:
    zero = TensorRange(amax=0, peak=0)
    with pytest.raises(RangeError, match=r"'a' has amax 0\.0 .*\(3 such tensors\)"):
        table(dict.fromkeys("abc", zero))


@pytest.mark.parametrize("peak", [math.nan, math.inf])
def test_an_unusable_peak_is_shown_beside_the_good_amax(peak: float) -> None:
    with pytest.raises(RangeError, match=f"'a' has amax 1.0 and peak {peak} "):
        table({"a": TensorRange(amax=1.0, peak=peak)})


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(max_size=5), st.floats(1e-30, 1e30), max_size=4))
def test_a_table_survives_its_json_form(amaxes: dict[str, float]) -> None:
    first = table({name: TensorRange(amax=a, peak=a) for name, a in amaxes.items()})
    assert RangeTable.model_validate_json(first.to_json()) == first


def test_the_order_of_the_tensors_does_not_change_the_bytes() -> None:
    a, b = TensorRange(amax=1, peak=1), TensorRange(amax=2, peak=3)
    assert table({"a": a, "b": b}).to_json() == table({"b": b, "a": a}).to_json()
    assert table({"a": a, "b": b}).to_json() != table({"a": b, "b": a}).to_json()


def test_the_checksum_is_that_of_the_text_without_its_line() -> None:
    lines = one_tensor().to_json().splitlines(keepends=True)
    rest = [line for line in lines if not line.startswith(' "sha256": ')]
    assert len(rest) == len(lines) - 1
    expected = hashlib.sha256("".join(rest).encode()).hexdigest()
    assert json.loads("".join(lines))["sha256"] == expected == one_tensor().sha256


@pytest.mark.parametrize(
    ("old", "new"), [("1.25", "1.5"), ('"m"', '"n"'), (": 3", ": 4"), ('"a"', '"b"')]
)
def test_a_table_whose_json_was_edited_is_refused(old: str, new: str) -> None:
    text = one_tensor().to_json()
    assert text.count(old) == 1
    with pytest.raises(RangeError, match=f"edited: its checksum is '{one_tensor().sha256}', that"):
        RangeTable.model_validate_json(text.replace(old, new))


def test_a_changed_copy_has_the_checksum_of_its_own_content() -> None:
    changed = one_tensor().model_copy(update={"samples": 4})
    assert changed.sha256 != one_tensor().sha256
    assert RangeTable.model_validate_json(changed.to_json()) == changed


def test_tensors_without_a_range_are_those_only_in_the_order() -> None:
    ordered = one_tensor().model_copy(update={"order": ("z", "a", "c")})
    assert ordered.without_range == ("z", "c")


# (amax, bits of the float32 scale): 1/127 and 10/127 by hand.
@pytest.mark.parametrize(
    ("amax", "bits"), [(1.0, 0x3C010204), (10.0, 0x3DA14285), (127.0, 0x3F800000)]
)
def test_the_scale_is_one_127th_as_float32(amax: float, bits: int) -> None:
    scale = np.float32(TensorRange(amax=amax, peak=amax).scale)
    assert int(scale.view(np.uint32)) == bits


@settings(max_examples=400, deadline=None)
@given(FLOAT32)
@example(float(np.float32(1e-44)))
@example(float(np.finfo(np.float32).max))
def test_the_scale_of_a_float32_is_the_float32_division(amax: float) -> None:
    assert TensorRange(amax=amax, peak=amax).scale == np.float32(amax) / np.float32(127)


@settings(max_examples=400, deadline=None)
@given(st.floats(1e-30, 1e30))
def test_the_scale_of_a_float64_is_within_a_rounding_of_its_float32s(amax: float) -> None:
    expected = np.float32(amax) / np.float32(127)
    found = np.float32(TensorRange(amax=amax, peak=amax).scale)
    assert found in (expected, *np.nextafter(expected, [np.float32(0), np.float32(np.inf)]))


SHY = float(np.uint32(0x3F900040).view(np.float32))


@settings(max_examples=400, deadline=None)
@given(FLOAT32)
@example(SHY)
@example(float(np.float32(1e-45)))
@example(float(np.finfo(np.float32).max))
def test_every_float32_scale_comes_back_from_127_times_itself(scale: float) -> None:
    assert TensorRange(amax=scale * 127, peak=1).scale == scale


def test_some_scales_are_no_float32_divided_by_127() -> None:
    middle = np.float32(SHY * 127)
    near = [middle, np.nextafter(middle, np.float32(0)), np.nextafter(middle, np.float32(999))]
    assert all(amax / np.float32(127) != np.float32(SHY) for amax in near)


@pytest.mark.parametrize(("amax", "scale"), [(1e-46, 0.0), (1e300, math.inf)])
def test_a_scale_that_float32_cannot_hold_is_zero_or_infinite(amax: float, scale: float) -> None:
    assert TensorRange(amax=amax, peak=amax).scale == scale


def test_an_affine_range_spreads_255_steps_and_rounds_its_zero_point() -> None:
    found = AffineRange(low=-1.0, high=3.0)
    assert found.scale == 4 / 255
    assert found.zero_point == 64  # 63.75


@pytest.mark.parametrize(("low", "high", "code"), [(0.0, 2.0, 0), (-2.0, 0.0, 255)])
def test_the_zero_point_of_a_one_sided_range_is_its_end(low: float, high: float, code: int) -> None:
    assert AffineRange(low=low, high=high).zero_point == code
