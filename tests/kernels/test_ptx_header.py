"""Arithmetic of ptx.cuh equals NumPy, in the emulator and in the PTX interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.kernels.layers import LAYERS, Layer
from tests.kernels.micro_run import Micro
from tests.kernels.tools import needs_gxx, needs_nvrtc
from trt_int8.plugins.kernel import KERNEL_SMS, Input, Output, float_bits

pytestmark = [needs_gxx, needs_nvrtc]

FloatArray = NDArray[np.float32]
# PTX ISA: maximum relative error of ex2.approx.ftz is 2^-22, of rsqrt.approx 2^-22.9, of rcp.approx
# 1 ulp, which is at most 2^-23.
APPROXIMATION_ERROR = 2.0**-22
SPECIAL = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -1e-40], np.float32)


@pytest.fixture(params=LAYERS)
def layer(request: pytest.FixtureRequest) -> Layer:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(params=KERNEL_SMS)
def micro(request: pytest.FixtureRequest, layer: Layer) -> Micro:
    return Micro(layer, request.param, "arithmetic.cu")


def unary(micro: Micro, entry: str, x: NDArray[Any], dtype: Any = np.float32) -> NDArray[Any]:
    y = np.zeros(x.shape, dtype)
    micro.each(entry, x.size, [Input(x), x.size, Output(y)])
    return y


def spread(seed: int, low: float, high: float, count: int = 3001) -> FloatArray:
    """Floats whose exponents are spread evenly, of both signs."""
    random = np.random.default_rng(seed)
    magnitudes = np.exp2(random.uniform(low, high, count))
    signed: FloatArray = (magnitudes * random.choice([-1.0, 1.0], count)).astype(np.float32)
    return signed


def assert_close(got: FloatArray, exact: NDArray[np.float64]) -> None:
    error = np.abs(got.astype(np.float64) - exact) / np.abs(exact)
    assert error.max() <= APPROXIMATION_ERROR


def test_exp2_is_within_the_error_that_the_isa_states(micro: Micro) -> None:
    x = np.random.default_rng(1).uniform(-126, 127, 3001).astype(np.float32)
    assert_close(unary(micro, "exp2_approx", x), np.exp2(x.astype(np.float64)))


def test_exp2_of_whole_numbers_is_exact(micro: Micro) -> None:
    x = np.arange(-126, 128).astype(np.float32)
    assert np.array_equal(unary(micro, "exp2_approx", x), np.ldexp(np.float32(1), x.astype(int)))


def test_exp2_flushes_subnormals_and_takes_special_values_as_the_isa_says(micro: Micro) -> None:
    below = np.array([-127.0, -140.0, -1000.0, 128.0], np.float32)
    got = unary(micro, "exp2_approx", np.concatenate([SPECIAL, below]))
    wanted = [1, 1, np.inf, 0, np.nan, 1, 1, 0, 0, 0, np.inf]
    assert np.array_equal(got, np.array(wanted, np.float32), equal_nan=True)


def test_reciprocal_is_within_the_error_that_the_isa_states(micro: Micro) -> None:
    x = spread(2, -125, 125)
    assert_close(unary(micro, "reciprocal_approx", x), 1.0 / x.astype(np.float64))


def test_reciprocal_of_special_values_keeps_the_sign(micro: Micro) -> None:
    x = np.concatenate([SPECIAL, np.array([2.0**127, -(2.0**127)], np.float32)])
    got = unary(micro, "reciprocal_approx", x)
    wanted = np.array([np.inf, -np.inf, 0.0, -0.0, np.nan, np.inf, -np.inf, 0.0, -0.0], np.float32)
    assert np.array_equal(got, wanted, equal_nan=True)
    assert np.array_equal(np.signbit(got[[2, 3, 7, 8]]), [False, True, False, True])


def test_rsqrt_is_within_the_error_that_the_isa_states(micro: Micro) -> None:
    x = np.abs(spread(3, -125, 127))
    assert_close(unary(micro, "rsqrt_approx", x), 1.0 / np.sqrt(x.astype(np.float64)))


def test_rsqrt_of_special_values_is_as_the_isa_says(micro: Micro) -> None:
    got = unary(micro, "rsqrt_approx", np.concatenate([SPECIAL, np.array([-1.0], np.float32)]))
    wanted = [np.inf, -np.inf, 0, np.nan, np.nan, np.inf, -np.inf, np.nan]
    assert np.array_equal(got, np.array(wanted, np.float32), equal_nan=True)


def test_square_root_is_correctly_rounded(micro: Micro) -> None:
    x = np.concatenate([np.abs(spread(4, -149, 127)), SPECIAL])
    with np.errstate(invalid="ignore"):
        wanted = np.sqrt(x)
    assert np.array_equal(unary(micro, "sqrt_rn", x), wanted, equal_nan=True)


def test_division_is_correctly_rounded(micro: Micro) -> None:
    a, b = spread(5, -60, 60), spread(6, -60, 60)
    y = np.zeros_like(a)
    micro.each("divide_rn", a.size, [Input(a), Input(b), a.size, Output(y)])
    assert np.array_equal(y, a / b)


def test_all_65536_halves_widen_to_the_same_float(micro: Micro) -> None:
    bits = np.arange(65536, dtype=np.uint16)
    got = unary(micro, "half_to_float", bits)
    wanted = bits.view(np.float16).astype(np.float32)
    assert np.array_equal(got, wanted, equal_nan=True)
    assert np.array_equal(np.signbit(got[~np.isnan(got)]), np.signbit(wanted[~np.isnan(wanted)]))


def rounding_edges() -> FloatArray:
    """Every half, every middle between two, and the floats next to the middles; both signs."""
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    middles = ((halves[:-1].astype(np.float64) + halves[1:]) / 2).astype(np.float32)
    overflow = np.array([65519.99, 65520.0, 65536.0, 1e30, np.inf], np.float32)
    up, down = np.nextafter(middles, np.float32(np.inf)), np.nextafter(middles, np.float32(0))
    positive = np.concatenate([halves, middles, up, down, overflow, spread(7, -149, 17) ** 2])
    return np.concatenate([positive, -positive])


def test_floats_narrow_to_halves_as_in_numpy_on_every_rounding_edge(micro: Micro) -> None:
    x = rounding_edges()
    got = unary(micro, "float_to_half", x, np.uint16)
    with np.errstate(over="ignore"):
        wanted = x.astype(np.float16).view(np.uint16)
    assert np.array_equal(got, wanted)


def test_nan_narrows_to_a_nan(micro: Micro) -> None:
    got = unary(micro, "float_to_half", np.array([np.nan, -np.nan], np.float32), np.uint16)
    assert np.isnan(got.view(np.float16)).all()


def test_float_to_s8_rounds_half_to_even_clamps_and_takes_nan_to_zero(micro: Micro) -> None:
    ties = np.arange(-130, 131) + 0.5
    beside = np.concatenate([np.nextafter(ties, 1e9), np.nextafter(ties, -1e9)])
    far = [-1e30, 1e30, -129, 128, 2.0**31, -(2.0**31), 2.0**63, 1e-45, -1e-45]
    x = np.concatenate([ties, beside, far, SPECIAL]).astype(np.float32)
    wanted = np.clip(np.rint(np.nan_to_num(x, nan=0.0)), -128, 127).astype(np.int32)
    assert np.array_equal(unary(micro, "float_to_s8", x, np.int32), wanted)


def random_words(seed: int, count: int = 2003) -> NDArray[np.uint32]:
    edges = np.array([0, 0xFFFFFFFF, 0x80808080, 0x7F7F7F7F, 0x80000000, 1], np.uint32)
    words = np.random.default_rng(seed).integers(0, 2**32, count, dtype=np.uint32)
    return np.concatenate([words, edges])


def test_permute_bytes_takes_each_selector_nibble(micro: Micro) -> None:
    low, high, selector = random_words(8), random_words(9)[::-1].copy(), random_words(10)
    got = np.zeros_like(low)
    inputs = (Input(low), Input(high), Input(selector))
    micro.each("permute_bytes", low.size, [*inputs, low.size, Output(got)])
    pool = np.stack([low, high], axis=1).view(np.uint8)
    for byte in range(4):
        nibble = (selector >> (4 * byte)) & 15
        picked = pool[np.arange(low.size), nibble & 7]
        spread_sign = np.where(picked >= 128, 255, 0)
        wanted = np.where(nibble & 8, spread_sign, picked)
        assert np.array_equal(got.view(np.uint8).reshape(-1, 4)[:, byte], wanted)


@pytest.mark.parametrize(("entry", "dtype"), [("dot4_u8", np.uint8), ("dot4_s8", np.int8)])
def test_dot4_equals_the_sum_of_four_products(micro: Micro, entry: str, dtype: Any) -> None:
    a, b, c = random_words(11), random_words(12), random_words(13)
    if dtype is np.int8:
        c = c.view(np.int32)
    got = np.zeros_like(c)
    micro.each(entry, a.size, [Input(a), Input(b), Input(c), a.size, Output(got)])
    left = a.view(dtype).reshape(-1, 4).astype(np.int64)
    right = b.view(dtype).reshape(-1, 4).astype(np.int64)
    wanted = (c.astype(np.int64) + (left * right).sum(axis=1)) % 2**32
    assert np.array_equal(got.view(np.uint32), wanted)


def test_bits_of_floats_cross_as_integers(micro: Micro) -> None:
    x = spread(14, -20, 20)
    y = np.zeros_like(x)
    micro.each("float_to_int_and_back", x.size, [Input(x), float_bits(-0.375), x.size, Output(y)])
    assert np.array_equal(y.view(np.int32), (x + np.float32(-0.375)).view(np.int32) ^ 1)


def test_min_max_and_fmaf_need_no_header(micro: Micro) -> None:
    random = np.random.default_rng(15)
    a, b = (random.integers(-5000, 5000, 333, dtype=np.int32) for _ in range(2))
    y, z = np.zeros((333, 2), np.int32), np.zeros((333, 3), np.float32)
    micro.each("smaller_and_larger", 333, [Input(a), Input(b), 333, Output(y), Output(z)])
    assert np.array_equal(y, np.stack([np.minimum(a, b), np.maximum(a, b)], axis=1))
    fused = (a.astype(np.float64) * b + 0.5).astype(np.float32)
    assert np.array_equal(z, np.column_stack([np.minimum(a, b), np.maximum(a, b), fused]))
