"""Scores so far from zero that a float has few bits left below the point.

The kernel's x + e is one rounded sum: what the rounding drops must not push a probability over one,
where its byte would begin again at zero. Where one key alone is seen, its value is the answer.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.kernels.layers import LAYERS, Layer, run_on
from tests.plugins.attention_cases import (
    SCALARS,
    behind_padding,
    codes,
    kernel_arguments,
    model,
)
from trt_int8.plugins.attention import AttentionOptions, AttentionScalars, MaskKind, launch
from trt_int8.plugins.attention_model import AttentionTensors

ON_EACH_LAYER = pytest.mark.parametrize("layer", LAYERS)
ON_EACH_SM = pytest.mark.parametrize("sm", [75, 80])

# Equal scales of v and of the output: a key that takes all gives its own codes.
UNIT = AttentionScalars(0.03, 0.03, 0.02, 0.02, 0.125)
# Nearly the largest score scale, 1/4, but no power of two: scores need many bits.
COARSE = AttentionScalars(0.25 * 0.999, 0.6931471805599453, 0.02, 0.02, 1.0)


def run(
    layer: Layer,
    options: AttentionOptions,
    tensors: AttentionTensors,
    scalars: AttentionScalars,
    sm: int,
) -> NDArray[Any]:
    arguments, output = kernel_arguments(options, scalars, tensors)
    run_on(layer, launch(options, tensors.shape(options), sm), arguments)
    np.testing.assert_array_equal(output, model(options, tensors, scalars))
    return output


@ON_EACH_LAYER
@ON_EACH_SM
@pytest.mark.parametrize("sign", [1, -1])
def test_a_lone_key_gives_its_value_whatever_its_score(layer: Layer, sm: int, sign: int) -> None:
    rng = np.random.default_rng(5)
    q = rng.integers(100, 128, (1, 512, 1, 128)).astype(np.int8)
    k = (sign * rng.integers(100, 128, (1, 1, 1, 128))).astype(np.int8)
    v = codes(rng, 1, 1, 1, 128)
    options = AttentionOptions(128)
    output = run(layer, options, AttentionTensors((q, k, v)), COARSE, sm)
    np.testing.assert_array_equal(output, np.broadcast_to(v, output.shape))


# The lowest mask of float16 is what exporters of half models write. With left padding it fills the
# first tile, and the first visible key comes later.
@ON_EACH_LAYER
@ON_EACH_SM
@pytest.mark.parametrize(("before", "near"), [(-65504.0, 0.0), (-1e6, 0.0), (0.3, 9e5)])
@pytest.mark.parametrize("mask_kind", ["full", "keys"])
def test_a_key_behind_a_tile_of_padding_gives_its_value(
    layer: Layer, sm: int, before: float, near: float, mask_kind: MaskKind
) -> None:
    rng = np.random.default_rng(6)
    # Over more than one power of two, in steps finer than what the rounding drops.
    offsets = np.linspace(0, 0.75, 1024)
    batch, queries = (1, 1024) if mask_kind == "full" else (1024, 1)
    mask = np.full((1024, 65), before, np.float32)
    mask[:, 64] = near + offsets
    q = np.zeros((batch, queries, 1, 16), np.int8)
    k = codes(rng, batch, 65, 1, 16)
    v = codes(rng, batch, 65, 1, 16)
    options = AttentionOptions(16, mask_kind)
    tensors = AttentionTensors((q, k, v), mask.reshape(batch, 1, queries, 65))
    output = run(layer, options, tensors, UNIT, sm)
    np.testing.assert_array_equal(output, np.broadcast_to(v[:, 64:], output.shape))


@ON_EACH_LAYER
@ON_EACH_SM
@pytest.mark.parametrize("seed", [0, 1])
def test_keys_behind_a_tile_of_padding_have_the_bits_of_the_model(
    layer: Layer, sm: int, seed: int
) -> None:
    run(layer, AttentionOptions(32, mask="full"), behind_padding(seed), SCALARS, sm)


@ON_EACH_LAYER
@ON_EACH_SM
def test_what_rounding_left_of_a_near_score_shifts_the_past_sums_too(layer: Layer, sm: int) -> None:
    # The first tile gives e = 2000 / 1024, exactly; then x + e is 2 and less than half a unit in
    # the last place.
    scale = 2.0**-10 + 2.0**-30
    scalars = AttentionScalars(scale / math.log2(math.e), 1.0, 0.02, 0.02, 1.0)
    assert scalars.score_scale == scale
    q, k, v = (np.zeros((1, length, 1, 16), np.int8) for length in (1, 65, 65))
    q[..., 0], q[..., 1] = 100, 1
    k[:, :64, :, 0] = -20
    k[:, 64, :, 1], v[:, 64] = 48, 127
    output = run(layer, AttentionOptions(16), AttentionTensors((q, k, v)), scalars, sm)
    # 64 keys of a quarter of the last one's weight.
    np.testing.assert_array_equal(output, round(127 / (1 + 64 / 4)))
