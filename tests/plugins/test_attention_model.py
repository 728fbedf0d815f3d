from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.plugins.attention_cases import (
    SCALARS,
    Sizes,
    codes,
    model,
    probabilities,
    random_tensors,
    weighted,
)
from trt_int8.errors import PluginError, ShapeError
from trt_int8.plugins.attention import HEAD_DIMS, AttentionOptions, AttentionScalars
from trt_int8.plugins.attention_model import AttentionTensors, int8_attention

HALF = AttentionOptions(64, half_output=True)
SEEDS = st.integers(0, 2**32 - 1)
LENGTHS = st.integers(1, 150)
FEW = settings(max_examples=25, deadline=None)


def tensors_of(seed: int, queries: int, keys: int, head_dim: int = 64) -> AttentionTensors:
    return random_tensors(AttentionOptions(head_dim), Sizes(1, queries, keys, 2), seed)


def scalars_of(spread: float, head_dim: int) -> AttentionScalars:
    """Scales that give scores of deviation `spread` (natural logarithm), and v in steps."""
    scale = float(np.sqrt(spread)) / 40
    return AttentionScalars(scale, scale, 1.0, 1.0, head_dim**-0.5)


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("length", [1, 17, 64, 384])
@pytest.mark.parametrize("spread", [0.3, 1.0, 3.0, 10.0])
def test_the_error_is_below_that_of_probabilities_in_plain_int8(
    head_dim: int, length: int, spread: float
) -> None:
    options = AttentionOptions(head_dim, half_output=True)
    scalars = scalars_of(spread, head_dim)
    tensors = tensors_of(length, length, length, head_dim)
    probability = probabilities(options, scalars, tensors)
    wanted = weighted(probability, tensors)
    plain = weighted(np.rint(probability * 127) / 127, tensors) - wanted
    ours = model(options, tensors, scalars).astype(np.float64) - wanted
    # Of the output to half, and of the first exponent: all the error a lone key has.
    step = max(2.0**-10, 3 * scalars.score_scale)
    rounding = np.abs(wanted.astype(np.float16) - wanted).max() + 128 * step
    assert np.abs(ours).max() <= np.abs(plain).max() + rounding
    assert np.sqrt((ours**2).mean()) <= np.sqrt((plain**2).mean()) + rounding


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("spread", [1.5, 2.0, 3.0, 5.0])
@pytest.mark.parametrize("offset", [0, 40])
def test_long_rows_stay_below_it_too(seed: int, spread: float, offset: int) -> None:
    scalars = scalars_of(spread, 64)
    q, k, v = tensors_of(seed, 1023, 1023).arrays
    shifted = np.clip(v.astype(np.int16) + offset, -128, 127).astype(np.int8)
    tensors = AttentionTensors((q, k, shifted))
    probability = probabilities(HALF, scalars, tensors)
    wanted = weighted(probability, tensors)
    plain = weighted(np.rint(probability * 127) / 127, tensors) - wanted
    ours = model(HALF, tensors, scalars).astype(np.float64) - wanted
    assert np.abs(ours).max() <= np.abs(plain).max()


@pytest.mark.parametrize("mask", ["lengths", "keys", "full"])
@pytest.mark.parametrize("causal", [False, True])
def test_masks_hide_what_float64_hides(mask: str, causal: bool) -> None:
    options = AttentionOptions(32, mask, causal, half_output=True)  # type: ignore[arg-type]
    tensors = random_tensors(options, Sizes(3, 57, 130, 2), seed=5)
    wanted = weighted(probabilities(options, SCALARS, tensors), tensors) * SCALARS.v_scale
    came = model(options, tensors).astype(np.float64)
    # A probability byte is right to 1/2 of 128 at least, for each of the few keys that matter.
    assert np.abs(came - wanted).max() < 3 * SCALARS.v_scale
    assert not came[-1, -1, -1].any()  # a query that sees nothing
    assert came[0].any()


