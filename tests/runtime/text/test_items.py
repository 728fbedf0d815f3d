from __future__ import annotations

import pytest

from trt_int8.errors import RequestError
from trt_int8.runtime.text.items import as_texts, check_collection


@pytest.mark.parametrize(
    ("item", "wanted"),
    [("", ("",)), ("a\r\nb\0", ("a\r\nb\0",)), (("a", "🙂"), ("a", "🙂")), (["a", ""], ("a", ""))],
)
def test_texts_and_pairs_of_any_characters_are_taken(item: object, wanted: object) -> None:
    assert as_texts(item, 0) == wanted


@pytest.mark.parametrize(
    ("item", "came"),
    [
        (None, "text 7 is None"),
        (b"bytes", "text 7 is a bytes"),
        (3.5, "text 7 is a float"),
        (("a", None), "text 7 is a pair with None"),
        (("a", "b", "c"), "text 7 is a tuple of 3"),
        ((), "text 7 is a tuple of 0"),
        ("ab\ud83d", r"text 7 has a lone surrogate \(U\+D83D\) at character 2"),
        (("a", "\udfff"), r"text 7 has a lone surrogate \(U\+DFFF\) at character 0"),
    ],
)
def test_everything_else_is_refused_by_its_place(item: object, came: str) -> None:
    with pytest.raises(RequestError, match=f"^{came}; wanted"):
        as_texts(item, 7)


def test_a_pair_is_refused_where_one_text_is_wanted() -> None:
    with pytest.raises(RequestError, match="text 2 is a tuple of 2; wanted a str;"):
        as_texts(("a", "b"), 2, pairs=False)


@pytest.mark.parametrize("texts", ["one text", b"bytes", None, 3])
def test_one_text_is_not_taken_for_a_list_of_its_characters(texts: object) -> None:
    with pytest.raises(RequestError, match="put it into a list"):
        check_collection(texts)
    check_collection(["one text"])
