from __future__ import annotations

import pytest

from trt_int8.spec.rules import ATTENTION_SITES, is_kept, is_too_small


@pytest.mark.parametrize(
    ("k", "n", "small"), [(16, 16, False), (15, 999, True), (999, 15, True), (64, 2, True)]
)
def test_a_matmul_is_small_below_16_in_either_direction(k: int, n: int, small: bool) -> None:
    assert is_too_small(k, n) is small


def test_an_attention_has_five_sites() -> None:
    assert ATTENTION_SITES == ("query", "key", "value", "softmax", "context")


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("encoder.layer.0.output.dense", True),
        ("encoder.layer.0.output", False),
        ("pooler", True),
        ("my.pooler", False),
        ("Pooler", False),
    ],
)
def test_a_keep_pattern_covers_the_whole_name(name: str, kept: bool) -> None:
    assert is_kept(name, ("encoder.layer.*.dense", "pooler")) is kept


def test_without_patterns_nothing_is_kept() -> None:
    assert not is_kept("", ())
