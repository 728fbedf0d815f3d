"""The bytes of a part in each format."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest

from trt_int8.errors import ScoreError
from trt_int8.runtime.score.answers import Answer, Format, Tally, encode
from trt_int8.runtime.score.rows import Fault

VECTORS = {"v": ((2,), "float32")}
ANSWERS: list[Answer | Fault] = [
    {"v": np.array([0.1, np.nan], np.float32)},
    Fault("why"),
    {"v": np.array([3.0, 1e-8], np.float32)},
]
BOTH = {"v": ((2,), "float32"), "file": ((), "int64")}
PAIRS: list[Answer | Fault] = [
    Fault("why"),
    {"v": np.array([1.5, 2.0], np.float32), "file": np.int64(7)},
]


def test_npy_holds_one_array_with_nan_where_a_row_failed() -> None:
    found = np.load(io.BytesIO(encode(ANSWERS, 10, "npy", VECTORS)))
    assert found.dtype == np.float32
    wanted = np.array([[0.1, np.nan], [np.nan, np.nan], [3.0, 1e-8]], np.float32)
    np.testing.assert_array_equal(found, wanted)


def test_a_part_in_which_every_row_failed_has_the_shape_of_the_others() -> None:
    found = np.load(io.BytesIO(encode([Fault("a"), Fault("b")], 0, "npy", VECTORS)))
    assert found.shape == (2, 2)
    assert np.isnan(found).all()


def test_npz_holds_an_array_per_output_whatever_its_name() -> None:
    found = np.load(io.BytesIO(encode(PAIRS, 0, "npz", BOTH)))
    np.testing.assert_array_equal(found["v"], np.array([[np.nan] * 2, [1.5, 2]], np.float32))
    np.testing.assert_array_equal(found["file"], np.array([0, 7]))


@pytest.mark.parametrize("form", ["npy", "npz", "jsonl"])
def test_equal_answers_give_equal_bytes(form: Format) -> None:
    assert encode(ANSWERS, 0, form, VECTORS) == encode(list(ANSWERS), 0, form, VECTORS)


def test_json_lines_number_the_rows_and_say_why_one_failed() -> None:
    lines = encode(ANSWERS, 10, "jsonl", VECTORS).decode().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"row": 10, "v": [0.1, "nan"]},
        {"row": 11, "error": "why"},
        {"row": 12, "v": [3.0, 1e-08]},
    ]


def test_json_numbers_give_the_same_float32_again() -> None:
    values = np.random.default_rng(3).standard_normal(999).astype(np.float32)
    line = json.loads(encode([{"v": values}], 0, "jsonl", {}))
    np.testing.assert_array_equal(np.array(line["v"], np.float32), values)


def test_json_lines_keep_text_and_nested_records() -> None:
    answer = {"tags": [{"label": "PER", "score": 0.25, "text": "Zoë"}]}
    raw = encode([answer], 3, "jsonl", {})
    assert json.loads(raw) == {"row": 3, **answer}
    assert "Zoë".encode() in raw


def test_parquet_holds_the_same_as_a_table() -> None:
    pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    found = parquet.read_table(io.BytesIO(encode(PAIRS, 5, "parquet", BOTH))).to_pydict()
    assert found == {
        "row": [5, 6],
        "v": [None, [1.5, 2.0]],
        "file": [None, 7],
        "error": ["why", None],
    }


@pytest.mark.parametrize(
    ("form", "shapes", "message"),
    [
        ("npy", BOTH, r"2 outputs \(v, file\), which npy cannot hold; .*--format npz"),
        ("npy", {}, "no fixed shape, which npy cannot hold; wanted jsonl"),
        ("npz", {}, "no fixed shape, which npz cannot hold; wanted jsonl"),
    ],
)
def test_a_format_that_cannot_hold_the_answers_is_refused(
    form: Format, shapes: dict[str, tuple[tuple[int, ...], str]], message: str
) -> None:
    with pytest.raises(ScoreError, match=message):
        encode(PAIRS, 0, form, shapes)


def test_tallies_add_up_and_give_the_share_of_padding() -> None:
    both = Tally(tokens=10, padded_tokens=10, batches=1) + Tally(tokens=5, padded_tokens=10)
    assert both == Tally(tokens=15, padded_tokens=20, batches=1)
    assert (both.padding_share, Tally().padding_share) == (0.25, 0.0)


def test_numbers_that_json_does_not_have_are_strings_wherever_they_are() -> None:
    nan, inf = float("nan"), float("inf")
    given = {"score": nan, "scores": np.array([inf], np.float32), "tags": [{"score": -inf}]}
    line = encode([given], 0, "jsonl", {}).decode()

    def refuse(name: str) -> None:
        raise AssertionError(name)

    assert json.loads(line, parse_constant=refuse) == {
        "row": 0,
        "score": "nan",
        "scores": ["inf"],
        "tags": [{"score": "-inf"}],
    }


def test_parts_in_parquet_can_be_read_as_one_table_whatever_is_in_the_first(
    tmp_path: Path,
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    example = {"tags": [{"label": "", "score": 0.0}]}
    shapes = {"v": ((2,), "float32")}
    tagged = {"tags": [{"label": "x", "score": 0.5}], "v": np.array([0.1, 2], np.float32)}
    empty = {"tags": [], "v": np.zeros(2, np.float32)}
    rows: list[Answer | Fault] = [Fault("why"), empty, tagged]
    for number, answer in enumerate(rows):
        data = encode([answer], number, "parquet", shapes, example)
        (tmp_path / f"part-{number}.parquet").write_bytes(data)
    table = parquet.read_table(tmp_path)
    assert table.column("tags").to_pylist() == [None, [], tagged["tags"]]
    assert table.column("error").to_pylist() == ["why", None, None]
    assert str(table.schema.field("v").type.value_type) == "float"
