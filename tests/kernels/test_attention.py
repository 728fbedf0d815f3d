from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.kernels.emulator import Emulator
from tests.kernels.layers import LAYERS, Layer, run_on
from tests.kernels.report import KernelFault, RunReport
from tests.plugins.attention_cases import (
    SCALARS,
    Sizes,
    codes,
    kernel_arguments,
    model,
    random_tensors,
)
from trt_int8.plugins.attention import (
    HEAD_DIMS,
    MAX_KEYS,
    AttentionOptions,
    Layout,
    launch,
)
from trt_int8.plugins.attention_model import AttentionTensors
from trt_int8.plugins.kernel import KernelLaunch

ON_EACH_LAYER = pytest.mark.parametrize("layer", LAYERS)
ON_EACH_SM = pytest.mark.parametrize("sm", [75, 80])

PLAIN = AttentionOptions(64)

# Every head size, mask, layout and output type; sizes that fill no block, warp or tile.
CASES = {
    "64-384": (PLAIN, Sizes(1, 384, 384, 1)),
    "64-one-key": (PLAIN, Sizes(3, 1, 1, 3)),
    "64-cross": (PLAIN, Sizes(1, 17, 113, 3)),
    "16-causal": (AttentionOptions(16, causal=True), Sizes(1, 113, 113, 3)),
    "32-lengths": (AttentionOptions(32, "lengths"), Sizes(3, 64, 64, 1)),
    "80-keys": (AttentionOptions(80, "keys"), Sizes(3, 17, 113, 1)),
    "96-full-causal": (AttentionOptions(96, "full", causal=True), Sizes(1, 65, 130, 3)),
    "128-packed-half": (
        AttentionOptions(128, layout="packed", half_output=True),
        Sizes(1, 113, 113, 3),
    ),
    "64-ragged-causal": (
        AttentionOptions(64, causal=True, layout="ragged"),
        Sizes(5, 131, 131, 1),
    ),
    "80-packed-lengths": (AttentionOptions(80, "lengths", layout="packed"), Sizes(3, 70, 70, 1)),
}
LONG = [1, 17, 64, 113, 384, 512, 1023]
SPREAD_MASKS = [("none", True), ("lengths", False), ("keys", True), ("full", False)]


def run(
    layer: Layer, options: AttentionOptions, tensors: AttentionTensors, sm: int, seed: int = 0
) -> tuple[NDArray[Any], RunReport]:
    arguments, output = kernel_arguments(options, SCALARS, tensors)
    report = run_on(layer, launch(options, tensors.shape(options), sm), arguments, seed)
    return output, report


def same_bits(came: NDArray[Any], wanted: NDArray[Any]) -> None:
    assert came.dtype == wanted.dtype
    np.testing.assert_array_equal(came.view(f"u{came.itemsize}"), wanted.view(f"u{came.itemsize}"))


@ON_EACH_LAYER
@ON_EACH_SM
@pytest.mark.parametrize("case", CASES)
def test_the_kernel_has_the_bits_of_the_model(layer: Layer, sm: int, case: str) -> None:
    options, sizes = CASES[case]
    tensors = random_tensors(options, sizes, seed=len(case))
    same_bits(run(layer, options, tensors, sm)[0], model(options, tensors))


@pytest.mark.slow
@ON_EACH_LAYER
@ON_EACH_SM
@pytest.mark.parametrize("length", LONG)
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_every_head_size_and_length_has_the_bits_of_the_model(
    layer: Layer, sm: int, length: int, head_dim: int
) -> None:
    options = AttentionOptions(head_dim)
    tensors = random_tensors(options, Sizes(1, length, length, 3), seed=length)
    same_bits(run(layer, options, tensors, sm)[0], model(options, tensors))


