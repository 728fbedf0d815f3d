from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trt_int8.errors import RangeError
from trt_int8.spec.ranges import RangeTable, TensorRange


def table(ranges: dict[str, TensorRange]) -> RangeTable:
    return RangeTable(method="max", samples=3, model_sha256="m", data_sha256="d", ranges=ranges)


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


@settings(max_examples=40)
@given(st.dictionaries(st.text(max_size=5), st.floats(1e-30, 1e30), max_size=4))
def test_a_table_survives_its_json_form(amaxes: dict[str, float]) -> None:
    first = table({name: TensorRange(amax=a, peak=a) for name, a in amaxes.items()})
    assert RangeTable.model_validate_json(first.to_json()) == first


def test_the_order_of_the_tensors_does_not_change_the_bytes() -> None:
    a, b = TensorRange(amax=1, peak=1), TensorRange(amax=2, peak=3)
    assert table({"a": a, "b": b}).to_json() == table({"b": b, "a": a}).to_json()
    assert table({"a": a, "b": b}).to_json() != table({"a": b, "b": a}).to_json()
