from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from trt_int8.calibrate import cache
from trt_int8.cli.calib import calib_app
from trt_int8.errors import TrtInt8Error
from trt_int8.spec.ranges import RangeTable, TensorRange

TEXT = """TRT-8401-MinMaxCalibration
z [relu]_out: 4000889d
none: 0
a: b: 3c010204
"""


def run(*arguments: object) -> int:
    return int(calib_app([str(a) for a in arguments], standalone_mode=False) or 0)


def refusal(*arguments: object) -> str:
    with pytest.raises(TrtInt8Error) as refused:
        run(*arguments)
    return str(refused.value)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "calib.cache"
    path.write_text(TEXT, encoding="utf-8")
    return path


def ranges_file(path: Path, **ranges: tuple[float, float]) -> Path:
    entries = {name: TensorRange(amax=a, peak=p) for name, (a, p) in ranges.items()}
    table = RangeTable(
        method="max", samples=3, model_sha256="m", data_sha256="d", versions={"x": "1"},
        ranges=entries,
    )  # fmt: skip
    cache.save(path, table)
    return path


def test_a_tensorrt_cache_becomes_json_and_comes_back_byte_for_byte(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("convert", text, tmp_path / "deep" / "r.json") == 0
    assert run("convert", tmp_path / "deep" / "r.json", tmp_path / "back.cache") == 0
    assert (tmp_path / "back.cache").read_text(encoding="utf-8") == TEXT
    assert cache.read(tmp_path / "deep" / "r.json").method == "tensorrt:MinMaxCalibration"
    wrote, note = capsys.readouterr().out.splitlines()[:2]
    assert wrote == f"wrote {tmp_path / 'deep' / 'r.json'}: 2 ranges"
    assert note == "note: without a range (scale 0): none"


def test_ranges_of_ours_become_a_cache_of_the_asked_header(tmp_path: Path) -> None:
    source = ranges_file(tmp_path / "r.json", b=(10.0, 10.0), a=(1.0, 2.0))
    run("convert", source, tmp_path / "default")
    options = ("--tensorrt-version", "8.6.1", "--calibrator", "minmax")
    run("convert", source, tmp_path / "chosen", "--to", "tensorrt", *options)
    lines = "a: 3c010204\nb: 3da14285\n"
    assert (tmp_path / "default").read_text() == f"TRT-101401-EntropyCalibration2\n{lines}"
    assert (tmp_path / "chosen").read_text() == f"TRT-8601-MinMaxCalibration\n{lines}"


def test_a_cache_can_be_given_the_header_of_another_tensorrt(text: Path, tmp_path: Path) -> None:
    options = ("--to", "tensorrt", "--tensorrt-version", "10.3.0", "--calibrator", "entropy2")
    run("convert", text, tmp_path / "new", *options)
    header, lines = TEXT.split("\n", 1)
    assert header != "TRT-100300-EntropyCalibration2"
    assert (tmp_path / "new").read_text() == f"TRT-100300-EntropyCalibration2\n{lines}"


def test_the_model_is_kept_in_json(text: Path, tmp_path: Path) -> None:
    digest = hashlib.sha256(b"model").hexdigest()
    run("convert", text, tmp_path / "r.json", "--model-sha256", digest)
    assert cache.read(tmp_path / "r.json").model_sha256 == digest
    run("convert", text, tmp_path / "unknown.json")
    assert cache.read(tmp_path / "unknown.json").model_sha256 == ""


def test_a_file_is_replaced_only_by_force(text: Path, tmp_path: Path) -> None:
    old = tmp_path / "r.json"
    old.write_text("mine", encoding="utf-8")
    assert "r.json' exists; wanted a new file; add --force" in refusal("convert", text, old)
    assert old.read_text(encoding="utf-8") == "mine"
    run("convert", text, old, "--force")
    assert set(cache.read(old).ranges) == {"z [relu]_out", "a: b"}
    assert sorted(tmp_path.iterdir()) == [text, old]


def test_a_source_that_is_refused_leaves_the_destination_alone(tmp_path: Path) -> None:
    source, old = tmp_path / "bad.cache", tmp_path / "r.json"
    source.write_text(TEXT[:-4], encoding="utf-8")
    old.write_text("mine", encoding="utf-8")
    assert "line 4 is cut off" in refusal("convert", source, old, "--force")
    assert old.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--model-sha256", "ab"), "--model-sha256 is 'ab'; wanted 64 lower-case hexadecimal dig"),
        (("--tensorrt-version", "8.6.1"), "--tensorrt-version has no place in a file of kind json"),
        (("--calibrator", "minmax"), "--calibrator has no place in a file of kind json"),
        (
            ("--to", "tensorrt", "--model-sha256", "ab"),
            "--model-sha256 has no place in a file of kind tensorrt",
        ),
        (("--to", "tensorrt", "--tensorrt-version", "11.1.0"), "11.1.0 reads no calibration cache"),
    ],
)
def test_options_that_cannot_be_kept_are_refused(
    text: Path, tmp_path: Path, options: tuple[str, ...], why: str
) -> None:
    assert why in refusal("convert", text, tmp_path / "new", *options)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("command", ["convert", "show", "diff"])
