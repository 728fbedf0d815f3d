from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.fake_runner import text_signature
from trt_int8.errors import RequestError
from trt_int8.runtime.padding import (
    FeedChecker,
    Side,
    check_feeds,
    cut_outputs,
    pad_request,
    token_count,
)
from trt_int8.runtime.tensors import Signature, TensorInfo

SIDES: tuple[Side, ...] = ("right", "left")


def feeds(rows: int, tokens: int) -> dict[str, Any]:
    ids = np.random.default_rng(rows).integers(1, 99, (rows, tokens))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def wide_signature() -> Signature:
    """Beside ids and mask an image per sample, a bias per pair of tokens, embeddings."""
    plain = text_signature()
    image = TensorInfo("image", "float32", ("batch", 3, "width"), (1, 3, 2), (32, 3, 9))
    pairs = TensorInfo(
        "pairs", "float32", ("batch", "sequence", "sequence"), (1, 1, 1), (32, 96, 96)
    )
    return dataclasses.replace(
        plain,
        inputs=(*plain.inputs, image, pairs),
        token_axes={**plain.token_axes, "pairs": 1},
    )


def wide_feeds(rows: int, tokens: int) -> dict[str, Any]:
    image = np.ones((rows, 3, 5), np.float32)
    return {**feeds(rows, tokens), "image": image, "pairs": np.ones((rows, tokens, tokens), "f4")}


def test_good_feeds_come_back_as_they_are_in_the_order_of_the_inputs() -> None:
    given_ = feeds(3, 7)
    found = check_feeds(dict(reversed(given_.items())), text_signature())
    assert list(found) == ["input_ids", "attention_mask"]
    assert all(found[name] is given_[name] for name in found)
    assert token_count(found, text_signature()) == 7


def test_an_array_in_fortran_order_is_brought_to_c_order() -> None:
    odd = {name: np.asfortranarray(array) for name, array in feeds(3, 7).items()}
    found = check_feeds(odd, text_signature())
    assert all(array.flags.c_contiguous for array in found.values())
    assert np.array_equal(found["input_ids"], odd["input_ids"])


def test_a_misspelt_name_is_recognised() -> None:
    with pytest.raises(RequestError, match="no input 'attention_mask' and an unknown") as caught:
        check_feeds({"input_ids": 1, "attention_maks": 1}, text_signature(), request="request 9")
    assert "'attention_maks' may be 'attention_mask'" in str(caught.value)
    assert "request 9" in str(caught.value)


def test_an_input_too_much_is_refused() -> None:
    with pytest.raises(RequestError, match="an unknown input 'labels'"):
        check_feeds({**feeds(1, 2), "labels": np.ones((1, 2))}, text_signature())


def test_feeds_must_be_a_mapping() -> None:
    with pytest.raises(RequestError, match="the request is a list"):
        check_feeds([np.ones((1, 2))], text_signature())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_ids": np.ones((2, 6), np.int64)}, "has 7 along 'tokens', 'input_ids' has 6"),
        ({"attention_mask": np.ones((3, 7), np.int64)}, "has 3 along 'batch', 'input_ids' has 2"),
        ({"input_ids": np.ones((2, 0), np.int64)}, r"shape \[2, 0\]"),
        ({"input_ids": np.ones((0, 7), np.int64)}, r"shape \[0, 7\]"),
        ({"input_ids": np.ones((33, 7), np.int64)}, r"shape \[33, 7\]"),
        ({"input_ids": np.ones((2, 97), np.int64)}, "97 tokens; wanted at most 96"),
        ({"input_ids": np.ones(7, np.int64)}, "add the batch axis"),
        ({"input_ids": np.ones((2, 7, 1), np.int64)}, "has 3 axes"),
        ({"image": np.ones((2, 4, 5), np.float32)}, r"shape \[2, 4, 5\]"),
        ({"pairs": np.ones((2, 7, 6), np.float32)}, "'tokens'"),
    ],
)
def test_wrong_sizes_are_refused_with_the_name_of_the_input(
    change: dict[str, Any], message: str
) -> None:
    check_feeds(wide_feeds(2, 7), wide_signature())
    with pytest.raises(RequestError, match=message):
        check_feeds({**wide_feeds(2, 7), **change}, wide_signature())


