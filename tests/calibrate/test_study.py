from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support.studies import tensor, threshold
from trt_int8.calibrate.statistics import Needs, TensorStatistics, statistics_of
from trt_int8.calibrate.study import (
    affine_sqnr_db,
    clipped_share,
    coarse_histogram,
    method_result,
    near_fp16_overflow,
    outlier_channels,
    study_tensor,
)
from trt_int8.calibrate.values import Values
from trt_int8.spec.methods import parse_method
from trt_int8.spec.ranges import AffineRange, TensorRange

Array = NDArray[np.float32]


def statistics(values: Any, *, histogram: bool = True, channels: bool = True) -> TensorStatistics:
    rows = torch.from_numpy(np.atleast_2d(np.asarray(values, dtype=np.float32)))
    found = statistics_of("t", Values(rows, has_channels=channels), Needs(histogram=histogram), 0)
    assert found is not None
    return found


def normal(rows: int, columns: int, seed: int = 3) -> Array:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


def sqnr_of_values(values: Array, restored: NDArray[np.float64]) -> float:
    x = values.astype(np.float64)
    return float(10 * np.log10((x**2).sum() / ((x - restored) ** 2).sum()))


# 4096 values in the middles of 4096 bins of width 1.
MIDDLES = np.arange(4096) + 0.5
DATA = st.integers(0, 2**31).map(
    lambda seed: np.random.default_rng(seed).standard_t(3, 257).astype(np.float32)
)


def test_the_clipped_share_is_exact_where_the_range_ends_between_bins() -> None:
    both = np.concatenate([MIDDLES, -MIDDLES[:1000]])
    assert clipped_share(statistics(MIDDLES), -7.0, 1024.0) == 3072 / 4096
    assert clipped_share(statistics(both), -600.0, 4000.0) == (400 + 96) / 5096


def test_a_bin_that_the_range_cuts_counts_by_the_part_beyond() -> None:
    assert clipped_share(statistics(MIDDLES), -7.0, 1024.25) == 3071.75 / 4096


@settings(max_examples=60)
@given(DATA, st.floats(0, 1), st.floats(0, 1))
def test_the_clipped_share_is_off_by_at_most_the_bins_cut(x: Array, a: float, b: float) -> None:
    low, high = float(x.min()) * a, float(x.max()) * b
    found = statistics(x)
    assert found.histogram is not None
    width = found.histogram.width
    cut = (np.abs(x - low) <= 2 * width) | (np.abs(x - high) <= 2 * width)
    exact = np.mean((x < low) | (x > high))
    assert abs(clipped_share(found, low, high) - exact) <= np.mean(cut) + 1e-12


@settings(max_examples=60)
@given(DATA)
def test_a_range_of_all_values_clips_nothing_and_a_smaller_one_something(x: Array) -> None:
    low, high = float(x.min()), float(x.max())
    assert clipped_share(statistics(x), low, high) == 0.0
    assert clipped_share(statistics(x), low, high * 0.99) > 0.0
    assert clipped_share(statistics(x), low * 0.99, high) > 0.0


@settings(max_examples=40)
@given(DATA, st.floats(0.01, 1), st.floats(0.01, 1))
def test_a_wider_range_never_clips_more(x: Array, a: float, b: float) -> None:
    found, peak = statistics(x), float(np.abs(x).max())
    narrow, wide = sorted([a, b])
    less = clipped_share(found, -peak * wide, peak * wide)
    assert less <= clipped_share(found, -peak * narrow, peak * narrow)


def test_a_range_from_zero_does_not_clip_values_that_are_not_negative() -> None:
    assert clipped_share(statistics([0.0, 0.0, 0.001, 60.0]), 0.0, 60.0) == 0.0
    assert clipped_share(statistics([-0.001, 0.0, 0.001, 60.0]), 0.0, 60.0) > 0.0


@pytest.mark.parametrize(("high", "share"), [(2.9, 1.0), (3.0, 0.0)])
def test_equal_values_are_clipped_all_or_not_at_all(high: float, share: float) -> None:
    assert clipped_share(statistics([3.0, 3.0, 3.0]), -high, high) == share


