"""Padding leaves no trace in the statistics of a tensor, whatever its layout."""

from __future__ import annotations

import math
from functools import reduce

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support.collected import EVERYTHING
from tests.support.same_statistics import assert_same
from trt_int8.calibrate.readers import reader_of
from trt_int8.calibrate.statistics import TensorStatistics, statistics_of
from trt_int8.calibrate.token_axes import PROBES, Padding, TokenAxes, batch_is_inner, shape_after
from trt_int8.calibrate.values import Values
from trt_int8.errors import RangeError

# One word per axis; B texts, S tokens (T once more, for keys), N heads, D and H channels.
FLAT = ("B S H", "BS H", "S B H", "B N S D", "BN S D", "B N D S", "BN D S", "B S", "B H S")
ATTENTION = ("B N S T", "BN S T", "B S T")
WITHOUT_TOKENS = ("B H", "N B D", "D H")
Sizes = dict[str, int]
Mask = NDArray[np.bool_]


def sizes(batch: int, length: int, heads: int = 2, channels: int = 4) -> Sizes:
    return {"B": batch, "S": length, "T": length, "N": heads, "D": channels, "H": channels, "1": 1}


def shape_of(layout: str, size: Sizes) -> tuple[int, ...]:
    return tuple(math.prod(size[letter] for letter in word) for word in layout.split())


def axes_of(layout: str, heads: int = 2, channels: int = 4) -> TokenAxes:
    first, second = (shape_of(layout, sizes(*probe, heads, channels)) for probe in PROBES)
    return TokenAxes.of((first, second))


def padded(layout: str, size: Sizes, mask: Mask, seed: int) -> NDArray[np.float32]:
    """Random values, one axis per letter, NaN at the padding."""
    letters = layout.replace(" ", "")
    normal = np.random.default_rng(seed).standard_normal([size[n] for n in letters])
    array = np.exp(normal).astype(np.float32)
    for letter in "ST" if "B" in letters else "":
        if letter in letters:
            pair = (letters.index("B"), letters.index(letter))
            np.moveaxis(array, pair, (0, 1))[~mask] = np.nan
    return array


def without_padding(
    layout: str, array: NDArray[np.float32], mask: Mask, channel: str
) -> TensorStatistics | None:
    """Statistics of each text alone, cut to its tokens, merged."""
    letters = layout.replace(" ", "")
    found = []
    for text in range(mask.shape[0]) if "B" in letters else (None,):
        rest, cut = letters, array
        if text is not None:
            rest, cut = letters.replace("B", ""), np.take(array, text, letters.index("B"))
            for letter in set(rest) & set("ST"):
                cut = np.compress(mask[text], cut, rest.index(letter))
        rows = np.moveaxis(cut, rest.index(channel), -1) if channel else cut
        rows = rows.reshape(-1, rows.shape[-1]) if rows.size else np.zeros((0, 1), np.float32)
        values = Values(torch.from_numpy(rows.copy()), has_channels=channel in ("H", "D"))
        found.append(statistics_of("oracle", values, EVERYTHING, 0))
    kept = [each for each in found if each is not None]
    return reduce(TensorStatistics.merge, kept) if kept else None


def masked(
    layout: str, array: NDArray[np.float32], size: Sizes, mask: Mask
) -> TensorStatistics | None:
    x = torch.from_numpy(array.reshape(shape_of(layout, size)))
    values = axes_of(layout, size["N"], size["H"]).values(
        "t", x, Padding.of(torch.from_numpy(mask))
    )
    return statistics_of("t", values, EVERYTHING, 0)


def channel_of(layout: str) -> str:
    return next((letter for letter in "HDTS" if letter in layout), "")


@st.composite
def ragged(draw: st.DrawFn) -> Mask:
    """Tokens first, then padding, another number of it in each text; bool [B, S]."""
    length = draw(st.integers(1, 7))
    lengths = draw(st.lists(st.integers(0, length), min_size=1, max_size=4))
    return np.arange(length) < np.array(lengths)[:, None]