def test_batches_must_agree_though_their_axes_have_no_names() -> None:
    infos = tuple(TensorInfo(name, "int64", (None, 2), (1, 2), (8, 2)) for name in "ab")
    signature = Signature(infos, (), {}, None)
    with pytest.raises(RequestError, match="'b' of the request has 3 along 'batch', 'a' has 2"):
        check_feeds({"a": np.ones((2, 2), int), "b": np.ones((3, 2), int)}, signature)


def test_a_request_shorter_than_the_profile_passes_only_if_it_can_be_padded() -> None:
    assert check_feeds(feeds(1, 2), text_signature(tokens=(8, 96)))
    with pytest.raises(RequestError, match=r"shape \[1, 2\]"):
        check_feeds({"input_ids": np.ones((1, 2), int)}, text_signature(tokens=(8, 96), mask=False))


def test_a_sample_has_no_batch_axis_and_any_batch_range_will_do() -> None:
    signature = text_signature(batch=(4, 8))
    sample = {name: array[0] for name, array in feeds(1, 7).items()}
    checker = FeedChecker(signature, sample=True)
    found = checker.check(sample, "request 2")
    assert {name: array.shape for name, array in found.items()} == dict.fromkeys(sample, (7,))
    with pytest.raises(RequestError, match="without the batch axis"):
        checker.check(feeds(1, 7), "request 2")
    with pytest.raises(RequestError, match=r"shape \[1, 7\]"):
        check_feeds(feeds(1, 7), signature)


@pytest.mark.parametrize("side", SIDES)
def test_padding_has_the_value_of_each_input_and_0_in_the_mask(side: Side) -> None:
    values = {"input_ids": 5, "attention_mask": 1}
    found = pad_request(feeds(2, 3), text_signature(), values, 8, side)
    added = slice(3, None) if side == "right" else slice(None, 5)
    assert (found["input_ids"][:, added] == 5).all()
    assert (found["attention_mask"][:, added] == 0).all()
    assert found["attention_mask"].sum() == 6


@pytest.mark.parametrize("side", SIDES)
def test_both_token_axes_of_an_input_are_padded_and_other_axes_are_not(side: Side) -> None:
    found = pad_request(wide_feeds(2, 3), wide_signature(), {"pairs": -4}, 8, side)
    assert found["image"].shape == (2, 3, 5)
    assert found["pairs"].shape == (2, 8, 8)
    corner = found["pairs"][:, :3, :3] if side == "right" else found["pairs"][:, 5:, 5:]
    assert (corner == 1).all()
    assert (found["pairs"] == -4).sum() == 2 * (64 - 9)


@given(st.integers(1, 5), st.integers(1, 20), st.integers(0, 20), st.sampled_from(SIDES))
def test_cutting_gives_back_what_was_padded(rows: int, tokens: int, more: int, side: Side) -> None:
    signature = text_signature()
    given_ = feeds(rows, tokens)
    padded = pad_request(given_, signature, {}, tokens + more, side)
    outputs = {"per_token": np.stack([padded["input_ids"]] * 2, axis=2), "sums": np.arange(rows)}
    cut = cut_outputs(outputs, signature, tokens, side)
    assert np.array_equal(cut["per_token"][..., 0], given_["input_ids"])
    assert cut["sums"] is outputs["sums"]


def test_what_has_the_length_already_is_the_same_object_and_feeds_are_not_changed() -> None:
    given_ = feeds(2, 8)
    before = given_["input_ids"].copy()
    assert pad_request(given_, text_signature(), {}, 8)["input_ids"] is given_["input_ids"]
    pad_request(given_, text_signature(), {}, 16)
    assert np.array_equal(given_["input_ids"], before)


def test_without_a_mask_nothing_is_padded_or_cut() -> None:
    signature = text_signature(mask=False)
    ids = {"input_ids": np.ones((1, 3), np.int64)}
    assert pad_request(ids, signature, {}, 8)["input_ids"].shape == (1, 3)
    outputs = {"per_token": np.ones((1, 8, 2))}
    assert cut_outputs(outputs, signature, 3)["per_token"].shape == (1, 8, 2)


def test_memory_of_a_gpu_is_not_padded() -> None:
    class OnDevice:
        __cuda_array_interface__ = {"shape": (1, 3), "typestr": "<i8", "version": 3}  # noqa: RUF012

    values = {"input_ids": OnDevice(), "attention_mask": OnDevice()}
    assert pad_request(values, text_signature(), {}, 3) == values
    with pytest.raises(RequestError, match="memory of a GPU"):
        pad_request(values, text_signature(), {}, 8)