@pytest.mark.slow
@ON_EACH_LAYER
@ON_EACH_SM
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize(("mask", "causal"), SPREAD_MASKS)
@pytest.mark.parametrize("packed", [False, True])
def test_every_mask_has_the_bits_of_the_model(
    layer: Layer, sm: int, head_dim: int, mask: Any, causal: bool, packed: bool
) -> None:
    layout: Layout = "packed" if packed else "separate"
    options = AttentionOptions(head_dim, mask, causal, layout, half_output=packed)
    tensors = random_tensors(options, Sizes(3, 113, 113 if packed else 201, 3), seed=head_dim)
    same_bits(run(layer, options, tensors, sm)[0], model(options, tensors))


@pytest.mark.slow
@ON_EACH_LAYER
@ON_EACH_SM
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("causal", [False, True])
def test_ragged_tokens_have_the_bits_of_the_model(
    layer: Layer, sm: int, head_dim: int, causal: bool
) -> None:
    options = AttentionOptions(head_dim, causal=causal, layout="ragged")
    tensors = random_tensors(options, Sizes(7, 200, 200, 3), seed=head_dim)
    same_bits(run(layer, options, tensors, sm)[0], model(options, tensors))


@pytest.mark.slow
@ON_EACH_LAYER
@ON_EACH_SM
@settings(max_examples=25, deadline=None)
@given(
    st.builds(
        Sizes, st.integers(1, 3), st.integers(1, 200), st.integers(1, 300), st.integers(1, 3)
    ),
    st.sampled_from([0.002, 0.03, 0.3]),
    st.integers(0, 2**32 - 1),
)
def test_any_sizes_and_scales_have_the_bits_of_the_model(
    layer: Layer, sm: int, sizes: Sizes, scale: float, seed: int
) -> None:
    scalars = replace(SCALARS, q_scale=scale)
    options = AttentionOptions(64, "lengths", causal=True)
    tensors = random_tensors(options, sizes, seed)
    arguments, output = kernel_arguments(options, scalars, tensors)
    run_on(layer, launch(options, tensors.shape(options), sm), arguments, seed % 5)
    same_bits(output, model(options, tensors, scalars))


def special(name: str) -> AttentionTensors:
    rng = np.random.default_rng(7)
    q, k, v = (codes(rng, 1, 70, 1, 64) for _ in range(3))
    if name == "all-equal-scores":
        k[...] = k[:, :1]
    if name == "zeros":
        q[...] = 0
    if name == "saturating":
        q[...], k[...], v[...] = -128, -128, np.where(v < 0, -128, 127)
    if name == "one-key-takes-all":
        k[:, 40] = np.sign(q[:, 3]) * 127
    if name == "rising":  # each tile has larger scores: every row follows
        k = np.sort(k, axis=1)
        q = np.abs(q)
    return AttentionTensors((q, np.ascontiguousarray(k), v))


@ON_EACH_LAYER
@ON_EACH_SM
@pytest.mark.parametrize(
    "name", ["all-equal-scores", "zeros", "saturating", "one-key-takes-all", "rising"]
)
def test_special_inputs_have_the_bits_of_the_model(layer: Layer, sm: int, name: str) -> None:
    tensors = special(name)
    same_bits(run(layer, PLAIN, tensors, sm)[0], model(PLAIN, tensors))


@ON_EACH_SM
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_order_of_threads_changes_nothing(sm: int, seed: int) -> None:
    tensors = random_tensors(PLAIN, Sizes(1, 130, 130, 1))
    first, _ = run("emulator", PLAIN, tensors, sm)
    same_bits(run("emulator", PLAIN, tensors, sm, seed)[0], first)


@ON_EACH_SM
def test_the_longest_row_of_extremes_does_not_wrap(sm: int) -> None:
    q = np.full((1, 1, 1, 16), -128, np.int8)
    k = np.full((1, MAX_KEYS, 1, 16), -128, np.int8)
    v = np.ascontiguousarray(np.broadcast_to(np.array([-128, 127] * 8, np.int8), k.shape))
    options = AttentionOptions(16, half_output=True)
    tensors = AttentionTensors((q, k, v))
    came, _ = run("interpreter", options, tensors, sm)
    same_bits(came, model(options, tensors))
    np.testing.assert_allclose(came[0, 0, 0, :2], [-128 * 0.02, 127 * 0.02], rtol=2e-3)


