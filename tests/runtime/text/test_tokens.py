"""Tokens, cuts and windows against transformers' own tokenizers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.text_models import LONGEST, write_byte_bpe, write_unigram, write_wordpiece
from trt_int8.errors import BundleError, RequestError
from trt_int8.runtime.text.tokens import (
    Encoded,
    Layout,
    Texts,
    TextTokenizer,
    cut_sizes,
    load_tokenizer,
)
from trt_int8.spec.text import TextSettings

WRITERS = {"wordpiece": write_wordpiece, "bytes": write_byte_bpe, "unigram": write_unigram}
ODD_TEXTS = (
    "",
    " ",
    "Curie",
    "  Two   spaces, a\ttab and\r\nCRLF  ",
    "naïve e\u0301tude ﬁn",
    "🙂👩‍👩‍👧 東京 שלום עולם مرحبا",
    "[SEP] </s> <pad> [MASK]",
    "null\0byte",
    "word " * 70,
    "x" * 300,
)
texts = st.one_of(
    st.sampled_from(ODD_TEXTS),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=90),
    st.lists(st.sampled_from(["fox", "Unbelievable", "🙂", "עולם", ",", "\n"]), max_size=60).map(
        " ".join
    ),
)


@pytest.fixture(scope="module", params=list(WRITERS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp(request.param)
    WRITERS[request.param](made)
    return made


@pytest.fixture(scope="module")
def oracle(folder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(folder)


def loaded(folder: Path, **changes: Any) -> TextTokenizer:
    return load_tokenizer(folder, TextSettings(task="features", max_tokens=LONGEST, **changes))


def reads(oracle: Any, item: Texts, **options: Any) -> Any:
    """As transformers does it in a batch: alone, it takes an empty second text for none."""
    columns = [[text] for text in item]
    return {name: each[0] for name, each in oracle(*columns, verbose=False, **options).items()}


def assert_same(found: Encoded, wanted: Any, entry: int | None = None) -> None:
    def of(name: str) -> Any:
        return wanted[name] if entry is None else wanted[name][entry]

    assert found.ids.tolist() == of("input_ids")
    # Of windows after the first, `tokenizers` itself numbers the second text 1 against a template.
    if not entry:
        assert found.type_ids.tolist() == of("token_type_ids")
    assert list(found.layout.offsets) == [tuple(pair) for pair in of("offset_mapping")]


OPTIONS = {"return_offsets_mapping": True, "return_token_type_ids": True, "max_length": LONGEST}


@settings(max_examples=60, deadline=None)
@given(items=st.lists(st.one_of(st.tuples(texts), st.tuples(texts, texts)), max_size=4))
def test_tokens_cuts_and_places_are_those_of_transformers(
    items: list[Texts], folder: Path, oracle: Any
) -> None:
    for item, found in zip(items, loaded(folder).encode(items), strict=True):
        assert_same(found, reads(oracle, item, truncation=True, **OPTIONS))
        assert found.cut == len(reads(oracle, item)["input_ids"]) - len(found.ids)


def test_a_left_truncation_side_drops_the_beginning(folder: Path) -> None:
    other = transformers.AutoTokenizer.from_pretrained(folder, truncation_side="left")
    text = " ".join(str(number) for number in range(80))
    found = loaded(folder, truncation_side="left").encode([(text,)])[0]
    assert_same(found, other(text, truncation=True, **OPTIONS))
    assert found.cut > 0


def test_without_a_limit_nothing_is_cut(folder: Path, oracle: Any) -> None:
    item = ("word " * 70, "fox " * 70)
    whole = load_tokenizer(folder, TextSettings(task="features"))
    assert whole.encode([item])[0].ids.tolist() == oracle(*item, verbose=False)["input_ids"]
    assert len(whole.windows(*item, None)) == 1


@settings(max_examples=40, deadline=None)
@given(
    question=st.sampled_from(["", "Who?", "Where is 東京 🙂"]),
    context=texts,
    stride=st.integers(0, 7),
)
def test_windows_are_those_of_transformers(
    question: str, context: str, stride: int, folder: Path, oracle: Any
) -> None:
    found = loaded(folder).windows(question, context, stride)
    options = {"truncation": "only_second", "stride": stride, "return_overflowing_tokens": True}
    wanted = oracle([question], [context], **options, **OPTIONS)
    assert len(found) == len(wanted["input_ids"])
    for entry, window in enumerate(found):
        assert_same(window, wanted, entry)
        assert types_by_part(window) == types_by_part(found[0])


def types_by_part(window: Encoded) -> set[tuple[int | None, int]]:
    own = zip(window.layout.parts, window.type_ids.tolist(), strict=True)
    return {(part, kind) for part, kind in own if part == 1}


@settings(max_examples=30, deadline=None)
@given(context=texts, stride=st.one_of(st.none(), st.integers(0, 12)))
def test_every_token_of_the_context_is_in_a_window_and_neighbours_share_the_stride(
    context: str, stride: int | None, folder: Path
) -> None:
    windows = loaded(folder).windows("Who?", context, stride)
    everything = load_tokenizer(folder, TextSettings(task="features")).windows("Who?", context, 0)
    whole = context_tokens(everything[0])
    joined: list[int] = []
    for place, window in enumerate(windows):
        own = context_tokens(window)
        assert len(window.ids) <= LONGEST
        shared = 0 if place == 0 else stride
        if shared is None:
            shared = (LONGEST - (len(window.ids) - len(own))) // 2
        assert place == 0 or joined[len(joined) - shared :] == own[:shared]
        joined += own[shared:]
    assert joined == whole


def context_tokens(window: Encoded) -> list[int]:
    parts = window.layout.parts
    return [token for token, part in zip(window.ids.tolist(), parts, strict=True) if part == 1]


@pytest.mark.parametrize(("question", "stride"), [("w " * 60, None), ("Who?", 38)])
def test_a_question_or_stride_that_leaves_no_room_is_an_error(
    question: str, stride: int | None, folder: Path
) -> None:
    with pytest.raises(RequestError, match="shorten the question, or lower stride"):
        loaded(folder).windows(question, "fox " * 60, stride)


def test_padding_and_truncation_in_the_tokenizers_file_are_not_applied(
    folder: Path, tmp_path: Path
) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    raw = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    raw["truncation"] = {
        "direction": "Right",
        "max_length": 5,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    raw["padding"] = {
        "strategy": {"Fixed": 30},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(raw), encoding="utf-8")
    item = ("The quick brown fox jumps",)
    found, wanted = loaded(tmp_path).encode([item])[0], loaded(folder).encode([item])[0]
    assert found.ids.tolist() == wanted.ids.tolist()


def test_threads_get_the_same_tokens_as_one(folder: Path) -> None:
    tokenizer = loaded(folder)
    items = [(text,) for text in ODD_TEXTS]
    alone = [each.ids.tolist() for each in tokenizer.encode(items)]

    def work(_number: int) -> list[list[int]]:
        tokenizer.windows("Who?", "fox " * 99, 3)
        return [each.ids.tolist() for each in tokenizer.encode(items)]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(32))) == [alone] * 32


@pytest.mark.parametrize(
    ("sizes", "room", "kept"),
    [
        ([3, 4], 7, [3, 4]),
        ([3, 9], 8, [3, 5]),
        ([9, 3], 8, [5, 3]),
        ([9, 8], 5, [3, 2]),
        ([8, 8], 5, [2, 3]),
        ([8], 5, [5]),
        ([8, 1], 0, [0, 0]),
    ],
)
def test_the_longer_of_a_pair_is_cut_first(sizes: list[int], room: int, kept: list[int]) -> None:
    assert cut_sizes(sizes, room) == kept


def test_words_are_separated_by_white_space_where_the_tokenizer_does_not() -> None:
    layout = Layout(((0, 2), (2, 4), (4, 7), (7, 7)), (0, 0, 0, None), (0, 0, 0, None))
    assert [layout.continues(index, "abcd ef") for index in range(4)] == [False, True, False, False]


def write_vocabulary_alone(folder: Path) -> None:
    source = folder / "whole"
    write_wordpiece(source)
    vocabulary = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))["model"][
        "vocab"
    ]
    lines = sorted(vocabulary, key=vocabulary.__getitem__)
    (folder / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def test_a_vocabulary_without_tokenizer_json_is_read_by_transformers(tmp_path: Path) -> None:
    write_vocabulary_alone(tmp_path)
    item = ("Unbelievable fox, Curie",)
    found = loaded(tmp_path).encode([item])[0]
    assert found.ids.tolist() == loaded(tmp_path / "whole").encode([item])[0].ids.tolist()
    assert found.layout.offsets[1][0] == 0


def test_a_tokenizer_in_python_gives_tokens_but_no_places(tmp_path: Path) -> None:
    transformers.ByT5Tokenizer().save_pretrained(tmp_path)
    assert not (tmp_path / "tokenizer.json").exists()
    tokenizer = loaded(tmp_path)
    short, long = tokenizer.encode([("ab",), ("c" * 50,)])
    assert short.ids.tolist() == [ord("a") + 3, ord("b") + 3, 1]
    assert (len(long.ids), long.cut) == (LONGEST, 11)
    with pytest.raises(RequestError, match="no character offsets"):
        _ = tokenizer.windows("Who?", "fox", None)[0].layout


def damage(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"model": 1', encoding="utf-8")


def nothing(_folder: Path) -> None:
    return


@pytest.mark.parametrize("spoil", [damage, nothing])
def test_a_damaged_or_missing_tokenizer_is_an_error_with_a_mend(
    spoil: Callable[[Path], None], tmp_path: Path
) -> None:
    spoil(tmp_path)
    with pytest.raises(BundleError, match="tokenizer=FOLDER"):
        loaded(tmp_path)


def test_reading_tokenizer_json_does_not_import_transformers_or_torch(tmp_path: Path) -> None:
    write_wordpiece(tmp_path)
    code = (
        "import sys; from pathlib import Path; from trt_int8.spec.text import TextSettings\n"
        "from trt_int8.runtime.text.tokens import load_tokenizer\n"
        f"load_tokenizer(Path({str(tmp_path)!r}), TextSettings(task='features')).encode([('a',)])\n"
        "sys.exit(bool({'transformers', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