def test_sixteen_fine_bins_make_a_drawn_one_where_256_hold_4096() -> None:
    drawn = coarse_histogram(statistics(MIDDLES), 256)
    assert (drawn.width, drawn.first, drawn.counts) == (16.0, 0, (16,) * 256)


def test_the_drawn_bin_around_zero_takes_both_sides() -> None:
    drawn = coarse_histogram(statistics(np.concatenate([MIDDLES, -MIDDLES])), 256)
    assert (drawn.width, drawn.first) == (32.0, -127)
    assert drawn.counts == (32,) * 127 + (64,) + (32,) * 127


def test_few_values_keep_the_fine_bins() -> None:
    drawn = coarse_histogram(statistics([4095.5, 4093.5, 4093.25]), 7)
    assert (drawn.width, drawn.first, drawn.counts) == (1.0, 4093, (2, 0, 1))


@settings(max_examples=60)
@given(DATA, st.integers(1, 300))
def test_every_value_is_in_the_drawn_bin_it_belongs_to(x: Array, bins: int) -> None:
    drawn = coarse_histogram(statistics(x), bins)
    numbers = np.trunc(x.astype(np.float64) / drawn.width).astype(int)
    wanted = [int((numbers == drawn.first + i).sum()) for i in range(len(drawn.counts))]
    assert list(drawn.counts) == wanted
    assert sum(wanted) == x.size
    assert len(wanted) <= bins


def test_the_one_structured_channel_is_found_with_its_numbers() -> None:
    x = normal(101, 768)
    x[:, 308] *= 40  # as in the outlier channels of BERT
    (found,) = outlier_channels(statistics(x))
    peak = np.abs(x[:, 308]).max()
    assert (found.channel, found.peak) == (308, peak)
    distance = np.abs(x[:, 308].astype(np.float64) - x.mean(dtype=np.float64)).max()
    assert found.sigmas == pytest.approx(distance / x.std(dtype=np.float64), rel=1e-3)


def test_outlier_channels_come_with_the_largest_peak_first_and_of_both_signs() -> None:
    x = normal(101, 97)
    x[5, 20], x[7, 3], x[9, 50] = 30.0, -50.0, 40.0
    assert [o.channel for o in outlier_channels(statistics(x))] == [3, 50, 20]


def test_a_heavy_tail_in_every_channel_is_no_outlier_channel() -> None:
    x = np.abs(normal(997, 99)) ** 3
    far = (x.max(axis=0) - x.mean()) / x.std() > 6
    assert far.mean() > 0.5
    assert outlier_channels(statistics(x)) == ()


def test_a_channel_within_six_deviations_is_no_outlier() -> None:
    x = np.zeros((11, 7), dtype=np.float32)
    x[::2], x[1::2] = 1.0, -1.0
    x[:, 4] *= 5
    assert outlier_channels(statistics(x)) == ()


def test_a_channel_under_four_times_the_median_one_is_no_outlier() -> None:
    x = np.zeros((1001, 7), dtype=np.float32)
    x[0] = 1.0
    x[0, 4] = 3.9
    assert outlier_channels(statistics(x)) == ()
    x[0, 4] = 4.1
    assert [o.channel for o in outlier_channels(statistics(x))] == [4]


def test_silent_channels_do_not_make_the_others_outliers() -> None:
    x = np.zeros((1001, 9), dtype=np.float32)
    x[0, :4] = 1.0
    assert outlier_channels(statistics(x)) == ()


def test_zeros_and_tensors_without_fixed_channels_have_no_outliers() -> None:
    x = normal(101, 97)
    x[5, 20] = 99.0
    assert outlier_channels(statistics(x, channels=False)) == ()
    assert outlier_channels(statistics(np.zeros((3, 5)))) == ()


@pytest.mark.parametrize(("value", "near"), [(8188.0, False), (8189.0, True), (-8189.0, True)])
def test_values_over_an_eighth_of_the_float16_limit_are_near_it(value: float, near: bool) -> None:
    assert near_fp16_overflow(statistics([0.5, value])) is near


