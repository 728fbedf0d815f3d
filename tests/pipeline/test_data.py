"""Profiles and token data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from trt_int8.calibrate.texts import Texts
from trt_int8.errors import CalibrationError, ShapeError
from trt_int8.pipeline.data import CalibrationData, choose_profile, tokenize_texts
from trt_int8.pipeline.options import InputOptions
from trt_int8.spec.recipe import CalibrationSettings, Recipe
from trt_int8.spec.shapes import parse_shapes

NAMES = ("input_ids", "attention_mask", "token_type_ids")
# Five different texts of 1 to 5 words; the fourth is held out.
TEXTS = Texts(tuple((" ".join(["word"] * n),) for n in (3, 1, 5, 4, 2)), "odd.txt")


class Words:
    """One token per word; pads with 9 and type 3."""

    pad_token_id = 9
    pad_token_type_id = 3

    def __call__(self, text: str, *, max_length: int, **_: Any) -> dict[str, Any]:
        count = min(len(text.split()), max_length)
        ids = np.arange(1, count + 1).reshape(1, -1)
        return dict(zip(NAMES, (ids, np.ones_like(ids), np.zeros_like(ids)), strict=True))


def tokenized(
    *, names: Sequence[str] = NAMES, tokenizer: object = None, **settings: Any
) -> CalibrationData:
    recipe = Recipe(calibration=CalibrationSettings.model_validate(settings))
    options = InputOptions(model="odd", recipe=recipe)
    profile = parse_shapes("batch=1:1:9,seq=1:2:4")
    return tokenize_texts(tokenizer or Words(), TEXTS, tuple(names), profile, options)


def widths(data: CalibrationData) -> list[tuple[int, ...]]:
    return [batch["input_ids"].shape for batch in data.calibration]


def test_texts_of_one_length_are_run_together_and_none_is_longer_than_the_profile() -> None:
    data = tokenized()
    assert widths(data) == [(1, 1), (1, 2), (1, 3), (1, 4)]
    assert all(batch["attention_mask"].all() for batch in data.calibration)
    assert (data.samples, [b["input_ids"].shape for b in data.held_out]) == (4, [(1, 4)])


def test_with_pad_to_texts_are_cut_and_filled_as_the_tokenizer_would() -> None:
    data = tokenized(pad_to=3, batch_size=3)
    assert widths(data) == [(3, 3), (1, 3)]
    assert data.calibration[0]["input_ids"].tolist() == [[1, 2, 3], [1, 9, 9], [1, 2, 3]]
    assert data.calibration[0]["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 1]]
    assert data.calibration[1]["token_type_ids"].tolist() == [[0, 0, 3]]


def test_held_out_texts_are_neither_padded_nor_cut_to_pad_to() -> None:
    assert [b["input_ids"].tolist() for b in tokenized(pad_to=2).held_out] == [[[1, 2, 3, 4]]]


def test_a_tokenizer_without_padding_pads_with_0() -> None:
    tokenizer = Words()
    tokenizer.pad_token_id = None  # type: ignore[assignment]
    assert tokenized(pad_to=4, tokenizer=tokenizer).calibration[0]["input_ids"][0, 3] == 0


def test_padding_beyond_the_profile_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"pad_to is 5; wanted at most 4, .* --shapes"):
        tokenized(pad_to=5)


def test_padding_for_a_model_without_a_mask_is_refused() -> None:
    with pytest.raises(CalibrationError, match="pad_to = 3 with a model that reads only input_ids"):
        tokenized(pad_to=3, names=("input_ids",))


def test_padding_changes_the_hash_of_the_data() -> None:
    hashes = {tokenized(pad_to=length).sha256() for length in (None, 3, 4, 4)}
    assert len(hashes) == 3


def test_token_ids_of_another_shape_have_another_hash() -> None:
    flat = CalibrationData(1, [{"input_ids": np.arange(6).reshape(1, 6)}], [])
    folded = CalibrationData(1, [{"input_ids": np.arange(6).reshape(2, 3)}], [])
    assert flat.sha256() != folded.sha256()


def test_the_default_profile_is_cut_to_the_model_an_asked_one_is_refused() -> None:
    assert choose_profile(None, 100).dims["seq"].max == 100
    with pytest.raises(ShapeError, match="sequences of 384 tokens; wanted at most 100"):
        choose_profile(parse_shapes("seq=16:128:384"), 100)
