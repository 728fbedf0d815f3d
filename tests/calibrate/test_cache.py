from __future__ import annotations

import threading
from pathlib import Path

import pytest

from trt_int8.calibrate import cache
from trt_int8.errors import CalibrationError
from trt_int8.spec.ranges import RangeTable, TensorRange


def table(**changes: object) -> RangeTable:
    fields = {
        "method": "percentile:99.995",
        "samples": 33,
        "model_sha256": "ab",
        "data_sha256": "cd",
        "ranges": {"b.input": {"amax": 1.25, "peak": 2.5}, "a.input": {"amax": 3.0, "peak": 3.0}},
    }
    return RangeTable.model_validate(fields | changes)


def saved(folder: Path, text: str | None = None) -> Path:
    path = folder / "deep" / "ranges.json"
    cache.save(path, table())
    if text is not None:
        path.write_text(text, encoding="utf-8")
    return path


def test_a_table_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    assert cache.load(saved(tmp_path), table()) == table()


def test_the_numbers_of_what_is_wanted_do_not_matter(tmp_path: Path) -> None:
    wanted = table(ranges={n: TensorRange(amax=9, peak=9) for n in ("a.input", "b.input")})
    assert cache.load(saved(tmp_path), wanted) == table()


def test_a_save_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "ranges.json"
    path.mkdir()
    with pytest.raises(OSError, match=r"ranges\.json"):
        cache.save(path, table())
    assert list(tmp_path.iterdir()) == [path]


def test_no_file_gives_none(tmp_path: Path) -> None:
    assert cache.load(tmp_path / "ranges.json", table()) is None


def test_saving_leaves_the_table_alone_in_its_folder(tmp_path: Path) -> None:
    path = saved(tmp_path)
    cache.save(path, table(samples=7))
    assert list(path.parent.iterdir()) == [path]


def test_the_file_is_the_canonical_json(tmp_path: Path) -> None:
    expected = """{
 "data_sha256": "cd",
 "format": "trt_int8-ranges-1",
 "method": "percentile:99.995",
 "model_sha256": "ab",
 "ranges": {
  "a.input": {
   "amax": 3.0,
   "peak": 3.0
  },
  "b.input": {
   "amax": 1.25,
   "peak": 2.5
  }
 },
 "samples": 33
}
"""
    assert saved(tmp_path).read_text(encoding="utf-8") == expected


@pytest.mark.parametrize(
    ("field", "other"),
    [("model_sha256", "x"), ("data_sha256", "x"), ("method", "max"), ("samples", 34)],
)
def test_ranges_of_something_else_are_refused(tmp_path: Path, field: str, other: object) -> None:
    with pytest.raises(CalibrationError, match=f"is of another {field}; .*delete the file"):
        cache.load(saved(tmp_path), table(**{field: other}))


def test_a_file_of_another_format_is_refused(tmp_path: Path) -> None:
    text = table(format="trt_int8-ranges-0").to_json()
    with pytest.raises(CalibrationError, match="is of another format"):
        cache.load(saved(tmp_path, text), table())


def test_ranges_of_other_tensors_are_refused(tmp_path: Path) -> None:
    wanted = table(ranges={"a.input": {"amax": 1, "peak": 1}})
    with pytest.raises(CalibrationError, match="lists other tensors"):
        cache.load(saved(tmp_path), wanted)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"method": "max"}', "\0"])
def test_a_damaged_file_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(CalibrationError, match=r"ranges\.json' is damaged; wanted ranges of"):
        cache.load(saved(tmp_path, text), table())


def test_a_file_cut_at_any_byte_is_refused(tmp_path: Path) -> None:
    whole = table().to_json()
    for end in range(0, len(whole), 17):
        with pytest.raises(CalibrationError, match="is damaged"):
            cache.load(saved(tmp_path, whole[:end]), table())


def test_bytes_that_are_not_text_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(CalibrationError, match="cannot be read"):
        cache.load(path, table())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"a.input": {', '"a.input": {"amax": 9.0, "peak": 9.0},\n  "a.input": {'),
        ("\n}\n", "\n}"),
        ("1.25", "1.250"),
        (' "samples"', '  "samples"'),
    ],
)
def test_a_file_edited_by_hand_is_refused(tmp_path: Path, old: str, new: str) -> None:
    text = table().to_json().replace(old, new)
    with pytest.raises(CalibrationError, match="not in the canonical form"):
        cache.load(saved(tmp_path, text), table())


@pytest.mark.parametrize("amax", ["0.0", "-1.0", "NaN", "Infinity"])
def test_a_file_with_an_unusable_range_is_refused_as_a_cache(tmp_path: Path, amax: str) -> None:
    text = table().to_json().replace("1.25", amax)
    with pytest.raises(CalibrationError, match=r"calibration cache .*delete the file"):
        cache.load(saved(tmp_path, text), table())


def test_the_path_depends_on_all_that_makes_the_ranges(tmp_path: Path) -> None:
    tables = [
        table(),
        table(model_sha256="x"),
        table(data_sha256="x"),
        table(method="max"),
        table(samples=34),
        table(ranges={"a.input": {"amax": 1, "peak": 1}}),
    ]
    assert len({cache.cache_path(tmp_path, t) for t in tables}) == len(tables)


def test_the_path_does_not_depend_on_the_numbers(tmp_path: Path) -> None:
    other = table(ranges={n: {"amax": 7, "peak": 8} for n in ("a.input", "b.input")})
    assert cache.cache_path(tmp_path, other) == cache.cache_path(tmp_path, table())


def test_builds_at_the_same_time_can_share_a_folder(tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def save_often() -> None:
        try:
            for _ in range(60):
                cache.save(tmp_path / "ranges.json", table())
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=save_often) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert cache.load(tmp_path / "ranges.json", table()) == table()
