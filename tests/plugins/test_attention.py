from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.plugins.attention_cases import SCALARS
from trt_int8.errors import PluginError
from trt_int8.plugins.attention import (
    HEAD_DIMS,
    KEYS_PER_TILE,
    MAX_KEYS,
    AttentionOptions,
    AttentionScalars,
    AttentionShape,
    check_shape,
    constant_arguments,
    grid_blocks,
    integer_arguments,
    launch,
    variant,
)
from trt_int8.plugins.kernel import SHARED_MEMORY_LIMIT_BYTES, float_bits, kernel_folder


class Symbol:
    """A size that TensorRT does not know yet: it only notes what is done with it."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __add__(self, other: int) -> Symbol:
        return Symbol(f"({self.text} + {other})")

    def __floordiv__(self, other: int) -> Symbol:
        return Symbol(f"({self.text} // {other})")


@pytest.mark.parametrize("head_dim", [0, 8, 48, 112, 256])
def test_a_head_size_without_a_kernel_is_refused(head_dim: int) -> None:
    with pytest.raises(PluginError, match=f"heads of {head_dim} elements; wanted one of 16, 32"):
        AttentionOptions(head_dim)


def test_unknown_choices_are_refused_with_the_known_ones() -> None:
    wrong: Any = "padding"
    with pytest.raises(PluginError, match="mask = 'padding'; wanted one of none, lengths"):
        AttentionOptions(64, mask=wrong)
    with pytest.raises(PluginError, match="layout = 'padding'; wanted one of separate, packed"):
        AttentionOptions(64, layout=wrong)


def test_ragged_tokens_take_no_mask() -> None:
    with pytest.raises(PluginError, match="cu_seqlens already says which keys there are"):
        AttentionOptions(64, mask="lengths", layout="ragged")


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_the_tiles_of_every_head_size_fit_in_shared_memory(head_dim: int) -> None:
    options = AttentionOptions(head_dim)
    assert 4 * KEYS_PER_TILE * head_dim <= options.shared_bytes <= SHARED_MEMORY_LIMIT_BYTES


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_rows_that_one_ldmatrix_reads_lie_in_different_banks(head_dim: int) -> None:
    stride = AttentionOptions(head_dim).shared_bytes // (4 * KEYS_PER_TILE)
    assert len({row * stride % 128 // 16 for row in range(8)}) == 8


def test_python_and_cuda_agree_on_the_sizes_of_a_block() -> None:
    source = (kernel_folder() / "attention_tiles.cuh").read_text(encoding="utf-8")
    assert "constexpr int THREADS = 128;" in source
    assert f"constexpr int KEYS = {KEYS_PER_TILE};" in source
    assert "constexpr int M_TILES = HEAD_DIM <= (MASK == 3 ? 32 : 64) ? 2 : 1;" in source
    rows = {head_dim: AttentionOptions(head_dim).rows_per_block for head_dim in HEAD_DIMS}
    assert rows == {16: 128, 32: 128, 64: 128, 80: 64, 96: 64, 128: 64}
    rows = {size: AttentionOptions(size, "full").rows_per_block for size in HEAD_DIMS}
    assert rows == {16: 128, 32: 128, 64: 64, 80: 64, 96: 64, 128: 64}


def test_an_older_architecture_is_refused() -> None:
    with pytest.raises(PluginError, match="asked for sm_70; wanted sm_75 or later"):
        variant(AttentionOptions(64), 70)


def test_the_form_reaches_the_compiler() -> None:
    options = AttentionOptions(80, "full", causal=True, layout="packed", half_output=True)
    assert dict(variant(options, 75).defines) == {
        "HEAD_DIM": 80,
        "MASK": 3,
        "CAUSAL": 1,
        "PACKED": 1,
        "RAGGED": 0,
        "HALF_OUTPUT": 1,
    }


def test_a_launch_covers_every_query_head_and_sequence() -> None:
    made = launch(AttentionOptions(64), AttentionShape(3, 129, 700, 5), 80)
    assert (made.grid, made.block) == ((2, 5, 3), 128)
    made = launch(AttentionOptions(128), AttentionShape(3, 129, 700, 5), 80)
    assert made.grid == (3, 5, 3)


def test_the_grid_of_ragged_tokens_is_made_for_the_longest_sequence() -> None:
    options = AttentionOptions(64, layout="ragged")
    assert launch(options, AttentionShape(4, 900, 900, 2, longest=300), 80).grid == (3, 2, 4)
    assert launch(options, AttentionShape(4, 900, 900, 2), 80).grid == (8, 2, 4)


def test_the_grid_can_be_asked_for_with_a_symbol() -> None:
    assert grid_blocks(AttentionOptions(64), Symbol("S")).text == "((S + 127) // 128)"


def test_integers_come_in_the_order_of_the_kernel() -> None:
    shape = AttentionShape(2, 7, 9, 3, mask=(2, 1, 7))
    came = integer_arguments(AttentionOptions(64, "full"), shape, SCALARS)
    score, factor = float_bits(SCALARS.score_scale), float_bits(SCALARS.v_scale / 0.01)
    assert came == (7, 9, 3, score, factor, 2, 1, 7)
    assert integer_arguments(AttentionOptions(64), shape, SCALARS) == came[:5]


def test_the_output_scale_does_not_matter_to_half() -> None:
    options = AttentionOptions(64, half_output=True)
    assert constant_arguments(options, SCALARS)[1] == float_bits(SCALARS.v_scale)


@pytest.mark.parametrize("softmax_scale", [0.1, 0.125, 1 / 3, 64**-0.5])
def test_the_score_scale_times_the_offset_is_exact(softmax_scale: float) -> None:
    scalars = AttentionScalars(0.0123, 0.0456, 1.0, 1.0, softmax_scale)
    wanted = 0.0123 * 0.0456 * softmax_scale / np.log(2)
    assert scalars.score_scale == pytest.approx(wanted, rel=2**-21)
    product = np.float32(12_582_912) * np.float32(scalars.score_scale)
    assert float(product) == 12_582_912 * scalars.score_scale


@pytest.mark.parametrize("name", ["q_scale", "k_scale", "v_scale", "output_scale", "softmax_scale"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_nothing_was_calibrated_to_is_refused(name: str, value: float) -> None:
    scales = {"q_scale": 0.1, "k_scale": 0.1, "v_scale": 0.1, "output_scale": 0.1}
    with pytest.raises(PluginError, match=f"got {name} = "):
        AttentionScalars(**{"softmax_scale": 0.1, **scales, name: value})


def test_scores_that_int8_cannot_tell_apart_are_refused() -> None:
    with pytest.raises(PluginError, match="calibrate q and k again"):
        AttentionScalars(1.0, 1.0, 1.0, 1.0, 0.25)


def test_scores_that_vanish_in_float32_are_refused() -> None:
    with pytest.raises(PluginError, match=r"log2\(e\) = 0; wanted 2\^-64 to 0.25"):
        AttentionScalars(2.0**-60, 2.0**-60, 1.0, 1.0, 2.0**-60)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (AttentionShape(0, 1, 1, 1), "batch = 0; wanted 1 to 65535"),
        (AttentionShape(1, 1, 1, 65_536), "heads = 65536; wanted 1 to 65535"),
        (AttentionShape(1, 0, 1, 1), "queries = 0; wanted 1 to"),
        (AttentionShape(1, 1, MAX_KEYS + 1, 1), "keys = 65537; wanted 1 to 65536"),
    ],
)
def test_sizes_that_the_kernel_does_not_do_are_refused(shape: AttentionShape, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        check_shape(AttentionOptions(64), shape)


def test_packed_tensors_have_as_many_keys_as_queries() -> None:
    with pytest.raises(PluginError, match="use the separate layout for cross attention"):
        check_shape(AttentionOptions(64, layout="packed"), AttentionShape(1, 7, 8, 1))


def test_a_mask_must_fit_or_be_broadcast() -> None:
    options = AttentionOptions(64, "full")
    check_shape(options, AttentionShape(2, 7, 9, 3, mask=(1, 3, 1)))
    with pytest.raises(PluginError, match=r"mask of \(2, 2, 7\) before its keys"):
        check_shape(options, AttentionShape(2, 7, 9, 3, mask=(2, 2, 7)))
    with pytest.raises(PluginError, match="broadcast the mask in the model"):
        check_shape(AttentionOptions(64, "keys"), AttentionShape(2, 7, 9, 3, mask=(2, 1, 7)))


def test_the_largest_sums_stay_inside_32_bits() -> None:
    assert 255 * 128 * MAX_KEYS < 2**31  # of probability bytes times values
    assert 65_280 * MAX_KEYS < 2**32  # of probabilities
    assert 128 * 128 * max(HEAD_DIMS) < 2**22  # of q times k, beside the offset
