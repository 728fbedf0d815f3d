from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trt_int8.calibrate.texts import (
    Texts,
    TokenArrays,
    batches_of_one_length,
    builtin_texts,
    padded_batches,
    read_texts,
    split,
    tokenize,
)
from trt_int8.errors import CalibrationError


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "odd.txt"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def texts(*sentences: str) -> Texts:
    return Texts(tuple((s,) for s in sentences), "odd.txt")


def tokens(*lengths: int) -> list[TokenArrays]:
    """One text per length; its number in the file stands at every position."""
    return [
        {"ids": np.full((1, n), i), "mask": np.ones((1, n), np.int64)}
        for i, n in enumerate(lengths)
    ]


class WordTokenizer:
    """One token per word: its length; `type` tells the first text from the second."""

    def __call__(
        self, *item: str, truncation: bool, max_length: int, return_tensors: str
    ) -> dict[str, Any]:
        assert (truncation, return_tensors) == (True, "np")
        words = [(len(word), kind) for kind, text in enumerate(item) for word in text.split()]
        ids, kinds = zip(*words[:max_length], strict=True)
        return {"ids": np.array([ids], np.int32), "type": np.array([kinds]), "other": None}


def test_sentences_and_pairs_are_read_in_file_order(tmp_path: Path) -> None:
    path = write(tmp_path, "b one\n\n  \na \t two \r\nlast")
    found = read_texts(path)
    assert found.items == (("b one",), ("a", "two"), ("last",))
    assert found.origin == str(path)


def test_a_byte_order_mark_is_not_part_of_the_first_text(tmp_path: Path) -> None:
    assert read_texts(write(tmp_path, b"\xef\xbb\xbfa\nb")).items == (("a",), ("b",))


@pytest.mark.parametrize("mark", ["\u2028", "\x85"])
def test_only_a_line_feed_ends_a_line(tmp_path: Path, mark: str) -> None:
    assert len(read_texts(write(tmp_path, f"one{mark}still one\ntwo\n")).items) == 2


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"'.*odd\.txt' cannot be read \(No such file"):
        read_texts(tmp_path / "odd.txt")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"cannot be read \(Is a directory\)"):
        read_texts(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; wanted text"),
        (b"\n \n\t\n", "all lines of calibration file .* are empty"),
        (b"ab\xff\nc", r"is not UTF-8 \(byte 2\)"),
        (b"a\0b\nc\n", "is binary"),
        (b"only one\n", "has one text; wanted at least 2"),
        (b"a\nb\tc\td\n", "line 2 of .* has 3 tab-separated fields; wanted a sentence or a pair"),
        (b"a\n\nb\t\n", "line 3 of .* has 2 tab-separated fields, one of them empty"),
    ],
)
def test_a_bad_file_is_refused_with_the_reason(
    tmp_path: Path, content: bytes, message: str
) -> None:
    with pytest.raises(CalibrationError, match=f"{message}.*pass --calib FILE"):
        read_texts(write(tmp_path, content))


def test_the_builtin_sentences_are_hundreds_of_different_texts() -> None:
    items = read_texts(builtin_texts()).items
    assert len(set(items)) == len(items) >= 400


def test_every_fourth_text_is_held_out() -> None:
    used, held = split(texts(*"abcdefghi"), 512)
    assert [i[0] for i in held.items] == ["d", "h"]
    assert [i[0] for i in used.items] == ["a", "b", "c", "e", "f", "g", "i"]


@pytest.mark.parametrize(("count", "held_out"), [(2, 1), (3, 1), (4, 1), (7, 1), (8, 2), (113, 28)])
def test_short_files_hold_out_a_text_too(count: int, held_out: int) -> None:
    used, held = split(texts(*map(str, range(count))), 512)
    assert (len(held.items), len(used.items)) == (held_out, count - held_out)


def test_no_more_than_the_asked_texts_calibrate() -> None:
    used, held = split(texts(*map(str, range(40))), 3)
    assert [i[0] for i in used.items] == ["0", "1", "2"]
    assert len(held.items) == 10


def test_a_text_that_stands_many_times_counts_once() -> None:
    used, held = split(texts("same", "b", "c", "same", "same"), 512)
    assert used.items == (("same",), ("b",))
    assert held.items == (("c",),)


