"""Reading data sets: every kind of file, cut into parts of one size, rows in order."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trt_int8.errors import ScoreError
from trt_int8.runtime.score.data import DataSet, PartReader, copy_standard_input, read_data
from trt_int8.runtime.score.rows import Columns, Fault, Row

WORDS = ["a", "b b", "ç", "d\u2028d", "", "f", "g\x0bg"]
BOTH = Columns("q", "ctx")


def rows_of(data: DataSet) -> list[Row | Fault]:
    reader = PartReader(data.columns)
    return [row for part in data.parts for row in reader.read(part)]


def texts_of(path: Path, size: int = 3, columns: Columns | None = None) -> list[Row | Fault]:
    return rows_of(read_data(path, size, columns))


def write(path: Path, data: bytes | str) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def table(rows: list[list[str]], comma: str = ",") -> str:
    out = io.StringIO()
    csv.writer(out, delimiter=comma).writerows(rows)
    return out.getvalue()


@pytest.mark.parametrize("end", ["", "\n"])
@pytest.mark.parametrize("line", ["\n", "\r\n"])
def test_each_line_of_a_text_file_is_a_row(tmp_path: Path, line: str, end: str) -> None:
    path = write(tmp_path / "x.txt", line.join(WORDS) + end)
    assert texts_of(path) == [(word.strip(),) for word in WORDS]


def test_a_tab_separates_a_pair(tmp_path: Path) -> None:
    path = write(tmp_path / "x.txt", "a\tb\nc\n1\t2\t3\n")
    assert texts_of(path)[:2] == [("a", "b"), ("c",)]
    assert texts_of(path)[2] == Fault("the line has 3 tab-separated fields, not one or two")


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = write(tmp_path / "x.txt", b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n")
    assert texts_of(path, 1) == [("a",), ("\ufeffb",)]


def test_a_line_that_is_not_utf8_spoils_its_own_row_only(tmp_path: Path) -> None:
    path = write(tmp_path / "x.txt", b"a\n\xff\xfe\nb\n")
    assert texts_of(path) == [("a",), Fault("the text is not UTF-8"), ("b",)]


def test_json_lines_may_be_objects_strings_or_pairs(tmp_path: Path) -> None:
    lines = [{"text": "a", "id": 3}, "b", ["c", "d"], {"text": "e\nf"}]
    path = write(tmp_path / "x.jsonl", "\n".join(map(json.dumps, lines)))
    assert texts_of(path, 2) == [("a",), ("b",), ("c", "d"), ("e\nf",)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "the line is not JSON"),
        ("", "the line is empty"),
        ('{"t": 1}', "the line has no 'text'"),
        ('{"text": 7}', "the text is int, not a string"),
        ('["a", "b", "c"]', "the list has 3 elements"),
        ('"\\ud800"', "the text is not UTF-8"),
        ("[" * 100_000, "the line is not JSON"),
    ],
)
def test_a_bad_json_line_spoils_its_own_row_only(tmp_path: Path, line: str, reason: str) -> None:
    first, bad, last = texts_of(write(tmp_path / "x.jsonl", f'"a"\n{line}\n"b"\n'))
    assert (first, last) == (("a",), ("b",))
    assert isinstance(bad, Fault)
    assert bad.reason.startswith(reason)


@pytest.mark.parametrize(("suffix", "comma"), [("csv", ","), ("tsv", "\t")])
def test_columns_of_a_table_are_found_by_name(tmp_path: Path, suffix: str, comma: str) -> None:
    rows = [["id", "ctx", "q"], ["1", "c\nc", 'q,"1"'], ["2", "c2\t,", "q2"]]
    path = write(tmp_path / f"x.{suffix}", "\ufeff" + table(rows, comma))
    assert texts_of(path, 1, BOTH) == [('q,"1"', "c\nc"), ("q2", "c2\t,")]


def test_a_short_row_of_a_table_is_a_fault_and_an_empty_line_no_row(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "id,text\n1,a\n\n2\n3,c\n\n")
    assert texts_of(path, 2) == [("a",), Fault("the row has no more than 1 fields"), ("c",)]


def test_a_missing_column_lists_those_that_are_there(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "id,body\n1,a\n")
    with pytest.raises(ScoreError, match=r"no column 'text'; wanted one of 'id', 'body'; .*--col"):
        read_data(path, 2)


def test_a_quote_that_is_never_closed_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", 'text\na\n"b\nc\nd\n')
    with pytest.raises(ScoreError, match=r"cannot be read as a table .*every quote closed"):
        read_data(path, 2)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(WORDS[:3]), max_size=7), min_size=1, max_size=4),
    st.integers(1, 9),
)
def test_parts_have_one_size_and_give_all_rows_in_order(
    tmp_path_factory: pytest.TempPathFactory, files: list[list[str]], size: int
) -> None:
    """Whatever the number of rows of each file; an empty file is no harm."""
    folder = tmp_path_factory.mktemp("data")
    for number, words in enumerate(files):
        write(folder / f"{number}.txt", "".join(f"{word}\n" for word in words))
    expected = [(word,) for words in files for word in words]
    if not expected:
        with pytest.raises(ScoreError, match="has no rows"):
            read_data(folder, size)
        return
    data = read_data(folder, size)
    assert rows_of(data) == expected
    assert [part.rows for part in data.parts[:-1]] == [size] * (len(data.parts) - 1)
    assert 1 <= data.parts[-1].rows <= size
    assert [part.start for part in data.parts] == list(range(0, len(expected), size))


def test_files_of_a_folder_come_by_name_with_their_sha256_and_rows(tmp_path: Path) -> None:
    write(tmp_path / "b.csv", "text\nx\n\n")
    write(tmp_path / "a.txt", "y\nz")
    write(tmp_path / "_SUCCESS", "")
    write(tmp_path / ".hidden", "")
    data = read_data(tmp_path, 2)
    assert [(file.name, file.rows) for file in data.files] == [("a.txt", 2), ("b.csv", 1)]
    for file in data.files:
        raw = (tmp_path / file.name).read_bytes()
        assert (file.sha256, file.size_bytes) == (hashlib.sha256(raw).hexdigest(), len(raw))


def test_a_part_may_go_on_in_the_next_file(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "1\n2\n3\n")
    write(tmp_path / "b.jsonl", '"4"\n"5"\n')
    data = read_data(tmp_path, 4)
    reader = PartReader(data.columns)
    assert reader.read(data.parts[0]) == [("1",), ("2",), ("3",), ("4",)]
    assert reader.read(data.parts[1]) == [("5",)]


@pytest.mark.parametrize(
    ("name", "content"),
    [("x.txt", "a\nb\nc\n"), ("x.csv", "text\na\nb\nc\n"), ("x.jsonl", '"a"\n"b"\n"c"\n')],
)
def test_data_that_change_after_they_were_cut_are_refused(
    tmp_path: Path, name: str, content: str
) -> None:
    data = read_data(write(tmp_path / name, content), 2)
    write(tmp_path / name, content.replace("c", "d"))
    reader = PartReader(data.columns)
    assert reader.read(data.parts[0]) == [("a",), ("b",)]
    with pytest.raises(ScoreError, match=r"rows 2 to 2 of .* have changed"):
        reader.read(data.parts[1])


def test_a_machine_without_the_data_says_so(tmp_path: Path) -> None:
    data = read_data(write(tmp_path / "x.txt", "a\n"), 2)
    (tmp_path / "x.txt").unlink()
    with pytest.raises(ScoreError, match=r"No such file.* at the same path on every machine"):
        rows_of(data)


def test_rows_of_arrays_are_single_samples(tmp_path: Path) -> None:
    for name, count in (("a", 3), ("b", 2)):
        ids = np.arange(4 * count).reshape(count, 4) + (100 if name == "b" else 0)
        np.savez(tmp_path / f"{name}.npz", ids=ids, mask=np.ones((count, 4), bool))
    data = read_data(tmp_path, 2)
    assert data.holds_arrays
    found = [row["ids"].tolist() for row in rows_of(data) if isinstance(row, dict)]
    assert found == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 10, 11],
        [100, 101, 102, 103],
        [104, 105, 106, 107],
    ]


def test_arrays_with_different_numbers_of_samples_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.zeros((3, 2)), b=np.zeros((2, 2)))
    with pytest.raises(ScoreError, match=r"are a \[3, 2\], b \[2, 2\]; wanted as many samples"):
        read_data(tmp_path / "x.npz", 2)


def test_damaged_arrays_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ScoreError, match=r"^file '.*x\.npz' cannot be read"):
        read_data(write(tmp_path / "x.npz", b"nothing"), 2)


def test_parquet_rows_come_in_order_over_row_groups(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    texts = [f"t{n}" for n in range(11)]
    columns = arrow.table({"ctx": texts, "q": [*texts[:10], None]})
    parquet.write_table(columns, tmp_path / "x.parquet", row_group_size=4)
    found = texts_of(tmp_path / "x.parquet", 3, BOTH)
    assert found[:10] == [(text, text) for text in texts[:10]]
    assert found[10] == Fault("the text is NoneType, not a string")


def test_a_parquet_file_that_is_none_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    with pytest.raises(ScoreError, match=r"x\.parquet' cannot be read"):
        read_data(write(tmp_path / "x.parquet", b"nothing at all"), 2)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "is empty"),
        (["a.txt", "b.pdf"], r"b\.pdf' is of an unknown kind; wanted files that end in \.txt"),
        (["a.txt", "b.npz"], "holds .npz files and texts"),
    ],
)
def test_a_folder_with_anything_else_is_refused(
    tmp_path: Path, names: list[str], message: str
) -> None:
    """Leaving a file out silently would shift every later row."""
    for name in names:
        write(tmp_path / name, "x\n")
    with pytest.raises(ScoreError, match=message):
        read_data(tmp_path, 2)


def test_data_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ScoreError, match="does not exist"):
        read_data(tmp_path / "none.txt", 2)


def test_standard_input_is_kept_as_lines(tmp_path: Path) -> None:
    path = copy_standard_input(tmp_path / "in.txt", io.BytesIO(b"a\nb"))
    assert texts_of(path) == [("a",), ("b",)]


def test_blanks_around_a_text_belong_to_it(tmp_path: Path) -> None:
    """As in `trt-int8 run`: a byte-level tokenizer tells " fox" from "fox"."""
    path = write(tmp_path / "x.txt", " fox\u00a0\n a \t b\r\nlast\r\r\n")
    assert texts_of(path) == [(" fox\u00a0",), (" a ", " b"), ("last\r",)]


def test_a_byte_order_mark_before_a_quoted_column_is_no_part_of_its_name(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", '\ufeff"text","a\nb"\r\n"x, y","1"\r\n')
    assert texts_of(path) == [("x, y",)]


def test_a_standard_input_that_is_closed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ScoreError, match="standard input is closed"):
        copy_standard_input(tmp_path / "x.txt")
    assert not list(tmp_path.iterdir())