@st.composite
def scattered(draw: st.DrawFn) -> Mask:
    """Padding anywhere; bool [B, S]."""
    batch, length = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    flat = draw(st.lists(st.booleans(), min_size=batch * length, max_size=batch * length))
    return np.array(flat).reshape(batch, length)


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(FLAT), scattered(), st.integers(1, 3), st.integers(1, 6), st.integers(0, 9))
def test_padding_changes_no_statistic_of_a_tensor_with_tokens_once(
    layout: str, mask: Mask, heads: int, channels: int, seed: int
) -> None:
    size = sizes(mask.shape[0], mask.shape[1], heads, channels)
    array = padded(layout, size, mask, seed)
    expected = without_padding(layout, array, mask, channel_of(layout))
    if layout == "B S":
        # No channels: a text is a row of as many values as it has tokens.
        found = masked(layout, array, size, mask)
        assert (found and found.count) == (expected and expected.count)
        assert (found and found.low) == (expected and expected.low)
        return
    assert_same(masked(layout, array, size, mask), expected)


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(ATTENTION), ragged(), st.integers(1, 3), st.integers(1, 6), st.integers(0, 9)
)
def test_padding_changes_no_statistic_of_attention_weights(
    layout: str, mask: Mask, heads: int, channels: int, seed: int
) -> None:
    size = sizes(mask.shape[0], mask.shape[1], heads, channels)
    array = padded(layout, size, mask, seed)
    expected = without_padding(layout, array, mask, "T")
    assert_same(masked(layout, array, size, mask), expected)


@pytest.mark.parametrize("channels", [2, 3, 5, 7, 10, 21])
@pytest.mark.parametrize("layout", ["B S H", "BS H", "BN D S", "B N S D"])
def test_channels_as_many_as_the_probes_have_tokens_or_texts_stay_channels(
    layout: str, channels: int
) -> None:
    size = sizes(2, 5, 3, channels)
    mask = np.arange(5) < np.array([[5], [2]])
    array = padded(layout, size, mask, 0)
    expected = without_padding(layout, array, mask, channel_of(layout))
    assert_same(masked(layout, array, size, mask), expected)


@pytest.mark.parametrize("layout", WITHOUT_TOKENS)
def test_all_values_of_a_tensor_without_tokens_count(layout: str) -> None:
    mask = np.array([[True, True, False], [True, False, False]])
    size = sizes(*mask.shape)
    array = padded(layout, size, mask, 3)
    found = masked(layout, array, size, mask)
    assert found is not None
    assert (found.count, found.high) == (array.size, float(array.max()))


@pytest.mark.parametrize("layout", ["1 N S T", "N S T", "S T", "1 S H"])
def test_all_values_of_a_position_table_count(layout: str) -> None:
    mask = np.array([[True, True, False], [True, False, False]])
    size = sizes(*mask.shape)
    array = padded(layout, size, mask, 3)
    assert np.isfinite(array).all()
    found = masked(layout, array, size, mask)
    assert found is not None
    assert (found.count, found.high) == (array.size, float(array.max()))


def test_a_row_of_attention_weights_keeps_its_keys_and_loses_the_padded_ones() -> None:
    x = torch.tensor([[[1.0, 2.0, 9.0], [3.0, 4.0, 9.0], [9.0, 9.0, 9.0]]])
    mask = torch.tensor([[True, True, False]])
    values = axes_of("B S T").values("t", x, Padding.of(mask))
    assert values.count() == 4
    found = reader_of(values).extremes()
    assert (found.low, found.high) == (1.0, 4.0)
    assert values.rows[:, :2].tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert not values.rows[:, 2:].any()


def test_a_text_of_padding_only_has_no_values() -> None:
    x = torch.full((1, 2, 4), torch.nan)
    values = axes_of("B S H").values("t", x, Padding.of(torch.zeros(1, 2, dtype=torch.bool)))
    assert values.count() == 0


@pytest.mark.parametrize("mask", [None, torch.ones(2, 3, dtype=torch.bool)])
def test_without_padding_the_rows_are_the_last_axis(mask: torch.Tensor | None) -> None:
    x = torch.arange(24.0).reshape(2, 3, 4)
    values = axes_of("B S H").values("t", x, Padding.of(mask))
    assert values.rows.tolist() == x.reshape(6, 4).tolist()
    assert values.has_channels
    assert values.counted is None


@pytest.mark.parametrize("mask", [None, torch.tensor([[True, True, True], [True, True, True]])])
def test_the_rows_of_transposed_keys_are_tokens(mask: torch.Tensor | None) -> None:
    keys = torch.arange(24.0).reshape(2, 3, 4)
    values = axes_of("B D S").values("t", keys.transpose(1, 2), Padding.of(mask))
    assert values.rows.tolist() == keys.reshape(6, 4).tolist()


def test_nothing_is_written_into_the_tensor() -> None:
    x = torch.ones(1, 3, 3)
    axes_of("B S T").values("t", x, Padding.of(torch.tensor([[True, False, False]])))
    assert x.tolist() == torch.ones(1, 3, 3).tolist()


def test_a_single_number_is_one_value() -> None:
    values = TokenAxes(()).values(
        "t", torch.tensor(-2.5), Padding.of(torch.tensor([[True, False]]))
    )
    assert values.rows.tolist() == [[-2.5]]


