from __future__ import annotations

import base64
import hashlib
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.range_tables import saved, table
from trt_int8.calibrate import cache
from trt_int8.errors import CalibrationError
from trt_int8.spec.ranges import TensorRange
from trt_int8.spec.smoothing import Smoothing

SMOOTHING = Smoothing.of(0.75, {"b.input": np.array([1.0, 0.5, 2.0], np.float32)})


def test_a_table_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    assert cache.load(saved(tmp_path), table()) == table()
    assert cache.read(saved(tmp_path)) == table()


def test_the_numbers_of_what_is_wanted_do_not_matter(tmp_path: Path) -> None:
    wanted = table(ranges={n: TensorRange(amax=9, peak=9) for n in ("a.input", "b.input")})
    assert cache.load(saved(tmp_path), wanted) == table()


def test_a_save_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "ranges.json"
    path.mkdir()
    with pytest.raises(OSError, match=r"ranges\.json"):
        cache.save(path, table())
    assert list(tmp_path.iterdir()) == [path]


def test_no_file_gives_none_to_a_build_and_an_error_to_a_reader(tmp_path: Path) -> None:
    assert cache.load(tmp_path / "ranges.json", table()) is None
    with pytest.raises(CalibrationError, match=r"no calibration cache '.*ranges\.json'; wanted"):
        cache.read(tmp_path / "ranges.json")


def test_saving_leaves_the_table_alone_in_its_folder(tmp_path: Path) -> None:
    path = saved(tmp_path)
    cache.save(path, table(samples=7))
    assert list(path.parent.iterdir()) == [path]


def test_the_file_is_the_canonical_json(tmp_path: Path) -> None:
    head = """{
 "data_sha256": "cd",
 "format": "trt_int8-ranges-3",
 "method": "percentile:99.995",
 "model_sha256": "ab",
 "order": [],
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
 "samples": 33,
"""
    plain = ' "smoothing": null,\n'
    # 1, 0.5 and 2 as float32 are 0x3f800000, 0x3f000000 and 0x40000000; little endian.
    smoothed = f""" "smoothing": {{
  "alpha": 0.75,
  "factors": {{
   "b.input": "{encoded("0000803f 0000003f 00000040")}"
  }}
 }},
"""
    tail = """ "versions": {
  "trt_int8": "0.1.0"
 }
}
"""
    assert saved(tmp_path).read_text(encoding="utf-8") == with_checksum(head, plain + tail)
    cache.save(tmp_path / "smoothed.json", table(smoothing=SMOOTHING))
    text = (tmp_path / "smoothed.json").read_text(encoding="utf-8")
    assert text == with_checksum(head, smoothed + tail)


def with_checksum(head: str, rest: str) -> str:
    """The text with the line of its hash between."""
    digest = hashlib.sha256((head + rest).encode()).hexdigest()
    return f'{head} "sha256": "{digest}",\n{rest}'


def encoded(bytes_: str) -> str:
    return base64.b64encode(bytes.fromhex(bytes_)).decode()


@pytest.mark.parametrize(
    ("field", "other", "shown"),
    [
        ("model_sha256", "x", "'ab', not 'x'"),
        ("data_sha256", "x", "'cd', not 'x'"),
        ("method", "max", "'percentile:99.995', not 'max'"),
        ("samples", 34, "33, not 34"),
        ("versions", {"trt_int8": "0.2"}, "{'trt_int8': '0.1.0'}, not {'trt_int8': '0.2'}"),
    ],
)
def test_ranges_of_something_else_are_refused(
    tmp_path: Path, field: str, other: object, shown: str
) -> None:
    with pytest.raises(
        CalibrationError, match=rf"is of another {field} .*delete the file"
    ) as error:
        cache.load(saved(tmp_path), table(**{field: other}))
    assert shown in str(error.value)