def test_no_more_than_512_texts_are_held_out() -> None:
    used, held = split(texts(*map(str, range(2400))), 9999)
    assert (len(held.items), held.items[-1]) == (512, (str(4 * 512 - 1),))
    assert len(used.items) == 1800


def test_texts_that_are_all_the_same_are_refused() -> None:
    with pytest.raises(CalibrationError, match=r"all texts of 'odd\.txt' are the same"):
        split(texts("a", "a", "a"), 512)


def test_two_different_texts_are_enough_however_often_they_stand() -> None:
    used, held = split(texts(*"abaabaab"), 512)
    assert (used.items, held.items) == ((("a",),), (("b",),))


def test_each_text_is_tokenized_alone_and_cut() -> None:
    given = Texts((("aa bbb", "c"), ("dddd e f g h",)), "")
    first, second = tokenize(WordTokenizer(), given, ["type", "ids"], 4)
    assert list(first) == ["type", "ids"]
    assert first["ids"].dtype == np.int64
    assert (first["ids"].tolist(), first["type"].tolist()) == ([[2, 3, 1]], [[0, 0, 1]])
    assert second["ids"].tolist() == [[4, 1, 1, 1]]


def test_texts_of_one_length_share_a_batch() -> None:
    batches = batches_of_one_length(tokens(5, 3, 5, 3, 3), 2)
    assert [b["ids"].tolist() for b in batches] == [
        [[1] * 3, [3] * 3],
        [[4] * 3],
        [[0] * 5, [2] * 5],
    ]


@settings(max_examples=40)
@given(st.lists(st.integers(1, 6), max_size=20), st.integers(1, 4))
def test_batching_loses_no_text_and_adds_no_padding(lengths: list[int], size: int) -> None:
    batches = batches_of_one_length(tokens(*lengths), size)
    rows = [(int(row[0]), len(row)) for batch in batches for row in batch["ids"]]
    assert sorted(rows) == list(enumerate(lengths))
    assert all(len(batch["ids"]) <= size and batch["mask"].all() for batch in batches)


def masked_tokens(*lengths: int) -> list[TokenArrays]:
    return [{"ids": t["ids"] + 1, "attention_mask": t["mask"]} for t in tokens(*lengths)]


def test_padded_texts_stand_in_file_order_with_zeros_in_their_mask() -> None:
    first, second = padded_batches(masked_tokens(2, 4, 1), 2, 4, {"ids": 9})
    assert first["ids"].tolist() == [[1, 1, 9, 9], [2, 2, 2, 2]]
    assert first["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert second["ids"].tolist() == [[3, 9, 9, 9]]
    assert {array.dtype for array in (*first.values(), *second.values())} == {np.dtype(np.int64)}


def test_what_has_no_padding_of_its_own_is_filled_with_zeros() -> None:
    (batch,) = padded_batches(masked_tokens(1), 4, 3, {})
    assert batch["ids"].tolist() == [[1, 0, 0]]


def test_the_mask_of_padding_is_0_whatever_the_tokenizer_pads_with() -> None:
    (batch,) = padded_batches(masked_tokens(1), 4, 3, {"attention_mask": 1, "ids": 7})
    assert batch["attention_mask"].tolist() == [[1, 0, 0]]


@settings(max_examples=40)
@given(st.lists(st.integers(1, 6), max_size=12), st.integers(1, 4), st.integers(6, 9))
def test_padding_loses_no_token(lengths: list[int], size: int, length: int) -> None:
    batches = padded_batches(masked_tokens(*lengths), size, length, {"ids": 99})
    kept = [
        row[mask == 1].tolist()
        for batch in batches
        for row, mask in zip(batch["ids"], batch["attention_mask"], strict=True)
    ]
    assert kept == [[number + 1] * n for number, n in enumerate(lengths)]
    assert all(len(b["ids"]) <= size and b["ids"].shape[1] == length for b in batches)


def test_no_texts_make_no_padded_batches() -> None:
    assert padded_batches([], 2, 4, {}) == []


def test_padding_for_a_model_without_a_mask_is_refused() -> None:
    with pytest.raises(
        CalibrationError,
        match="pad_to = 4 with a model that reads only ids, mask; wanted an input attention_mask",
    ):
        padded_batches(tokens(2, 3), 2, 4, {})
