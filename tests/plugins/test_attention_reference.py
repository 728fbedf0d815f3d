from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.plugins.attention_cases import (
    SCALARS,
    Sizes,
    behind_padding,
    model,
    random_tensors,
)
from tests.plugins.reference_library import build, needs_compiler, pointer
from trt_int8.plugins.attention import AttentionOptions
from trt_int8.plugins.attention_model import AttentionTensors

pytestmark = needs_compiler

BODY = """
extern "C" void run_row(const int* ints, const float* reals, const void* const* inputs,
                        float* output) {
    const reference::AttentionRow row = {
        ints[0], static_cast<const int8_t*>(inputs[0]), static_cast<const int8_t*>(inputs[1]),
        static_cast<const int8_t*>(inputs[2]), ints[1], ints[2], ints[3],
        static_cast<const float*>(inputs[3]), reals[0], reals[1]};
    reference::attention_row(row, output);
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder: Path = tmp_path_factory.mktemp("attention_reference")
    return build(folder, "attention_reference.h", BODY)


def visible_keys(options: AttentionOptions, tensors: AttentionTensors, batch: int, row: int) -> int:
    visible: int = tensors.arrays[1].shape[1]
    if options.mask == "lengths":
        visible = min(visible, int(np.asarray(tensors.extra)[batch]))
    return min(visible, row + 1) if options.causal else visible


def run_reference(
    library: ctypes.CDLL, options: AttentionOptions, tensors: AttentionTensors
) -> NDArray[np.int8]:
    q, k, v = (np.ascontiguousarray(array.swapaxes(1, 2)) for array in tensors.arrays)
    batch, heads, queries, head_dim = q.shape
    reals = (ctypes.c_float * 2)(SCALARS.score_scale, SCALARS.v_scale / SCALARS.output_scale)
    rows = np.empty(q.shape, np.float32)
    mask = None
    if options.additive:
        mask = np.broadcast_to(np.asarray(tensors.extra), (batch, heads, queries, k.shape[2]))
    for b, n, i in np.ndindex(batch, heads, queries):
        visible = visible_keys(options, tensors, b, i)
        ints = (ctypes.c_int * 4)(head_dim, head_dim, visible, k.shape[2])
        own = None if mask is None else np.ascontiguousarray(mask[b, n, i])
        inputs = [pointer(array) for array in (q[b, n, i], k[b, n], v[b, n], own)]
        library.run_row(ints, reals, (ctypes.c_void_p * 4)(*inputs), pointer(rows[b, n, i]))
    return np.clip(np.rint(rows), -128, 127).astype(np.int8).swapaxes(1, 2)


@pytest.mark.parametrize(
    "options",
    [
        AttentionOptions(64),
        AttentionOptions(16, mask="lengths"),
        AttentionOptions(80, mask="keys"),
        AttentionOptions(32, mask="full", causal=True),
        AttentionOptions(128, causal=True),
    ],
    ids=lambda options: f"{options.head_dim}-{options.mask}",
)
def test_the_reference_has_the_bits_of_the_model(
    library: ctypes.CDLL, options: AttentionOptions
) -> None:
    tensors = random_tensors(options, Sizes(batch=3, queries=45, keys=201, heads=2))
    came = run_reference(library, options, tensors)
    np.testing.assert_array_equal(came, model(options, tensors))
    assert len(np.unique(came)) > 50  # not a comparison of zeros


def test_the_reference_has_them_behind_a_tile_of_padding_too(library: ctypes.CDLL) -> None:
    options, tensors = AttentionOptions(32, mask="full"), behind_padding()
    came = run_reference(library, options, tensors)
    np.testing.assert_array_equal(came, model(options, tensors))
