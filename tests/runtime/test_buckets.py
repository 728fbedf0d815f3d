from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.fake_runner import profile, text_signature
from trt_int8.errors import RequestError
from trt_int8.runtime.buckets import Buckets, buckets_of, can_pad, token_axes_of
from trt_int8.runtime.tensors import TensorInfo


def test_the_default_ladder_of_16_to_384_has_the_17_lengths_of_the_docs() -> None:
    steps = [*range(16, 64, 8), *range(64, 128, 16), *range(128, 256, 32), 256, 320, 384]
    assert Buckets.of(16, 384).lengths == tuple(steps)
    assert len(steps) == 17


def test_a_range_of_one_length_has_one_bucket() -> None:
    assert Buckets.of(57, 57).lengths == (57,)


def test_the_ladder_ends_at_the_largest_length_though_it_is_no_step() -> None:
    assert Buckets.of(1, 101).lengths[-2:] == (96, 101)


def test_a_model_without_an_upper_limit_still_has_few_buckets() -> None:
    assert len(Buckets.of(1, 2**31 - 1).lengths) < 120


@given(st.integers(1, 5000), st.integers(0, 5000), st.data())
def test_a_bucket_is_the_least_length_that_holds_the_request(
    smallest: int, more: int, data: st.DataObject
) -> None:
    buckets = Buckets.of(smallest, smallest + more)
    tokens = data.draw(st.integers(1, smallest + more))
    assert buckets.bucket(tokens) == min(n for n in buckets.lengths if n >= tokens)
    assert all(smallest <= length <= smallest + more for length in buckets.lengths)
    assert list(buckets.lengths) == sorted(set(buckets.lengths))


@given(st.integers(1, 100_000))
def test_padding_is_under_a_fifth_of_a_bucket_and_at_most_7_tokens_of_short_ones(
    tokens: int,
) -> None:
    padding = Buckets.of(1, 100_000).bucket(tokens) - tokens
    assert padding <= 7 or padding / (tokens + padding) < 0.2


def test_a_request_that_is_too_long_is_told_to_truncate_or_to_rebuild() -> None:
    with pytest.raises(RequestError, match="request 3 has 97 tokens; wanted at most 96") as caught:
        Buckets.of(1, 96).bucket(97, "request 3")
    assert "truncate it" in caught.value.todo
    assert "--shapes" in caught.value.todo


def test_a_request_without_tokens_is_refused() -> None:
    with pytest.raises(RequestError, match="has no token"):
        Buckets.of(1, 96).bucket(0)


def test_a_model_without_a_mask_has_no_buckets() -> None:
    assert buckets_of(text_signature(mask=False)) is None
    assert buckets_of(text_signature()) is not None


def test_each_profile_has_its_ladder_and_its_longest_length_is_a_bucket() -> None:
    parts = (profile((1, 8), (4, 50)), profile((1, 2), (200, 300)))
    buckets = buckets_of(text_signature(tokens=(4, 300), profiles=parts))
    assert buckets is not None
    assert buckets.bucket(49) == 50
    assert buckets.bucket(51) == 224
    assert buckets.largest == 300


def test_nothing_is_padded_when_an_output_has_an_axis_of_unknown_meaning() -> None:
    signature = text_signature()
    for axis in (None, "other"):
        odd = TensorInfo("odd", "float32", ("batch", axis))
        changed = dataclasses.replace(signature, outputs=(*signature.outputs, odd))
        assert can_pad(signature)
        assert not can_pad(changed)


def test_nothing_is_padded_when_the_token_axis_has_no_name() -> None:
    unnamed = TensorInfo("attention_mask", "int64", ("batch", None), (1, 1), (8, 8))
    signature = dataclasses.replace(
        text_signature(), inputs=(unnamed,), outputs=(), token_axes={"attention_mask": 1}
    )
    assert not can_pad(signature)
    assert token_axes_of(unnamed, signature) == (1,)


def test_an_attention_matrix_has_two_token_axes() -> None:
    matrix = TensorInfo("attentions", "float32", ("batch", 12, "sequence", "sequence"))
    assert token_axes_of(matrix, text_signature()) == (2, 3)
