"""The integer-only kernels give the model's bits on both CPU layers, for either architecture."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.kernels.layers import Layer, run_on
from tests.kernels.tools import every_layer, needs_nvrtc
from trt_int8.plugins import integer_ops_model as model
from trt_int8.plugins.compile import compile_ptx
from trt_int8.plugins.integer_ops import IntegerGelu, IntegerLayerNorm, IntegerSoftmax
from trt_int8.plugins.kernel import KERNEL_SMS, Input, Output

Int32Array = NDArray[np.int32]
every_sm = pytest.mark.parametrize("sm", KERNEL_SMS)
ENDS = (-(2**31), -(2**31) + 1, -1, 0, 1, 2**31 - 1)


def rows_of(rows: int, length: int, size: float = 3000.0) -> Int32Array:
    """Normal values, with both ends of int32 and a row of equal values among them."""
    rng = np.random.default_rng(rows * 10007 + length)
    values = np.rint(rng.normal(0, size, (rows, length))).astype(np.int32)
    values[1::5, ::7] = rng.choice(np.array(ENDS, dtype=np.int32), values[1::5, ::7].shape)
    values[2::5] = values[2::5, :1]
    return values


def run_softmax(
    layer: Layer, sm: int, op: IntegerSoftmax, scores: Int32Array
) -> NDArray[np.uint8] | NDArray[np.int8]:
    rows, length = scores.shape
    signed, unsigned = np.empty(scores.shape, np.int8), np.empty(scores.shape, np.uint8)
    out = signed if op.signed else unsigned
    scalars = op.arguments(rows, length)
    run_on(layer, op.launch(rows, length, sm), [Input(scores), *scalars, Output(out)])
    return signed if op.signed else unsigned


def run_gelu(layer: Layer, sm: int, op: IntegerGelu, x: Int32Array) -> NDArray[np.int8]:
    out = np.empty(x.shape, dtype=np.int8)
    run_on(layer, op.launch(x.size, sm), [Input(x), *op.arguments(x.size), Output(out)])
    return out


def run_layernorm(layer: Layer, sm: int, op: IntegerLayerNorm, x: Int32Array) -> NDArray[np.int8]:
    out = np.empty(x.shape, dtype=np.int8)
    inputs = [Input(x), *(Input(array) for array in op.channel_inputs())]
    run_on(layer, op.launch(len(x), sm), [*inputs, *op.arguments(len(x)), Output(out)])
    return out


def weights(length: int, output_scale: float = 0.05) -> IntegerLayerNorm:
    rng = np.random.default_rng(length)
    gamma = rng.uniform(0.3, 2.0, length) * rng.choice([-1, 1], length)
    beta = rng.normal(0, 1, length)
    return IntegerLayerNorm(tuple(gamma.tolist()), tuple(beta.tolist()), output_scale)


def every_bit_of(x: Int32Array) -> IntegerLayerNorm:
    """Steps of one unit of the norm around those of the first row: the codes are its low bits."""
    unit = float(np.sqrt(x.shape[1])) / 2**30
    expected = model.normalised(x)[0]
    beta = tuple((-expected * unit).tolist())
    return IntegerLayerNorm((1.0,) * x.shape[1], beta, unit)


@every_layer
@every_sm
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (3, 4), (7, 33), (9, 128), (5, 131)])
def test_softmax(layer: Layer, sm: int, signed: bool, shape: tuple[int, int]) -> None:
    op, scores = IntegerSoftmax(1e-3, signed), rows_of(*shape)
    np.testing.assert_array_equal(run_softmax(layer, sm, op, scores), model.softmax(op, scores))


@every_layer
@pytest.mark.parametrize("scale", [2e-14, 1e-9, 3e-5, 5e-5, 8e-5, 0.02, 1.0, 1e5])
def test_softmax_of_any_scale(layer: Layer, scale: float) -> None:
    size = min(max(1.5 / scale, 1.0), 6e8)
    op, scores = IntegerSoftmax(scale), rows_of(6, 45, size)
    np.testing.assert_array_equal(run_softmax(layer, 75, op, scores), model.softmax(op, scores))


@every_layer
@pytest.mark.parametrize("signed", [False, True])
def test_softmax_whose_sum_is_a_power_of_two(layer: Layer, signed: bool) -> None:
    """Only then 2^32 / sum is whole, and one more than (2^32 - 1) / sum; it decides the codes."""
    op = IntegerSoftmax(5e-5, signed)
    codes = model.exponential(op, np.arange(2**20, dtype=np.int64))
    distances = [int(np.flatnonzero(codes == code)[0]) for code in (32767, 16384, 16384, 1)]
    scores = np.array([distances], dtype=np.int32) * -1
    found = run_softmax(layer, 75, op, scores)
    assert found.tolist() == [[63, 32, 32, 0] if signed else [127, 64, 64, 0]]


@every_layer
@every_sm
@pytest.mark.parametrize("count", [1, 3, 4, 513, 1027])
def test_gelu(layer: Layer, sm: int, count: int) -> None:
    op, x = IntegerGelu(1e-3, 0.03), rows_of(3, count)[:2].reshape(-1)[:count]
    np.testing.assert_array_equal(run_gelu(layer, sm, op, x), model.gelu(op, x))


@every_layer
@pytest.mark.parametrize("scale", [2e-5, 1e-4, 5e-4, 1 / 256])
@pytest.mark.parametrize("output_scale", [0.002, 0.02, 0.08])
def test_gelu_of_any_scale(layer: Layer, scale: float, output_scale: float) -> None:
    op = IntegerGelu(scale, output_scale)
    x = np.rint(np.linspace(-11, 11, 999) / scale).astype(np.int32)
    np.testing.assert_array_equal(run_gelu(layer, 75, op, x), model.gelu(op, x))


@every_layer
@every_sm
@pytest.mark.parametrize("shape", [(1, 1), (3, 4), (7, 33), (9, 128), (5, 131)])
@pytest.mark.parametrize("size", [3.0, 3000.0, 4e6])
def test_layernorm(layer: Layer, sm: int, shape: tuple[int, int], size: float) -> None:
    op, x = weights(shape[1]), rows_of(*shape, size)
    np.testing.assert_array_equal(run_layernorm(layer, sm, op, x), model.layernorm(op, x))


@every_layer
@pytest.mark.parametrize("size", [3.0, 3000.0, 4e6])
def test_layernorm_to_the_last_bit(layer: Layer, size: float) -> None:
    x = rows_of(1, 96, size)
    op = every_bit_of(x)
    codes = run_layernorm(layer, 75, op, x)
    np.testing.assert_array_equal(codes, model.layernorm(op, x))
    # Neither saturated nor idle: one unit more in the norm would be one code more.
    assert np.abs(codes.astype(np.int64)).max() <= 2


@every_layer
@every_sm
def test_layernorm_whose_codes_are_halves(layer: Layer, sm: int) -> None:
    """Steps of two units of the norm: every odd distance is a tie."""
    x = rows_of(1, 96)
    norm, unit = model.normalised(x)[0], math.sqrt(96) / 2**30
    beta = (np.arange(96) % 9 - 4 + 0.5 - norm) * unit
    op = IntegerLayerNorm((1.0,) * 96, tuple(beta.tolist()), 2 * unit)
    codes = run_layernorm(layer, sm, op, x)
    assert codes.tolist() == [[round((place % 9 - 4) / 2) for place in range(96)]]


@every_layer
@pytest.mark.parametrize("row", [(0, 1), (1, 2), (-1, 0), (-2, -1), (-3, -2), (0, 0, 1, 1)])
def test_layernorm_whose_mean_is_a_half(layer: Layer, row: tuple[int, ...]) -> None:
    ones, zeros = (1.0,) * len(row), (0.0,) * len(row)
    x = np.array([row], dtype=np.int32)
    found = run_layernorm(layer, 75, IntegerLayerNorm(ones, zeros, 0.05), x)
    mean = round(sum(row) / len(row))
    length = math.isqrt(sum((value - mean) ** 2 for value in row))
    wanted = [round((value - mean) / length * math.sqrt(len(row)) / 0.05) for value in row]
    assert found.tolist() == [wanted]


@every_layer
def test_layernorm_whose_root_takes_more_than_four_steps(layer: Layer) -> None:
    # Pairs of y and -y: the mean is 0.
    x = np.array([[sign * y for y in slow_row() for sign in (1, -1)]], dtype=np.int32)
    assert (x.astype(np.int64) ** 2).sum() == 1333345220
    assert four_steps(1333345220) > math.isqrt(1333345220)
    op = every_bit_of(x)
    np.testing.assert_array_equal(run_layernorm(layer, 75, op, x), model.layernorm(op, x))


def slow_row() -> list[int]:
    """Four numbers whose squares sum to half of 1333345220 (Lagrange)."""
    rest = 1333345220 // 2
    for a in range(int(rest**0.5), 0, -1):
        for b in range(int((rest - a * a) ** 0.5), -1, -1):
            left = rest - a * a - b * b
            for c in range(int(left**0.5), -1, -1):
                d = round((left - c * c) ** 0.5)
                if d * d == left - c * c:
                    return [a, b, c, d]
    raise AssertionError


def four_steps(value: int) -> int:
    """What I-BERT's square root gives when it stops after four steps."""
    root = 1 << (value.bit_length() + 1) // 2
    for _ in range(4):
        root = (root + value // root) // 2
    return root


@every_layer
def test_long_rows(layer: Layer) -> None:
    scores, x = rows_of(3, 1023), rows_of(3, 4096, 1e6)
    soft, norm = IntegerSoftmax(1e-3), weights(4096)
    np.testing.assert_array_equal(run_softmax(layer, 80, soft, scores), model.softmax(soft, scores))
    np.testing.assert_array_equal(run_layernorm(layer, 80, norm, x), model.layernorm(norm, x))


@needs_nvrtc
@every_sm
def test_the_shipped_text_has_no_float_in_it(sm: int) -> None:
    for launch in (
        IntegerSoftmax(1e-3).launch(1, 5, sm),
        IntegerSoftmax(1e-3, signed=True).launch(1, 8, sm),
    ):
        ptx = compile_ptx(launch.variant).ptx
        assert ".s32" in ptx
        assert not any(word in ptx for word in (".f16", ".f32", ".f64"))