@pytest.mark.parametrize(
    ("kept", "asked", "shown"),
    [
        (None, Smoothing(alpha="auto"), "(0, not 'auto')"),
        (SMOOTHING, None, "(0.75, not 0)"),
        (SMOOTHING, Smoothing(alpha=0.5), "(0.75, not 0.5)"),
    ],
)
def test_ranges_smoothed_otherwise_are_refused(
    tmp_path: Path, kept: Smoothing | None, asked: Smoothing | None, shown: str
) -> None:
    cache.save(tmp_path / "ranges.json", table(smoothing=kept))
    with pytest.raises(CalibrationError) as refused:
        cache.load(tmp_path / "ranges.json", table(smoothing=asked))
    assert f"is of another smooth {shown}; " in str(refused.value)
    assert "delete the file" in str(refused.value)


def test_the_factors_come_with_the_ranges_of_a_recipe_that_does_not_know_them(
    tmp_path: Path,
) -> None:
    smoothed = table(smoothing=SMOOTHING)
    cache.save(tmp_path / "ranges.json", smoothed)
    wanted = table(smoothing=Smoothing(alpha=0.75))
    found = cache.load(tmp_path / "ranges.json", wanted)
    assert found == smoothed
    assert cache.cache_path(tmp_path, wanted) == cache.cache_path(tmp_path, smoothed)


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["a.input"], "it lists 'b.input'"),
        (["a.input", "b.input", "c"], "it lacks 'c'"),
    ],
)
def test_ranges_of_other_tensors_are_refused(tmp_path: Path, names: list[str], shown: str) -> None:
    wanted = table(ranges={name: {"amax": 1, "peak": 1} for name in names})
    with pytest.raises(CalibrationError, match=rf"lists other tensors \({shown}\)"):
        cache.load(saved(tmp_path), wanted)


def test_a_build_refuses_what_a_reader_refuses(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"is empty; .*calibrate again"):
        cache.load(saved(tmp_path, ""), table())


CHANGES: list[dict[str, Any]] = [
    {},
    {"model_sha256": "x"},
    {"data_sha256": "x"},
    {"method": "max"},
    {"samples": 34},
    {"versions": {}},
    {"versions": {"trt_int8": "0.2"}},
    {"ranges": {"a.input": {"amax": 1, "peak": 1}}},
    {"format": "trt_int8-ranges-4"},
    {"smoothing": Smoothing(alpha="auto")},
    {"smoothing": Smoothing(alpha=0.5)},
    {"smoothing": Smoothing(alpha=0.75)},
]


def test_the_path_depends_on_all_that_makes_the_ranges(tmp_path: Path) -> None:
    paths = {cache.cache_path(tmp_path, table(**changes)) for changes in CHANGES}
    assert len(paths) == len(CHANGES)


def test_the_path_does_not_depend_on_the_numbers(tmp_path: Path) -> None:
    other = table(ranges={n: {"amax": 7, "peak": 8} for n in ("a.input", "b.input")})
    assert cache.cache_path(tmp_path, other) == cache.cache_path(tmp_path, table())


@pytest.mark.parametrize(
    ("alpha", "shown"), [(0, "0"), ("auto", '"auto"'), (0.75, "0.75"), (1, "1.0")]
)
def test_the_path_is_the_hash_that_the_readme_describes(
    tmp_path: Path, alpha: Any, shown: str
) -> None:
    key = (
        '["trt_int8-ranges-3","ab","cd","percentile:99.995",33,{"trt_int8":"0.1.0"},'
        f'{shown},["a.input","b.input"],[]]'
    )
    name = hashlib.sha256(key.encode()).hexdigest()[:16]
    made = table(smoothing=Smoothing.planned(alpha))
    assert cache.cache_path(tmp_path, made) == tmp_path / f"{name}.json"


def test_the_path_names_the_groups_that_may_be_smoothed_in_any_order(tmp_path: Path) -> None:
    key = (
        '["trt_int8-ranges-3","ab","cd","percentile:99.995",33,{"trt_int8":"0.1.0"},'
        '"auto",["a.input","b.input"],[["a.input"],["b.input","c"]]]'
    )
    name = hashlib.sha256(key.encode()).hexdigest()[:16]
    made = table(smoothing=Smoothing.planned("auto"))
    for groups in ((("a.input",), ("b.input", "c")), (("c", "b.input"), ("a.input",))):
        assert cache.cache_path(tmp_path, made, groups) == tmp_path / f"{name}.json"


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