def test_reciprocal_scales_need_trust(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "calib.cache"
    source.write_text("TRT-8601-EntropyCalibration2\nx: 42fe0000\n", encoding="utf-8")  # 127
    more = {"convert": [tmp_path / "new"], "show": [], "diff": [source]}[command]
    assert "add --trust if they are right" in refusal(command, source, *more)
    assert run(command, source, *more, "--trust") == 0


def test_show_lists_the_ranges_in_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("show", ranges_file(tmp_path / "r.json", b=(10.0, 16.0), a=(1.0, 1.0)))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "max, 3 texts, x 1"
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    assert rows == [
        ["a", "1", "0.00787402", "1", ""],
        ["b", "10", "0.0787402", "16", "37.5%"],
    ]


def test_show_prints_names_with_brackets_as_they_are(
    text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("show", text)
    output = capsys.readouterr().out  # rich would take "[relu]" for a style
    assert output.startswith("tensorrt:MinMaxCalibration, texts unknown, tensorrt 8.4.1\n")
    assert "z [relu]_out" in output
    assert output.endswith("note: without a range (scale 0): none\n")


def test_show_as_json_prints_json_alone(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("show", text, "--json")
    shown = json.loads(capsys.readouterr().out)
    assert shown["method"] == "tensorrt:MinMaxCalibration"
    assert shown["versions"] == {"tensorrt": "8.4.1"}
    assert shown["without_range"] == ["none"]
    assert [row["tensor"] for row in shown["ranges"]] == ["a: b", "z [relu]_out"]
    assert shown["ranges"][1]["amax"] == pytest.approx(255.0590, rel=1e-6)
    assert shown["ranges"][1]["scale"] == pytest.approx(2.008338213, rel=1e-8)
    assert shown["ranges"][1]["clipped"] == 0


def test_diff_of_the_same_ranges_in_two_kinds_of_file_is_empty(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("convert", text, tmp_path / "r.json")
    capsys.readouterr()
    assert run("diff", text, tmp_path / "r.json", "--tolerance", "0") == 0
    assert capsys.readouterr().out == "2 the same, 0 changed, 0 in one only\n"


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    one = {"gone": (1.0, 1.0), "kept": (2.0, 2.0), "near": (100.0, 100.0)}
    first = ranges_file(tmp_path / "a", up=(1.0, 1.0), half=(8.0, 8.0), third=(9.0, 9.0), **one)
    two = {"kept": (2.0, 5.0), "near": (100.9, 101.0), "new": (1.0, 1.0)}
    second = ranges_file(tmp_path / "b", up=(1.5, 2.0), half=(4.0, 4.0), third=(3.0, 3.0), **two)
    return first, second


def test_diff_sorts_changes_by_their_ratio_either_way(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("diff", *pair, "--json") == 3
    assert json.loads(capsys.readouterr().out) == {
        "only_in_a": ["gone"],
        "only_in_b": ["new"],
        "changed": [
            {"tensor": "third", "a": 9.0, "b": 3.0, "ratio": 3.0 / 9.0},
            {"tensor": "half", "a": 8.0, "b": 4.0, "ratio": 0.5},
            {"tensor": "up", "a": 1.0, "b": 1.5, "ratio": 1.5},
        ],
        "same": 2,
        "smoothed_alike": True,
    }


def test_diff_shows_a_table(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("diff", *pair) == 3
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [f"only in {pair[0]}: gone", f"only in {pair[1]}: new"]
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    assert rows[0] == ["third", "9", "3", "0.333333"]
    assert lines[-1] == "2 the same, 3 changed, 2 in one only"


def test_the_tolerance_of_diff_is_a_ratio(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run("diff", *pair, "--json", "--tolerance", "0.001")
    assert json.loads(capsys.readouterr().out)["same"] == 1
    run("diff", *pair, "--json", "--tolerance", "1.2")
    changed = json.loads(capsys.readouterr().out)["changed"]
    assert [row["tensor"] for row in changed] == ["third"]


@pytest.mark.parametrize("tolerance", ["-0.1", "nan", "inf"])
def test_a_tolerance_that_is_no_ratio_is_refused(text: Path, tolerance: str) -> None:
    why = f"--tolerance is {tolerance}; wanted >= 0"
    assert why in refusal("diff", text, text, "--tolerance", tolerance)


def test_one_tensor_more_is_a_difference(tmp_path: Path) -> None:
    first = ranges_file(tmp_path / "a", x=(1.0, 1.0))
    second = ranges_file(tmp_path / "b", x=(1.0, 1.0), y=(1.0, 1.0))
    assert (run("diff", first, second), run("diff", second, first)) == (3, 3)
    assert run("diff", first, first) == 0
