"""TensorRT's cache text. Bits and digits come from NumPy and from published files, not from us."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trt_int8.calibrate.tensorrt_text import TensorRTCache, parse
from trt_int8.errors import CalibrationError

HEADER = "TRT-8601-EntropyCalibration2\n"
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\n"), min_size=1, max_size=8)
SCALES = st.floats(0, width=32, allow_infinity=False).map(abs)


def hexadecimal(scale: float) -> str:
    """Big-endian float32, without leading zeros; 0 is "0"."""
    return np.array(scale, dtype=">f4").tobytes().hex().lstrip("0") or "0"


def fault(text: str | bytes) -> str:
    with pytest.raises(CalibrationError) as refused:
        parse(text, "t.cache")
    return str(refused.value)


# From ONNX Runtime's source (the first), other published caches, and by hand (1/127, 10/127).
@pytest.mark.parametrize(
    ("digits", "scale", "amax"),
    [
        ("4000889d", 2.008338213, 255.0590),
        ("3caa54fc", 0.020792477, 2.640645),
        ("3c010204", 1 / 127, 1.0),
        ("3da14285", 10 / 127, 10.0),
        ("3f800000", 1.0, 127.0),
        ("0", 0.0, 0.0),
        ("1", 2.0**-149, 127 * 2.0**-149),
    ],
)
def test_published_scales_are_read_and_written(digits: str, scale: float, amax: float) -> None:
    text = f"{HEADER}x: {digits}\n"
    found = parse(text)
    assert found.scales["x"] == pytest.approx(scale, rel=1e-7)
    assert found.scales["x"] * 127 == pytest.approx(amax, rel=1e-6)
    assert found.to_text() == text


@pytest.mark.parametrize(
    ("number", "version"),
    [
        ("5105", "5.1.5"),
        ("7103", "7.1.3"),
        ("8401", "8.4.1"),
        ("8510", "8.5.10"),
        ("9300", "9.3.0"),
        ("100300", "10.3.0"),
        ("101401", "10.14.1"),
    ],
)
def test_the_version_number_is_read_by_its_digits_and_written_back(
    number: str, version: str
) -> None:
    text = f"TRT-{number}-MinMaxCalibration\nx: 0\n"
    found = parse(text)
    assert (found.version, found.calibrator) == (version, "MinMaxCalibration")
    assert found.to_text() == text


@pytest.mark.parametrize("name", ["EntropyCalibration2", "MinMaxCalibration", "EntropyCalibration"])
def test_each_calibrator_is_read_and_written_back(name: str) -> None:
    text = f"TRT-7000-{name}\nx: 0\n"
    assert parse(text).calibrator == name
    assert parse(text).to_text() == text


@pytest.mark.parametrize(
    "name",
    [
        "(Unnamed Layer* 64) [Shuffle]_output",
        "a: b",
        "a: 3c010204",
        ":",
        ": : ",
        " leading and trailing ",
        "TRT-8601-EntropyCalibration2",
        "/conv1/Conv_output_0",
        "número\u2028\x85\x0b\r.",
    ],
)
def test_a_name_is_all_before_the_last_colon_and_space(name: str) -> None:
    text = f"{HEADER}{name}: 3c010204\n"
    assert parse(text.encode()).scales == {name: pytest.approx(1 / 127)}
    assert parse(text.encode()).to_text() == text


def test_the_order_of_the_lines_is_kept() -> None:
    text = f"{HEADER}z: 1\na: 2\nm: 3\n"
    assert list(parse(text).scales) == ["z", "a", "m"]
    assert parse(text).to_text() == text


@pytest.mark.parametrize("digits", ["3DA14285", "3dA14285"])
def test_upper_case_is_understood_and_written_in_lower_case(digits: str) -> None:
    assert parse(f"{HEADER}x: {digits}\n").to_text() == f"{HEADER}x: 3da14285\n"


def test_leading_zeros_are_understood_and_left_out() -> None:
    assert parse(f"{HEADER}x: 00000001\n").to_text() == f"{HEADER}x: 1\n"


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(NAMES, SCALES, min_size=1, max_size=6))
def test_any_names_and_scales_are_written_as_the_format_says_and_read_back(
    scales: dict[str, float],
) -> None:
    made = TensorRTCache("10.14.1", "MinMaxCalibration", scales)
    lines = [f"{name}: {hexadecimal(scale)}\n" for name, scale in scales.items()]
    assert made.to_text() == "TRT-101401-MinMaxCalibration\n" + "".join(lines)
    read = parse(made.to_text().encode())
    assert read == made
    assert list(read.scales) == list(scales)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "t.cache is empty; wanted a header and a line per tensor"),
        (HEADER, "t.cache ends after its header; wanted a line per tensor"),
        ("x: 3c010204\n", "line 1 is 'x: 3c010204'; wanted a header TRT-<version number>-"),
        ("{\n}\n", "line 1 is '{'; wanted a header"),
        ("TRT-8XXX-EntropyCalibration2\nx: 0\n", "line 1 is 'TRT-8XXX-EntropyCalibration2'"),
        (" TRT-8601-EntropyCalibration2\nx: 0\n", "line 1 is ' TRT-8601-EntropyCalibration2'"),
        (f"{'q' * 80}\n", f"line 1 is '{'q' * 57}...'; wanted"),
        ("TRT-10300-EntropyCalibration2\nx: 0\n", "line 1 has the version number 10300; wanted 4"),
        ("TRT-860-EntropyCalibration2\nx: 0\n", "line 1 has the version number 860; wanted 4"),
        ("TRT-0860-EntropyCalibration2\nx: 0\n", "line 1 has the version number 0860; wanted 4"),
        ("TRT-110000-EntropyCalibration2\nx: 0\n", "line 1 is of TensorRT 11; wanted up to Ten"),
        ("TRT-8601-BestCalibration\nx: 0\n", "line 1 has the unknown calibrator 'BestCalibration'"),
        ("TRT-8601-BestCalibration\n", "line 1 has the unknown calibrator 'BestCalibration'"),
        (f"{HEADER}x: 1\nno scale\n", "line 3 is 'no scale'; wanted tensor name, ': ' and a scale"),
        (f"{HEADER}x:1\n", "line 2 is 'x:1'; wanted tensor name"),
        (f"{HEADER}x: 1\n\ny: 1\n", "line 3 is ''; wanted tensor name"),
        (f"{HEADER}: 1\n", "line 2 is ': 1'; wanted tensor name"),
        (f"{HEADER}x: 3c0102040\n", "line 2 has the scale '3c0102040'; wanted 1 to 8 hexadecimal"),
        (f"{HEADER}x: \n", "line 2 has the scale ''; wanted 1 to 8 hexadecimal digits"),
        (f"{HEADER}x: 0x3c01\n", "line 2 has the scale '0x3c01'"),
        (f"{HEADER}x: 0.0157\n", "line 2 has the scale '0.0157'"),
        (f"{HEADER}x: 3c01 \n", "line 2 has the scale '3c01 '"),
        (f"{HEADER}x: ٣\n", "line 2 has the scale '٣'"),
        (f"{HEADER}x: 7fc00000\n", "line 2: the scale of 'x' is nan; wanted float32 >= 0"),
        (f"{HEADER}x: 7f800000\n", "line 2: the scale of 'x' is inf; wanted"),
        (f"{HEADER}x: bf800000\n", "line 2: the scale of 'x' is negative (-1.0); wanted"),
        (f"{HEADER}x: 80000000\n", "line 2: the scale of 'x' is negative (-0.0); wanted"),
        (f"{HEADER}x: 1\ny: 1\nx: 1\n", "line 4 names 'x' again; wanted each tensor once"),
        (f"{HEADER}x: 1\ny: 3c01", "line 3 is cut off: there is no newline at its end"),
        (HEADER.strip(), "line 1 is cut off: there is no newline at its end"),
        (f"{HEADER}x: 1\r\n", "line 2 ends with a carriage return; wanted newlines alone"),
        (f"{HEADER}x: 1\n".replace("\n", "\r\n"), "line 1 ends with a carriage return"),
        (HEADER.encode() + b"x: 1\n\xff: 1\n", "line 3 is not UTF-8 text"),
    ],
)
def test_a_damaged_text_is_refused_by_line_and_fault(text: str | bytes, why: str) -> None:
    assert fault(text).startswith("t.cache")
    assert why in fault(text)


def test_the_example_of_the_readme_is_a_cache() -> None:
    readme = Path(__file__).parents[2] / "calib_cache" / "README.md"
    lines = readme.read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("    TRT-"))
    text = "".join(f"{line[4:]}\n" for line in lines[start : lines.index("", start)])
    assert len(parse(text).scales) == 3
    assert parse(text).to_text() == text


def test_a_text_cut_inside_a_line_is_refused_at_any_byte() -> None:
    text = f"{HEADER}(Unnamed Layer* 4) [Relu]: 3caa54fc\ny: 4000889d\n"
    for end in range(len(text)):
        if text[:end].endswith("\n"):
            continue
        assert "is cut off" in fault(text[:end]) or end == 0, end


@pytest.mark.parametrize(
    ("version", "why"),
    [
        ("11.0.0", "TensorRT 11.0.0 reads no calibration cache; wanted up to TensorRT 10; build"),
        ("8.10.0", "TensorRT version '8.10.0'; wanted a minor number of one digit"),
        ("10.14", "TensorRT version '10.14'; wanted three numbers such as 10.14.1"),
        ("10.14.1.48", "TensorRT version '10.14.1.48'; wanted three numbers"),
        ("8.6.100", "TensorRT version '8.6.100'; wanted three numbers"),
        ("v8.6.1", "TensorRT version 'v8.6.1'; wanted three numbers"),
        ("0.6.1", "TensorRT version '0.6.1'; wanted three numbers"),
    ],
)
def test_a_version_that_no_header_can_name_is_refused(version: str, why: str) -> None:
    with pytest.raises(CalibrationError) as refused:
        TensorRTCache(version, "MinMaxCalibration", {})
    assert str(refused.value).startswith(why)


def test_an_unknown_calibrator_is_refused() -> None:
    with pytest.raises(CalibrationError, match="calibrator 'Best' is unknown; wanted one of Entro"):
        TensorRTCache("8.6.1", "Best", {})


@pytest.mark.parametrize(
    ("name", "scale", "why"),
    [
        ("", 1.0, "tensor name ''; wanted a name on one line"),
        ("a\nb", 1.0, r"tensor name 'a\\nb'; wanted a name on one line"),
        ("x", 0.1, r"the scale of 'x' is 0\.1, which is no float32; wanted float32 >= 0"),
        ("x", 1e39, r"the scale of 'x' is 1e\+39, which is no float32"),
        ("x", -1.0, r"the scale of 'x' is negative \(-1\.0\)"),
        ("x", float("nan"), "the scale of 'x' is nan"),
    ],
)
def test_an_entry_that_the_text_cannot_hold_is_refused(name: str, scale: float, why: str) -> None:
    with pytest.raises(CalibrationError, match=why):
        TensorRTCache("8.6.1", "MinMaxCalibration", {name: scale})
