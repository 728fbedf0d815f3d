"""Files that are no whole and unedited range table, each refused by the name of its fault."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.support.range_tables import saved, table
from trt_int8.calibrate import cache
from trt_int8.errors import CalibrationError


def signed(text: str) -> str:
    """The text with a checksum that fits it."""
    lines = text.splitlines(keepends=True)
    rest = "".join(line for line in lines if not line.startswith(' "sha256": '))
    digest = hashlib.sha256(rest.encode()).hexdigest()
    return "".join(
        f' "sha256": "{digest}",\n' if line.startswith(' "sha256": ') else line for line in lines
    )


def edited(old: str, new: str) -> str:
    text = table().to_json()
    assert text.count(old) == 1
    return text.replace(old, new)


def fault(path: Path) -> str:
    with pytest.raises(CalibrationError) as refused:
        cache.read(path)
    assert str(refused.value).startswith(f"calibration cache {str(path)!r} ")
    return str(refused.value)


def test_a_file_cut_at_any_byte_is_refused_as_cut(tmp_path: Path) -> None:
    whole = table().to_json()
    for end in range(1, len(whole)):
        assert "is cut off" in fault(saved(tmp_path, whole[:end])), end


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "is empty; wanted a whole and unedited file of format trt_int8-ranges-3"),
        (b"\xff\xfe", "is not UTF-8 text (byte 0 is 0xff)"),
        (b"{\n \x80}", "is not UTF-8 text (byte 3 is 0x80)"),
        (b"\0\0\0", "is not JSON (Expecting value"),
        (b"amax = 1\n", "is not JSON (Expecting value"),
        (b'{"a": 1, 2}\n', "is not JSON (Expecting property name"),
        (b"[" * 100_000, "is not JSON ("),
        (b"9" * 5000, "is not JSON ("),
        (b"[]\n", "is JSON of something else"),
        (b"null", "is JSON of something else"),
        (b'{"method": "max"}', "is JSON of something else"),
        (b'{"format": "trt_int8-manifest-1"}\n', "is JSON of something else"),
        (b'{"format": 2}\n', "is JSON of something else"),
        (b'{"format": "trt_int8-ranges-1"}\n', "is of the older format 'trt_int8-ranges-1'"),
        (b'{"format": "trt_int8-ranges-2"}\n', "is of the older format 'trt_int8-ranges-2'"),
        (b'{"format": "trt_int8-ranges-4"}\n', "is of the unknown format 'trt_int8-ranges-4'"),
        (b'{"format": "trt_int8-ranges-3"}\n', "lacks the field 'data_sha256'"),
    ],
)
def test_what_is_no_table_of_this_format_is_refused_by_its_fault(
    tmp_path: Path, data: bytes, why: str
) -> None:
    path = tmp_path / "ranges.json"
    path.write_bytes(data)
    assert why in fault(path)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert "cannot be read (Is a directory)" in fault(tmp_path)


def test_a_tensorrt_cache_is_refused_with_the_command_that_converts_it(tmp_path: Path) -> None:
    path = saved(tmp_path, "TRT-8601-EntropyCalibration2\nx: 3c010204\n")
    assert "is a TensorRT calibration cache, not JSON" in fault(path)
    assert f"run: trt-int8 calib convert {str(path)!r} ranges.json." in fault(path)


@pytest.mark.parametrize(
    ("old", "new"), [("1.25", "1.5"), ('"b.input"', '"c.input"'), ('"0.1.0"', '"0.1.1"')]
)
def test_a_file_with_a_changed_value_is_refused_by_its_checksum(
    tmp_path: Path, old: str, new: str
) -> None:
    assert "the range table was edited: its checksum is" in fault(saved(tmp_path, edited(old, new)))


def test_a_changed_checksum_is_refused(tmp_path: Path) -> None:
    text = edited(table().sha256, "0" * 64)
    assert f"its checksum is '{'0' * 64}'" in fault(saved(tmp_path, text))


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("1.25", "1.250", "other spacing or another spelling of values"),
        ("1.25", '"1.25"', "other spacing or another spelling of values"),
        ('"ab"', '"\\u0061b"', "other spacing or another spelling of values"),
        (' "samples"', '  "samples"', "other spacing or another spelling of values"),
        (
            '\n   "amax": 1.25,\n   "peak": 2.5',
            '\n   "peak": 2.5,\n   "amax": 1.25',
            "unsorted keys",
        ),
    ],
)
def test_a_file_that_spells_the_same_values_otherwise_is_refused(
    tmp_path: Path, old: str, new: str, why: str
) -> None:
    assert f"was edited: it has {why}" in fault(saved(tmp_path, edited(old, new)))


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('"a.input": {', '"a.input": {"amax": 9.0, "peak": 9.0},\n  "a.input": {', "a.input"),
        ('"samples": 33', '"samples": 33,\n "samples": 33', "samples"),
    ],
)
def test_a_file_that_names_a_key_twice_is_refused(
    tmp_path: Path, old: str, new: str, key: str
) -> None:
    why = f"was edited: it names the key {key!r} twice"
    assert why in fault(saved(tmp_path, edited(old, new)))


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (' "order": [],\n', "", "lacks the field 'order'"),
        (' "smoothing": null,\n', "", "lacks the field 'smoothing'"),
        (f' "sha256": "{table().sha256}",\n', "", "lacks the field 'sha256'"),
        ('\n   "amax": 1.25,', "", "lacks the field 'amax' of tensor 'b.input'"),
        (' "samples"', ' "seed": 1,\n "samples"', "has the unknown field 'seed'"),
        ('"amax": 1.25', '"amax": 1.25, "low": 0', "has the unknown field 'low' of tensor 'b.inp"),
        ("33", '"many"', "has a wrong field 'samples' (Input should be a valid integer"),
        ("1.25", "[]", "has a wrong field 'amax' of tensor 'b.input' (Input should be a valid num"),
        ("1.25", "1" + "0" * 400, "has a wrong field 'amax' of tensor 'b.input' ("),
    ],
)
def test_missing_unknown_and_wrong_fields_are_named(
    tmp_path: Path, old: str, new: str, why: str
) -> None:
    assert why in fault(saved(tmp_path, edited(old, new)))


@pytest.mark.parametrize(
    ("smoothing", "why"),
    [
        ("3", "has a wrong field 'smoothing' ("),
        ('{"factors": {}}', "lacks the field 'alpha'"),
        ('{"alpha": "all", "factors": {}}', "has a wrong field 'alpha' ("),
        ('{"alpha": 0, "factors": {}}', "has a wrong field 'alpha' ("),
        ('{"alpha": 1.5, "factors": {}}', "has a wrong field 'alpha' ("),
        ('{"alpha": NaN, "factors": {}}', "has a wrong field 'alpha' ("),
        ('{"alpha": 1.0, "factors": {"b": 3}}', "has a wrong field 'factors' ("),
        ('{"alpha": 1.0, "beta": 1, "factors": {}}', "has the unknown field 'beta'"),
    ],
)
def test_smoothing_of_another_form_is_refused_by_the_field(
    tmp_path: Path, smoothing: str, why: str
) -> None:
    text = edited('"smoothing": null', f'"smoothing": {smoothing}')
    assert why in fault(saved(tmp_path, text))


@pytest.mark.parametrize(
    ("factors", "why"),
    [
        ("AACAPw!=", "are not base64 of float32 numbers"),
        ("AACAPwA=", "are not base64 of float32 numbers"),  # 5 bytes
        ("", "are not all finite and above 0"),
        ("AAAAAA==", "are not all finite and above 0"),  # 0
        ("AACAvw==", "are not all finite and above 0"),  # -1
        ("AACAfw==", "are not all finite and above 0"),  # infinity
        ("AADAfw==", "are not all finite and above 0"),  # NaN
        ("AACAPx==", "have another spelling than they are written in"),  # bits past the end
    ],
)
def test_unusable_smoothing_factors_are_refused_by_their_site(
    tmp_path: Path, factors: str, why: str
) -> None:
    smoothing = f'{{"alpha": 0.5, "factors": {{"b.input": "{factors}"}}}}'
    text = edited('"smoothing": null', f'"smoothing": {smoothing}')
    found = fault(saved(tmp_path, text))
    assert f"cannot be used: the smoothing factors of 'b.input' {why}" in found


@pytest.mark.parametrize(
    ("literal", "amax"),
    [("0.0", "0.0"), ("-1.0", "-1.0"), ("NaN", "nan"), ("Infinity", "inf"), ("1e999", "inf")],
)
def test_an_unusable_range_is_refused_even_if_the_checksum_fits(
    tmp_path: Path, literal: str, amax: str
) -> None:
    text = signed(edited("1.25", literal))
    why = f"cannot be used: the range of 'b.input' has amax {amax} and peak 2.5"
    assert why in fault(saved(tmp_path, text))


def test_a_signed_change_is_a_table_of_its_own(tmp_path: Path) -> None:
    path = saved(tmp_path, signed(edited("1.25", "1.5")))
    assert cache.read(path).ranges["b.input"].amax == 1.5