@pytest.mark.parametrize(
    "shapes",
    [
        ((2, 9, 4), (3, 9, 4, 1)),  # another rank
        ((2, 6, 4), (3, 8, 4)),  # one token more
        ((2, 15, 4), (3, 21, 4)),  # heads and tokens in one axis
    ],
)
def test_padding_that_cannot_be_found_is_refused_by_name_and_shape(
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
) -> None:
    x, mask = torch.ones(shapes[0]), torch.tensor([[True] * 4 + [False]] * 2)
    with pytest.raises(RangeError, match=r"'odd' of shape \[2, \d+, 4\] has an axis of unknown"):
        TokenAxes.of(shapes).values("odd", x, Padding.of(mask))
    assert TokenAxes.of(shapes).values("odd", x, None).count() == x.numel()


def test_tokens_beside_texts_and_tokens_in_one_axis_are_refused() -> None:
    x, mask = torch.ones(shape_of("BS S", sizes(2, 3))), torch.tensor([[True, True, False]] * 2)
    with pytest.raises(RangeError, match=r"'odd' of shape \[6, 3\] has an axis of unknown"):
        axes_of("BS S").values("odd", x, Padding.of(mask))


@pytest.mark.parametrize("missing", [-1, -2, -3, 1, 2])
def test_an_axis_of_more_or_fewer_tokens_is_not_taken_for_texts(missing: int) -> None:
    """A model that cuts off its first token has an axis of S - 1."""
    first, second = ((batch, tokens + missing, 4) for batch, tokens in PROBES)
    assert TokenAxes.of((first, second)).kinds == ("batch", "unknown", "fixed")


@pytest.mark.parametrize("layout", ["H BS", "S H B", "BS"])
def test_padding_in_a_tensor_whose_last_axis_counts_texts_does_not_enter(layout: str) -> None:
    mask = np.array([[True, True, False], [True, False, False]])
    size = sizes(*mask.shape)
    found = masked(layout, padded(layout, size, mask, 1), size, mask)
    assert found is not None
    assert found.count == 3 * (4 if "H" in layout else 1)


@pytest.mark.parametrize("layout", [*FLAT, *ATTENTION, *WITHOUT_TOKENS, "1 N S T"])
@pytest.mark.parametrize("size", [(1, 384), (16, 40), (2, 5)])
def test_the_size_of_a_tensor_is_foretold_from_the_probes(
    layout: str, size: tuple[int, int]
) -> None:
    first, second = (shape_of(layout, sizes(*probe)) for probe in PROBES)
    expected = math.prod(shape_of(layout, sizes(*size)))
    assert shape_after((first, second), size) == expected


def equal_texts(layout: str, batch: int, length: int) -> torch.Tensor:
    """Random values that are the same for every text."""
    letters = layout.replace(" ", "")
    size = sizes(batch, length)
    shape = [1 if letter == "B" else size[letter] for letter in letters]
    one = np.random.default_rng(5).standard_normal(shape).astype(np.float32)
    whole = np.broadcast_to(one, [size[letter] for letter in letters])
    return torch.from_numpy(whole.reshape(shape_of(layout, size)).copy())


@pytest.mark.parametrize("layout", [*FLAT, *ATTENTION, *WITHOUT_TOKENS])
def test_texts_that_are_outermost_in_every_axis_are_found_so(layout: str) -> None:
    assert batch_is_inner(equal_texts(layout, 3, 5), 3) == ()


@pytest.mark.parametrize(("layout", "axis"), [("SB H", 0), ("NB S D", 0), ("H SB", 1)])
def test_texts_that_are_inside_an_axis_are_found_and_its_padding_is_refused(
    layout: str, axis: int
) -> None:
    inner = batch_is_inner(equal_texts(layout, 3, 5), 3)
    assert inner == (axis,)
    x = equal_texts(layout, 3, 5)
    mask = torch.tensor([[True] * 5, [True] * 4 + [False], [True] * 5])
    with pytest.raises(RangeError, match="has an axis of unknown meaning"):
        axes_of(layout).without(inner).values("t", x, Padding.of(mask))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_zeros_that_stand_for_padded_keys_are_no_extremes(sign: float) -> None:
    x = sign * torch.tensor([[[1.0, 2.0, 9.0], [3.0, 4.0, 9.0], [9.0, 9.0, 9.0]]])
    mask = torch.tensor([[True, True, False]])
    values = axes_of("B S T").values("t", x, Padding.of(mask))
    found = reader_of(values).extremes()
    assert sorted(map(abs, (found.low, found.high))) == [1.0, 4.0]
