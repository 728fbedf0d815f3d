"""The plain C++ reference gives the bits of the NumPy model."""

from __future__ import annotations

import ctypes
import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.kernels.host_compiler import compiler
from tests.kernels.tools import needs_gxx
from trt_int8.plugins import integer_ops_model as model
from trt_int8.plugins.integer_constants import Dyadic
from trt_int8.plugins.integer_ops import IntegerGelu, IntegerLayerNorm, IntegerSoftmax
from trt_int8.plugins.kernel import kernel_folder

pytestmark = needs_gxx
WRAPPERS = """
#include "integer_ops_reference.h"
namespace reference = integer_ops_reference;
extern "C" void softmax(const int32_t* scores, int rows, int length, const int64_t* made,
                        bool as_signed, uint8_t* out) {
    reference::softmax(scores, rows, length,
                       {static_cast<int>(made[0]), made[1], made[2], made[3],
                        {made[4], static_cast<int>(made[5])}},
                       as_signed, out);
}
extern "C" int64_t rounded(int64_t value, int shift) { return reference::rounded(value, shift); }
extern "C" void gelu(const int32_t* x, int count, const int64_t* made, int8_t* out) {
    reference::gelu(x, count,
                    {made[0], made[1], made[2], static_cast<int>(made[3]), made[4],
                     {made[5], static_cast<int>(made[6])}},
                    out);
}
extern "C" void layernorm(const int32_t* x, const int32_t* multipliers, const int64_t* biases,
                          int rows, int length, int shift, int8_t* out) {
    reference::layernorm(x, multipliers, biases, rows, length, shift, out);
}
"""
# Signed overflow ends the test: -ftrapv makes a call that aborts.
FLAGS = ("-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-ftrapv", "-shared", "-fPIC")
INT32 = st.one_of(st.integers(-3000, 3000), st.integers(-(2**31), 2**31 - 1))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder: Path = tmp_path_factory.mktemp("reference")
    (folder / "wrappers.cpp").write_text(WRAPPERS, encoding="utf-8")
    command = [str(compiler()), *FLAGS, f"-I{kernel_folder()}", "wrappers.cpp", "-o", "r.so"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    library = ctypes.CDLL(str(folder / "r.so"))
    library.rounded.argtypes, library.rounded.restype = (
        [ctypes.c_int64, ctypes.c_int],
        ctypes.c_int64,
    )
    return library


def place(array: NDArray[np.generic]) -> ctypes.c_void_p:
    return array.ctypes.data_as(ctypes.c_void_p)


def longs(*values: int | Dyadic) -> NDArray[np.int64]:
    flat = [
        part
        for value in values
        for part in ((value.multiplier, value.shift) if isinstance(value, Dyadic) else (value,))
    ]
    return np.array(flat, dtype=np.int64)


def table(rows: list[list[int]]) -> NDArray[np.int32]:
    return np.array(rows, dtype=np.int32)


TABLES = st.integers(1, 17).flatmap(
    lambda length: st.lists(
        st.lists(INT32, min_size=length, max_size=length), min_size=1, max_size=4
    ).map(table)
)


@given(st.integers(-(2**40), 2**40), st.integers(1, 62), st.booleans())
@settings(max_examples=200, deadline=None)
def test_rounding(library: ctypes.CDLL, value: int, shift: int, tie: bool) -> None:
    if tie:
        value = (2 * (value % 1001) - 1001) << (min(shift, 50) - 1)
        shift = min(shift, 50)
    assert library.rounded(value, shift) == round(Fraction(value, 2**shift))


@given(TABLES, st.floats(1e-9, 10.0), st.booleans())
@settings(max_examples=100, deadline=None)
def test_softmax(
    library: ctypes.CDLL, scores: NDArray[np.int32], scale: float, signed: bool
) -> None:
    op = IntegerSoftmax(scale, signed)
    made = op.constants
    constants = longs(made.input_shift, made.ln2, made.linear, made.constant, made.to_codes)
    out = np.zeros(scores.shape, dtype=np.uint8)
    library.softmax(place(scores), *scores.shape, place(constants), signed, place(out))
    np.testing.assert_array_equal(out, model.softmax(op, scores).view(np.uint8))


@given(TABLES, st.floats(6e-5, 1 / 256), st.floats(0.001, 0.2))
@settings(max_examples=100, deadline=None)
def test_gelu(
    library: ctypes.CDLL, x: NDArray[np.int32], scale: float, output_scale: float
) -> None:
    op = IntegerGelu(scale, output_scale)
    made = op.constants
    constants = longs(made.clamp, made.bound, made.constant, made.shift, made.one, made.to_codes)
    out = np.zeros(x.shape, dtype=np.int8)
    library.gelu(place(x), x.size, place(constants), place(out))
    np.testing.assert_array_equal(out, model.gelu(op, x))


@given(TABLES, st.integers(0, 2**32 - 1), st.sampled_from([1e-9, 0.002, 0.05]))
@settings(max_examples=100, deadline=None)
def test_layernorm(
    library: ctypes.CDLL, x: NDArray[np.int32], seed: int, output_scale: float
) -> None:
    rng = np.random.default_rng(seed)
    length: int = x.shape[1]
    gamma = rng.choice([-1, 1], length) * rng.uniform(0.1, 3, length)
    beta = rng.normal(0, 1, length)
    op = IntegerLayerNorm(tuple(gamma.tolist()), tuple(beta.tolist()), output_scale)
    multipliers, biases = op.channel_inputs()
    out = np.zeros(x.shape, dtype=np.int8)
    library.layernorm(
        place(x), place(multipliers), place(biases), *x.shape, op.constants.shift, place(out)
    )
    np.testing.assert_array_equal(out, model.layernorm(op, x))