@ON_EACH_LAYER
def test_lengths_outside_of_the_tensor_read_nothing_outside_of_it(layer: Layer) -> None:
    options = AttentionOptions(32, "lengths")
    tensors = random_tensors(options, Sizes(3, 64, 64, 1))
    wild = AttentionTensors(tensors.arrays, np.array([2**31 - 1, -5, 64], np.int32))
    clamped = AttentionTensors(tensors.arrays, np.array([64, 0, 64], np.int32))
    same_bits(run(layer, options, wild, 80)[0], model(options, clamped))


@ON_EACH_LAYER
def test_ragged_bounds_past_the_tokens_stop_at_the_last_one(layer: Layer) -> None:
    options = AttentionOptions(64, causal=True, layout="ragged")
    tokens = random_tensors(options, Sizes(1, 90, 90, 1)).arrays
    wild = AttentionTensors(tokens, np.array([0, 40, 2**31 - 1], np.int32))
    clamped = AttentionTensors(tokens, np.array([0, 40, 90], np.int32))
    arguments, output = kernel_arguments(options, SCALARS, clamped)
    arguments[3] = kernel_arguments(options, SCALARS, wild)[0][3]
    run_on(layer, launch(options, clamped.shape(options), 80), arguments)
    same_bits(output, model(options, clamped))


def test_one_block_too_few_is_seen() -> None:
    tensors = random_tensors(PLAIN, Sizes(1, 130, 130, 1))
    arguments, _ = kernel_arguments(PLAIN, SCALARS, tensors)
    good = launch(PLAIN, tensors.shape(PLAIN), 80)
    bad = KernelLaunch(good.variant, (1, 1, 1), good.block, good.shared_bytes)
    with pytest.raises(KernelFault) as fault:
        run_on("interpreter", bad, arguments)
    assert fault.value.kind == "output"


@ON_EACH_SM
@pytest.mark.parametrize("head_dim", [16, 64, 80])
def test_ldmatrix_has_no_bank_conflicts(sm: int, head_dim: int) -> None:
    options = AttentionOptions(head_dim)
    tensors = random_tensors(options, Sizes(1, 70, 70, 1))
    _, report = run("interpreter", options, tensors, sm)
    assert report.shared_wavefronts_per_request["ldmatrix"] == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@ON_EACH_SM
def test_ldmatrix_has_no_bank_conflicts_at_any_head_size(sm: int, head_dim: int) -> None:
    options = AttentionOptions(head_dim)
    tensors = random_tensors(options, Sizes(1, 17, 70, 1))
    _, report = run("interpreter", options, tensors, sm)
    assert report.shared_wavefronts_per_request["ldmatrix"] == 1.0


@pytest.mark.parametrize(("sm", "limit"), [(80, 16.0), (75, 19.0)])
def test_instructions_per_matrix_product_stay_few(sm: int, limit: float) -> None:
    tensors = random_tensors(PLAIN, Sizes(1, 384, 384, 1))
    _, report = run("interpreter", PLAIN, tensors, sm)
    # S = 384: 24 groups of 16 queries, 48 of 8 keys and 2 steps of 32 elements, for each product.
    products = 2 * 24 * 48 * 2
    assert sum(report.instructions.values()) / products <= limit


@pytest.mark.sanitizer
@pytest.mark.parametrize(("sanitizer", "sm"), [("address", 80), ("thread", 75), ("thread", 80)])
def test_sanitizers_find_nothing(sanitizer: Any, sm: int) -> None:
    options = AttentionOptions(64, causal=True, layout="ragged")
    tensors = random_tensors(options, Sizes(2, 100, 100, 1))
    arguments, output = kernel_arguments(options, SCALARS, tensors)
    emulator = Emulator(sanitizer=sanitizer)
    emulator.run(launch(options, tensors.shape(options), sm), arguments)
    same_bits(output, model(options, tensors))
