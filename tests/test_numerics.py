from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_quantization.tensor_quant import tensor_quant

from tests.support.quantize_oracles import OrtQuantizer, distance_to_tie
from trt_int8.errors import RangeError, ShapeError
from trt_int8.numerics import (
    FloatArray,
    channel_amax,
    cosine,
    dequantize,
    quantize,
    scale_of,
    sqnr_db,
)

# The vector of the pytorch-quantization user guide.
GUIDE_AMAX = 0.9921
GUIDE_X = [0.9817, 0.8796, 0.9921, 0.4611, 0.0832, 0.1784, 0.3674, 0.5676, 0.3376, 0.2119]
GUIDE_CODES = [126, 113, 127, 59, 11, 23, 47, 73, 43, 27]

values = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)
scales = st.floats(float(np.float32(1e-5)), 100, width=32)


def f32(*numbers: float) -> FloatArray:
    return np.array(numbers, np.float32)


def seeded(*shape: int, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def ties(scale: FloatArray) -> FloatArray:
    """Values as near to the middle between two codes as float32 allows."""
    return ((np.arange(-120, 120) + 0.5) * float(scale)).astype(np.float32)


def test_the_codes_are_those_of_the_pytorch_quantization_guide() -> None:
    assert quantize(f32(*GUIDE_X), scale_of(GUIDE_AMAX)).tolist() == GUIDE_CODES


def test_another_amax_gives_other_codes_than_the_guide() -> None:
    assert quantize(f32(*GUIDE_X), scale_of(GUIDE_AMAX * 1.02)).tolist() != GUIDE_CODES


def test_halves_go_to_the_even_code() -> None:
    x = f32(0.5, 1.5, 2.5, 3.5, -0.5, -1.5, -2.5)
    assert quantize(x, np.ones((), np.float32)).tolist() == [0, 2, 2, 4, 0, -2, -2]


def test_codes_saturate_to_minus_128_and_127() -> None:
    x = f32(126.6, 127.6, 1e9, np.inf, -127.6, -128.6, -1e9, -np.inf)
    codes = quantize(x, np.ones((), np.float32))
    assert codes.tolist() == [127, 127, 127, 127, -128, -128, -128, -128]


def test_codes_are_int8_of_the_same_shape_and_the_input_is_left_alone() -> None:
    x = seeded(3, 1, 5)
    before = x.copy()
    codes = quantize(x, scale_of(1.0))
    assert codes.dtype == np.int8
    assert codes.shape == (3, 1, 5)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("axis", [0, 1, -1, -2])
def test_one_scale_per_channel_quantizes_each_channel_alone(axis: int) -> None:
    x = seeded(3, 7) * 50
    amax = np.abs(x).max(axis=1 - axis % 2).astype(np.float32)
    codes = quantize(x, scale_of(amax), axis)
    for channel, limit in enumerate(amax):
        row = np.take(x, channel, axis)
        expected = np.rint(row / (limit / np.float32(127)))
        np.testing.assert_array_equal(np.take(codes, channel, axis), expected)


def test_dequantize_is_codes_times_scale_per_channel() -> None:
    codes = np.array([[1, -2], [3, 127], [0, -128]], np.int8)
    real = dequantize(codes, f32(0.5, 2.0, 0.25), 0)
    assert real.dtype == np.float32
    assert real.tolist() == [[0.5, -1.0], [6.0, 254.0], [0.0, -32.0]]


def test_scale_is_amax_over_127_in_float32() -> None:
    scale = scale_of(f32(127.0, 1.0))
    assert scale.dtype == np.float32
    assert scale.tolist() == [1.0, float(np.float32(1) / np.float32(127))]


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_an_unusable_amax_is_refused_with_its_channel(bad: float) -> None:
    with pytest.raises(RangeError, match=r"in channels \[1, 3\] of 5; wanted finite values > 0"):
        scale_of(f32(1.0, bad, 2.0, bad, 3.0))


def test_the_message_prints_the_amax_that_is_wrong() -> None:
    with pytest.raises(RangeError, match=r"amax is -4\.0 in channels \[2\] of 3"):
        scale_of(f32(1.0, 2.0, -4.0))


def test_a_message_about_many_channels_names_the_first_eight() -> None:
    with pytest.raises(RangeError, match=r"\[0, 1, 2, 3, 4, 5, 6, 7\] of 11"):
        scale_of(np.zeros(11, np.float32))


def test_an_amax_too_small_for_a_scale_is_refused() -> None:
    with pytest.raises(RangeError, match="channels"):
        scale_of(f32(1e-44))


@settings(max_examples=60)
@given(st.integers(-128, 127), scales)
def test_every_code_comes_back_from_its_real_value(code: int, scale: float) -> None:
    codes = np.array([code], np.int8)
    step = np.array(scale, np.float32)
    assert quantize(dequantize(codes, step), step).tolist() == [code]


@settings(max_examples=60)
@given(st.lists(values, min_size=1, max_size=9))
def test_the_error_inside_the_range_is_at_most_half_a_step(numbers: list[float]) -> None:
    x = f32(*numbers)
    scale = scale_of(np.maximum(np.abs(x).max(), np.float32(1e-3)))
    error = np.abs(dequantize(quantize(x, scale), scale).astype(np.float64) - x)
    assert error.max() <= float(scale) * 0.50001


@settings(max_examples=60)
@given(values, values, scales)
def test_a_larger_value_never_gets_a_smaller_code(a: float, b: float, scale: float) -> None:
    low, high = quantize(f32(min(a, b), max(a, b)), np.array(scale, np.float32)).tolist()
    assert low <= high


@settings(max_examples=80)
@given(st.lists(values, min_size=1, max_size=9), scales)
def test_onnx_runtime_agrees_bit_for_bit_with_one_scale(numbers: list[float], scale: float) -> None:
    x, step = f32(*numbers), np.array(scale, np.float32)
    codes, real = OrtQuantizer.of(axis=None).run(x, step)
    np.testing.assert_array_equal(quantize(x, step), codes)
    np.testing.assert_array_equal(dequantize(codes, step), real)


@pytest.mark.parametrize("axis", [0, 1])
def test_onnx_runtime_agrees_bit_for_bit_per_channel(axis: int) -> None:
    x = seeded(239, 113) * 3
    scale = scale_of(np.abs(x).max(axis=1 - axis) * np.float32(0.7))
    codes, real = OrtQuantizer.of(axis=axis).run(x, scale)
    np.testing.assert_array_equal(quantize(x, scale, axis), codes)
    np.testing.assert_array_equal(dequantize(codes, scale, axis), real)


def test_onnx_runtime_agrees_on_ties_and_beyond_the_range() -> None:
    x = (np.arange(-300, 300) / 2).astype(np.float32)
    codes, _ = OrtQuantizer.of(axis=None).run(x, np.ones((), np.float32))
    np.testing.assert_array_equal(quantize(x, np.ones((), np.float32)), codes)


@pytest.mark.parametrize("exponent", [-9, -3, 0, 4])
def test_torch_fake_quantize_agrees_bit_for_bit_on_power_of_two_scales(exponent: int) -> None:
    scale = np.array(2.0**exponent, np.float32)
    x = np.concatenate([seeded(1023) * 90, np.arange(-300, 300) / 2]).astype(np.float32) * scale
    fake = torch.fake_quantize_per_tensor_affine(torch.from_numpy(x), float(scale), 0, -128, 127)
    np.testing.assert_array_equal(dequantize(quantize(x, scale), scale), fake.numpy())


@pytest.mark.parametrize("amax", [0.9921, 3.3, 17.0])
def test_torch_fake_quantize_differs_only_at_ties(amax: float) -> None:
    # Torch multiplies by 1/scale, which moves a value right at a tie to the other side.
    scale = scale_of(amax)
    x = np.concatenate([ties(scale), seeded(100_003, seed=5) * np.float32(amax / 2)])
    fake = torch.fake_quantize_per_tensor_affine(torch.from_numpy(x), float(scale), 0, -128, 127)
    steps = np.rint(fake.numpy().astype(np.float64) / float(scale)) - quantize(x, scale)
    assert np.abs(steps).max() == 1
    assert (distance_to_tie(x, scale)[steps != 0] < 1e-4).all()


def test_torch_fake_quantize_agrees_per_channel_away_from_ties() -> None:
    x = seeded(7, 1023)
    scale = scale_of(np.abs(x).max(axis=1))
    fake = torch.fake_quantize_per_channel_affine(
        torch.from_numpy(x),
        torch.from_numpy(scale),
        torch.zeros(7, dtype=torch.int32),
        0,
        -128,
        127,
    )
    same = dequantize(quantize(x, scale, 0), scale, 0) == fake.numpy()
    assert same[distance_to_tie(x, scale[:, None]) >= 1e-4].all()
    assert same.mean() > 0.999


def test_pytorch_quantization_gives_the_same_codes_away_from_ties() -> None:
    amax = 3.3
    x = np.concatenate([ties(scale_of(amax)), seeded(100_003, seed=9)])
    codes, _ = tensor_quant(torch.from_numpy(x), torch.tensor(amax), 8, False, False)
    differ = codes.numpy() != quantize(x, scale_of(amax))
    assert (distance_to_tie(x, scale_of(amax))[differ] < 1e-4).all()
    assert 0 < differ.mean() < 1e-3


def test_sqnr_is_ten_log_ten_of_signal_over_noise() -> None:
    assert sqnr_db(f32(3, 4), f32(3, 5)) == pytest.approx(13.979400086720377)


def test_sqnr_of_equal_arrays_is_infinite_and_of_pure_noise_minus_infinite() -> None:
    assert sqnr_db(f32(1, 2), f32(1, 2)) == float("inf")
    assert sqnr_db(f32(0, 0), f32(1, 2)) == float("-inf")


@pytest.mark.parametrize("measure", [sqnr_db, cosine])
def test_arrays_of_different_shapes_are_not_compared(
    measure: Callable[[FloatArray, FloatArray], float],
) -> None:
    with pytest.raises(ShapeError, match=r"shape \(3, 1\) is compared with one of \(1, 3\)"):
        measure(np.ones((1, 3), np.float32), np.ones((3, 1), np.float32))


def test_cosine_of_half_a_right_angle() -> None:
    assert cosine(f32(1, 0), f32(2, 2)) == pytest.approx(0.7071067811865476)


def test_cosine_of_opposite_and_of_zero_arrays() -> None:
    x = seeded(3, 5)
    assert cosine(x, -x) == pytest.approx(-1.0)
    assert cosine(x, 0 * x) == 0.0
    assert cosine(0 * x, 0 * x) == 1.0


@settings(max_examples=40)
@given(st.lists(st.floats(-9, 9, width=32), min_size=3, max_size=3), st.floats(0.5, 8))
def test_cosine_stays_in_bounds_and_ignores_the_length(numbers: list[float], k: float) -> None:
    x, y = f32(*numbers), f32(1.0, -2.0, 0.5)
    assert -1.0 <= cosine(x, y) <= 1.0
    assert cosine(x * np.float32(k), y) == pytest.approx(cosine(x, y), abs=1e-5)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_weight_has_one_range_per_output_channel(axis: int) -> None:
    weight = np.array([[1.27, 0.25, -2.54], [0.5, -0.75, 0.1]], np.float32)  # [K, N]
    found = channel_amax(weight if axis == 1 else weight.T.copy(), axis)
    np.testing.assert_array_equal(found, np.array([1.27, 0.75, 2.54], np.float32))


def test_a_channel_of_zeros_takes_the_smallest_range_of_the_others() -> None:
    weight = np.array([[1.5, 0, -2.5], [0.5, 0, 0.1]], np.float32)
    np.testing.assert_array_equal(channel_amax(weight, 1), np.array([1.5, 1.5, 2.5], np.float32))


def test_a_weight_of_zeros_has_a_usable_range() -> None:
    np.testing.assert_array_equal(channel_amax(np.zeros((3, 2), np.float32), 1), [1, 1])