def test_a_query_that_sees_no_key_gets_zero() -> None:
    options = AttentionOptions(64, "full")
    tensors = random_tensors(options, Sizes(1, 9, 80, 1))
    mask = np.zeros((1, 1, 9, 80), np.float32)
    mask[..., 4, :], mask[..., 5, :], mask[..., 6, :] = -np.inf, np.nan, np.finfo(np.float32).min
    came = model(options, replace(tensors, extra=mask))
    assert not came[:, 4:7].any()
    assert came[:, :4].any(axis=-1).all()


def test_a_finite_mask_on_every_key_only_shifts_the_scores() -> None:
    options = AttentionOptions(64, "keys", half_output=True)
    plain = tensors_of(3, 20, 90)
    shifted = AttentionTensors(plain.arrays, np.full((1, 1, 1, 90), -10_000, np.float32))
    came = model(options, shifted).astype(np.float64)
    wanted = weighted(probabilities(HALF, SCALARS, plain), plain) * SCALARS.v_scale
    assert np.abs(came - wanted).max() < 0.5 * SCALARS.v_scale


def test_a_mask_of_infinity_counts_as_a_large_number() -> None:
    options = AttentionOptions(64, "keys")
    tensors = tensors_of(4, 20, 90)
    mask = np.zeros((1, 1, 1, 90), np.float32)
    mask[..., 33] = np.inf
    alone = SCALARS.v_scale / SCALARS.output_scale * tensors.arrays[2][:, 33:34].astype(np.float64)
    came = model(options, replace(tensors, extra=mask))
    np.testing.assert_array_equal(came, np.broadcast_to(np.clip(alone, -128, 127), came.shape))


def test_saturating_inputs_saturate_the_output() -> None:
    q = np.full((1, 5, 1, 128), -128, np.int8)
    v = np.where(np.arange(128) % 2, 127, -128).astype(np.int8) * np.ones_like(q)
    scalars = replace(SCALARS, v_scale=1.0, output_scale=0.5)
    came = int8_attention(AttentionOptions(128), scalars, AttentionTensors((q, q, v)))
    np.testing.assert_array_equal(came[0, 0, 0, :4], [-128, 127, -128, 127])


@FEW
@given(SEEDS, LENGTHS, st.sampled_from(HEAD_DIMS))
def test_equal_scores_give_the_mean_of_v(seed: int, keys: int, head_dim: int) -> None:
    q, k, v = tensors_of(seed, 3, keys, head_dim).arrays
    same = np.ascontiguousarray(np.broadcast_to(k[:, :1], k.shape))
    options = AttentionOptions(head_dim, half_output=True)
    came = model(options, AttentionTensors((q, same, v))).astype(np.float64)
    wanted = np.broadcast_to(v.mean(axis=1, keepdims=True), came.shape) * SCALARS.v_scale
    # Every P is 255, for a p of at least 2^(-2^-10).
    assert np.abs(came - wanted).max() <= 2.0**-10 * np.abs(wanted).max() + 1e-3


@FEW
@given(SEEDS, LENGTHS, LENGTHS)
def test_padding_with_hidden_keys_changes_nothing(seed: int, keys: int, more: int) -> None:
    plain = tensors_of(seed, 7, keys)
    rng = np.random.default_rng(seed)
    q, k, v = plain.arrays
    longer = [np.concatenate([a, codes(rng, 1, more, 2, 64)], axis=1) for a in (k, v)]
    padded = AttentionTensors((q, longer[0], longer[1]), np.array([keys], np.int32))
    options = AttentionOptions(64, "lengths")
    np.testing.assert_array_equal(model(options, padded), model(AttentionOptions(64), plain))


@FEW
@given(SEEDS, st.integers(1, 64))
def test_keys_of_one_tile_may_come_in_any_order(seed: int, keys: int) -> None:
    q, k, v = tensors_of(seed, 7, keys).arrays
    order = np.random.default_rng(seed).permutation(keys)
    turned = AttentionTensors((q, k[:, order], v[:, order]))
    plain = AttentionTensors((q, k, v))
    np.testing.assert_array_equal(
        model(AttentionOptions(64), turned), model(AttentionOptions(64), plain)
    )


