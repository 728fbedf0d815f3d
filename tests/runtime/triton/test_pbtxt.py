from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.runtime.triton.protobuf import parse_config
from trt_int8.runtime.triton.pbtxt import Message, Name, entries, write_text

TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)


def test_every_kind_of_value_is_written_as_the_format_says() -> None:
    message: Message = {
        "name": "m",
        "count": -1,
        "kind": Name("KIND_CPU"),
        "on": True,
        "dims": [1, 2],
        "group": [{"count": 3}, {"count": 4}],
    }
    assert write_text(message) == (
        'name: "m"\ncount: -1\nkind: KIND_CPU\non: true\ndims: [1, 2]\n'
        "group {\n  count: 3\n}\ngroup {\n  count: 4\n}\n"
    )


def test_an_empty_message_is_kept_and_an_empty_list_is_not() -> None:
    assert write_text({"reshape": {"shape": []}, "gpus": []}) == "reshape {}\n"


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(TEXTS, TEXTS, max_size=3))
def test_any_text_comes_back_from_protobuf(table: dict[str, str]) -> None:
    config = parse_config(write_text({"cc_model_filenames": entries(table)}))
    assert dict(config.cc_model_filenames) == table