@pytest.mark.parametrize(("low", "high"), [(-2.0, 5.0), (-0.5, 1.5), (0.0, 3.0)])
def test_the_affine_sqnr_is_that_of_the_quantized_values(low: float, high: float) -> None:
    x = (normal(211, 101) + 0.75).astype(np.float32)
    scale = (high - low) / 255
    zero = np.rint(-low / scale)
    codes = np.clip(np.rint(x.astype(np.float64) / scale) + zero, 0, 255)
    wanted = sqnr_of_values(x, (codes - zero) * scale)
    found = affine_sqnr_db(statistics(x), AffineRange(low=low, high=high))
    assert found == pytest.approx(wanted, abs=0.05)


def test_a_tensor_is_studied_under_symmetric_and_affine_ranges() -> None:
    x = normal(211, 101)
    ranges: dict[str, TensorRange | AffineRange] = {
        "mse": TensorRange(amax=2.5, peak=float(np.abs(x).max())),
        "affine-mse": AffineRange(low=-1.0, high=3.0),
    }
    found = study_tensor("layer.q", statistics(x), ranges)
    ends = [(t.method, t.low, t.high) for t in found.thresholds]
    assert ends == [("mse", -2.5, 2.5), ("affine-mse", -1.0, 3.0)]
    shares = [t.clipped_share for t in found.thresholds]
    assert shares == pytest.approx(
        [np.mean(np.abs(x) > 2.5), np.mean((x < -1) | (x > 3))], abs=1e-3
    )
    codes = np.clip(np.rint(x.astype(np.float64) / (2.5 / 127)), -128, 127)
    wanted = sqnr_of_values(x, codes * (2.5 / 127))
    assert found.thresholds[0].sqnr_db == pytest.approx(wanted, abs=0.05)
    assert found.thresholds[1].sqnr_db != pytest.approx(wanted, abs=0.05)


def test_a_tensor_is_studied_with_its_extremes_channels_and_flags() -> None:
    x = normal(101, 97)
    x[5, 20] = 9000.0
    found = study_tensor("layer.q", statistics(x), {})
    assert (found.name, found.count, found.channels) == ("layer.q", 101 * 97, 97)
    assert (found.low, found.high) == (float(x.min()), 9000.0)
    assert found.near_fp16_overflow
    assert [o.channel for o in found.outlier_channels] == [20]
    assert sum(found.histogram.counts) == 101 * 97
    assert study_tensor("p", statistics(x, channels=False), {}).channels == 0


def test_a_method_is_summed_up_over_its_tensors() -> None:
    tensors = [
        tensor("a", threshold("percentile:99.9", 1.0, sqnr_db=20.0, clipped_share=0.25)),
        tensor("b", threshold("percentile:99.9", 1.0, sqnr_db=31.0), threshold("max", 9.0)),
        tensor("c", threshold("percentile:99.9", 1.0, sqnr_db=30.0, clipped_share=1e-9)),
    ]
    found = method_result(parse_method("percentile:99.9"), tensors, 1.5)
    assert (found.method, found.about) == ("percentile:99.9", "bound of p % of all |x|")
    assert (found.mean_sqnr_db, found.min_sqnr_db, found.clipped_tensors) == (27.0, 20.0, 2)
    assert (found.symmetric, found.seconds, found.failure) == (True, 1.5, None)
    assert found.output_cosine_mean is None


def test_a_failed_method_has_no_numbers_but_its_reason() -> None:
    half_done = [tensor("a", threshold("affine-mse", 1.0, clipped_share=0.5)), tensor("b")]
    found = method_result(parse_method("affine-mse"), half_done, 0.5, "tensor 'b' holds zeros only")
    assert (found.mean_sqnr_db, found.min_sqnr_db, found.clipped_tensors) == (None, None, 0)
    assert found.failure == "tensor 'b' holds zeros only"
    assert not found.symmetric


def test_statistics_without_a_histogram_are_refused() -> None:
    bare = statistics([1.0, 2.0], histogram=False)
    with pytest.raises(ValueError, match="hold no histogram"):
        study_tensor("a", bare, {})


def test_the_sqnr_of_a_range_that_clips_nearly_all_is_finite() -> None:
    found = study_tensor("a", statistics(normal(11, 7)), {"max": TensorRange(amax=1e-6, peak=3.0)})
    assert math.isfinite(found.thresholds[0].sqnr_db)
    assert found.thresholds[0].sqnr_db < 1.0
