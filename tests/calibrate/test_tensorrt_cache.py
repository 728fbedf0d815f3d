from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trt_int8.calibrate import cache
from trt_int8.calibrate.tensorrt_cache import (
    check_plausible,
    from_ranges,
    is_tensorrt,
    read_any,
    to_ranges,
)
from trt_int8.calibrate.tensorrt_text import TensorRTCache, parse
from trt_int8.errors import CalibrationError, RangeError
from trt_int8.spec.ranges import RangeTable, TensorRange

TEXT = """TRT-8401-MinMaxCalibration
z: 4000889d
(Unnamed Layer* 4) [Relu]: out: 3caa54fc
none: 0
a: 3c010204
"""
SHY = float(np.uint32(0x3F900040).view(np.float32))


def table(amaxes: dict[str, float]) -> RangeTable:
    ranges = {name: TensorRange(amax=amax, peak=amax) for name, amax in amaxes.items()}
    return RangeTable(
        method="percentile:99.99", samples=3, model_sha256="m", data_sha256="d", ranges=ranges
    )


def scales_of(amaxes: list[float], *, reciprocal: bool = False) -> TensorRTCache:
    scales = [127 / amax if reciprocal else amax / 127 for amax in amaxes]
    rounded = {str(i): float(np.float32(scale)) for i, scale in enumerate(scales)}
    return TensorRTCache("8.6.1", "EntropyCalibration2", rounded)


def test_a_cache_becomes_ranges_of_unknown_texts() -> None:
    found = to_ranges(parse(TEXT), "ab")
    assert (found.method, found.samples) == ("tensorrt:MinMaxCalibration", 0)
    assert (found.model_sha256, found.data_sha256) == ("ab", "")
    assert found.versions == {"tensorrt": "8.4.1"}


def test_amax_is_127_scales_and_the_peak_is_unknown() -> None:
    ranges = to_ranges(parse(TEXT), "").ranges
    assert ranges["z"].amax == pytest.approx(255.0590, rel=1e-6)
    assert ranges["(Unnamed Layer* 4) [Relu]: out"].amax == pytest.approx(2.640645, rel=1e-6)
    assert all(found.peak == found.amax for found in ranges.values())


def test_a_scale_of_zero_leaves_the_tensor_out_and_tells_it() -> None:
    found = to_ranges(parse(TEXT), "")
    assert set(found.ranges) == {"z", "(Unnamed Layer* 4) [Relu]: out", "a"}
    assert found.without_range == ("none",)


def test_text_to_json_to_text_gives_the_same_bytes(tmp_path: Path) -> None:
    cache.save(tmp_path / "r.json", to_ranges(parse(TEXT), ""))
    assert from_ranges(cache.read(tmp_path / "r.json")).to_text() == TEXT


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="\n"), min_size=1, max_size=5),
        st.floats(0, width=32, allow_infinity=False).map(abs),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from(["5.1.5", "8.5.10", "10.3.0"]),
    st.sampled_from(["EntropyCalibration2", "MinMaxCalibration", "EntropyCalibration"]),
)
@example({"x": SHY}, "8.5.10", "EntropyCalibration2")
def test_any_cache_comes_back_from_json_byte_for_byte(
    scales: dict[str, float], version: str, calibrator: str
) -> None:
    text = TensorRTCache(version, calibrator, scales).to_text()
    kept = RangeTable.model_validate_json(to_ranges(parse(text), "").to_json())
    assert from_ranges(kept).to_text() == text


@pytest.mark.parametrize(("amax", "digits"), [(1.0, "3c010204"), (10.0, "3da14285")])
def test_the_scale_of_a_range_is_one_127th_of_it(amax: float, digits: str) -> None:
    assert from_ranges(table({"x": amax})).to_text().endswith(f"\nx: {digits}\n")


@settings(max_examples=200, deadline=None)
@given(st.floats(2.0**-100, 2.0**100, width=32))
def test_a_float32_range_is_divided_in_float32(amax: float) -> None:
    expected = int((np.float32(amax) / np.float32(127)).view(np.uint32))
    assert from_ranges(table({"x": amax})).to_text().endswith(f"\nx: {expected:x}\n")


def test_our_own_ranges_are_sorted_under_the_default_header() -> None:
    text = from_ranges(table({"z": 1.0, "a b: c": 10.0})).to_text()
    assert text == "TRT-101401-EntropyCalibration2\na b: c: 3da14285\nz: 3c010204\n"


def test_version_and_calibrator_can_be_chosen() -> None:
    read = to_ranges(parse(TEXT), "")
    text = from_ranges(read, "10.3.0", "EntropyCalibration2").to_text()
    assert text == TEXT.replace("TRT-8401-MinMaxCalibration", "TRT-100300-EntropyCalibration2")