@FEW
@given(SEEDS, LENGTHS)
def test_packed_is_separate(seed: int, length: int) -> None:
    packed = random_tensors(
        AttentionOptions(64, layout="packed"), Sizes(2, length, length, 3), seed
    )
    qkv = packed.arrays[0]
    separate = AttentionTensors((qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]))
    np.testing.assert_array_equal(
        model(AttentionOptions(64, layout="packed"), packed), model(AttentionOptions(64), separate)
    )


@FEW
@given(SEEDS, st.booleans())
def test_ragged_sequences_do_not_see_each_other(seed: int, causal: bool) -> None:
    ragged = AttentionOptions(64, causal=causal, layout="ragged")
    tensors = random_tensors(ragged, Sizes(4, 90, 90, 2), seed)
    came = model(ragged, tensors)
    bounds = np.asarray(tensors.extra)
    for start, end in pairwise(bounds):
        if end > start:
            own = AttentionTensors(tuple(array[None, start:end] for array in tensors.arrays))
            alone = model(AttentionOptions(64, causal=causal), own)[0]
            np.testing.assert_array_equal(came[start:end], alone)


@FEW
@given(SEEDS, LENGTHS)
def test_a_query_does_not_depend_on_the_others(seed: int, queries: int) -> None:
    tensors = tensors_of(seed, queries, 130)
    row = seed % queries
    q, k, v = tensors.arrays
    alone = model(AttentionOptions(64), AttentionTensors((q[:, row : row + 1], k, v)))
    np.testing.assert_array_equal(alone, model(AttentionOptions(64), tensors)[:, row : row + 1])


@FEW
@given(SEEDS, LENGTHS)
def test_causal_queries_do_not_see_later_keys(seed: int, length: int) -> None:
    options = AttentionOptions(64, causal=True)
    q, k, v = tensors_of(seed, length, length).arrays
    row = seed % length
    first = model(options, AttentionTensors((q, k, v)))
    k, v = k.copy(), v.copy()
    k[:, row + 1 :], v[:, row + 1 :] = 77, -77
    changed = model(options, AttentionTensors((q, k, v)))
    np.testing.assert_array_equal(changed[:, : row + 1], first[:, : row + 1])


@FEW
@given(SEEDS, LENGTHS)
def test_negated_values_give_nearly_negated_outputs(seed: int, keys: int) -> None:
    q, k, v = tensors_of(seed, 5, keys).arrays
    v = np.maximum(v, -127)
    plain, turned = (model(AttentionOptions(64), AttentionTensors((q, k, a))) for a in (v, -v))
    # Shifts round sums down, which is not symmetric: by far less than a step.
    assert np.abs(plain.clip(-127).astype(int) + turned.clip(-127)).max() <= 1


def test_inputs_are_left_as_they_were() -> None:
    tensors = tensors_of(0, 20, 70)
    before = [array.copy() for array in tensors.arrays]
    model(AttentionOptions(64), tensors)
    for array, copy in zip(tensors.arrays, before, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize(
    "tensors",
    [
        AttentionTensors((np.zeros((1, 2, 1, 32), np.int8),) * 3),
        AttentionTensors((np.zeros((1, 2, 1, 64), np.int8),) * 2),
        AttentionTensors((np.zeros((2, 1, 64), np.int8),) * 3),
        AttentionTensors((np.zeros((1, 2, 1, 64), np.int8),) * 3, np.zeros(1, np.int32)),
    ],
    ids=["head", "count", "rank", "extra"],
)
def test_arrays_of_another_layout_are_refused(tensors: AttentionTensors) -> None:
    with pytest.raises(ShapeError, match="the layout 'separate', D = 64, mask 'none'"):
        model(AttentionOptions(64), tensors)


def test_a_mask_of_another_size_is_refused() -> None:
    tensors = replace(tensors_of(0, 5, 70), extra=np.zeros((1, 1, 4, 70), np.float32))
    with pytest.raises(PluginError, match="broadcast the mask in the model"):
        model(AttentionOptions(64, "full"), tensors)