def test_ranges_added_to_a_converted_table_follow_its_own() -> None:
    read = to_ranges(parse(TEXT), "")
    more = read.model_copy(update={"ranges": read.ranges | table({"b": 127.0}).ranges})
    assert from_ranges(more).to_text() == TEXT + "b: 3f800000\n"


@pytest.mark.parametrize(("amax", "scale"), [(1e-46, "0.0"), (1e300, "inf")])
def test_a_range_whose_scale_is_no_float32_is_refused_by_name(amax: float, scale: str) -> None:
    with pytest.raises(RangeError) as refused:
        from_ranges(table({"a": 1.0, "x": amax}))
    assert f"the range of 'x' has amax {amax}: its scale is {scale} in" in str(refused.value)


# What activations of a Transformer look like: softmax 1, LayerNorm and GELU 3 to 20, a few sums.
TYPICAL = [1.0, 1.0, 2.5, 3.1, 4.0, 6.3, 8.6, 11.4, 15.0, 19.0, 60.0]


def test_typical_scales_pass_and_their_reciprocals_are_refused() -> None:
    check_plausible(scales_of(TYPICAL))
    with pytest.raises(CalibrationError) as refused:
        check_plausible(scales_of(TYPICAL, reciprocal=True), "t.cache")
    assert str(refused.value).startswith(
        "t.cache: 11 of 11 scales are above 1, so half of the tensors would reach 2560;"
        " as 127 / amax they would reach 6.3; wanted scales of amax / 127; mend the script"
    )


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0.02, 15.0), min_size=1, max_size=30))
def test_whatever_the_common_ranges_are_only_their_reciprocals_are_refused(
    amaxes: list[float],
) -> None:
    check_plausible(scales_of(amaxes))
    with pytest.raises(CalibrationError, match=r"add --trust if they are right"):
        check_plausible(scales_of(amaxes, reciprocal=True))


@pytest.mark.parametrize(
    "amaxes",
    [
        [255.0, 180.0, 300.0, 900.0],  # raw pixels, and sums of them
        [1.0] + [5000.0] * 8,  # one tensor in nine is bounded
        [100.0] * 9,
    ],
)
def test_large_ranges_of_real_networks_pass(amaxes: list[float]) -> None:
    check_plausible(scales_of(amaxes))


def test_zeros_do_not_count_and_may_be_all() -> None:
    zeros = dict.fromkeys("abcdefghij", 0.0)
    check_plausible(TensorRTCache("8.6.1", "EntropyCalibration2", zeros))
    with pytest.raises(CalibrationError, match=r"1 of 1 scales are above 1"):
        check_plausible(TensorRTCache("8.6.1", "EntropyCalibration2", zeros | {"x": 127.0}))


def written(folder: Path, text: str) -> Path:
    path = folder / "some.file"
    path.write_text(text, encoding="utf-8")
    return path


def test_either_kind_of_file_is_recognised(tmp_path: Path) -> None:
    text = written(tmp_path, TEXT)
    assert is_tensorrt(text)
    assert read_any(text) == to_ranges(parse(TEXT), "")
    json = written(tmp_path, table({"a": 1.0}).to_json())
    assert not is_tensorrt(json)
    assert read_any(json) == table({"a": 1.0})


def test_reciprocal_scales_are_refused_unless_trusted(tmp_path: Path) -> None:
    path = written(tmp_path, scales_of([1.0, 4.0, 3.0], reciprocal=True).to_text())
    with pytest.raises(CalibrationError, match=r"TensorRT calibration cache '.*file': 3 of 3 sc"):
        read_any(path)
    assert read_any(path, trust=True).ranges["0"].amax == 127 * 127


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("TRT-8401-MinMaxCalibration\nx: 3c01", "line 2 is cut off"),
        ("TRT-hello\n", "line 1 is 'TRT-hello'; wanted a header"),
        ("x [Relu]: 3c010204\n", "line 1 is 'x [Relu]: 3c010204'; wanted a header"),
        ("hello\n", "some.file' is not JSON"),
        ("", "some.file' is empty"),
        ('{"a: 12": 12}\n', "some.file' is JSON of something else"),
    ],
)
def test_a_file_of_neither_kind_is_refused_as_what_it_resembles(
    tmp_path: Path, text: str, why: str
) -> None:
    with pytest.raises(CalibrationError) as refused:
        read_any(written(tmp_path, text))
    assert why in str(refused.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"gone' cannot be read \(No such file or directory"):
        read_any(tmp_path / "gone")
