from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pytorch_quantization.nn.modules.tensor_quantizer import TensorQuantizer
from pytorch_quantization.tensor_quant import QuantDescriptor

from trt_int8.calibrate.estimators import find_range, method_name
from trt_int8.calibrate.histogram import HistogramCalibrator
from trt_int8.errors import RangeError
from trt_int8.spec.ranges import TensorRange
from trt_int8.spec.recipe import CalibrationSettings

MAX = CalibrationSettings(method="max")


def percentile(p: float) -> CalibrationSettings:
    return CalibrationSettings(method="percentile", percentile=p)


def range_of(how: CalibrationSettings, *batches: torch.Tensor | list[float]) -> TensorRange:
    calibrator = HistogramCalibrator("odd.input")
    for batch in batches:
        calibrator.collect(torch.as_tensor(batch))
    return find_range(calibrator, how)


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_max_is_the_largest_magnitude_of_all_batches() -> None:
    assert range_of(MAX, [1.0, -7.5], [3.0], [-2.0]) == TensorRange(amax=7.5, peak=7.5)


@settings(max_examples=30)
@given(st.lists(st.floats(-9, 9, width=32).filter(bool), min_size=2, max_size=9))
def test_max_does_not_depend_on_the_order(numbers: list[float]) -> None:
    expected = max(abs(n) for n in numbers)
    assert range_of(MAX, *[[n] for n in numbers]).amax == expected
    assert range_of(MAX, numbers[::-1]).amax == expected


@pytest.mark.parametrize("p", [50.0, 90.0, 99.0, 99.9])
def test_a_percentile_is_within_two_bins_of_numpys(p: float) -> None:
    x = np.random.default_rng(3).standard_normal(40_009).astype(np.float32)
    found = range_of(percentile(p), torch.from_numpy(x))
    expected = np.percentile(np.abs(x), p)
    assert abs(found.amax - expected) <= 2 * np.abs(x).max() / 2048


@pytest.mark.parametrize("p", [90.0, 99.0, 99.9])
def test_a_percentile_over_growing_batches_is_that_of_all_values(p: float) -> None:
    batches = np.random.default_rng(4).standard_normal((3, 10_007)).astype(np.float32)
    batches *= np.array([[0.5], [1.0], [3.0]], np.float32)
    found = range_of(percentile(p), *torch.from_numpy(batches))
    expected = np.percentile(np.abs(batches), p)
    assert abs(found.amax - expected) <= 2 * np.abs(batches).max() / 2048


def test_the_peak_is_the_largest_magnitude_even_if_clipped() -> None:
    x = torch.cat([torch.linspace(-1, 1, 9_999), torch.tensor([-40.0])])
    found = range_of(percentile(99.9), x)
    assert found.peak == 40.0
    assert found.amax < 1.05


def test_the_peak_over_growing_batches_is_no_larger_than_what_was_seen() -> None:
    found = range_of(percentile(50), [0.3, 0.7], [1.1])
    assert found.peak == pytest.approx(1.1, rel=1e-6)


def test_percentile_100_clips_nothing() -> None:
    assert range_of(percentile(100), [0.5, 1.0, -3.0]).amax == 3.0


@settings(max_examples=30)
@given(st.lists(st.floats(0.25, 8, width=32), min_size=1, max_size=30), st.floats(1, 100))
def test_at_least_the_asked_share_lies_within_the_range(numbers: list[float], p: float) -> None:
    amax = range_of(percentile(p), numbers).amax
    share = sum(n <= amax for n in numbers) / len(numbers)
    assert share >= p / 100 - 1e-9


def test_a_first_batch_of_zeros_does_not_matter() -> None:
    found = range_of(percentile(99), [0.0, 0.0], [1.0, 2.0])
    assert found.amax == pytest.approx(2.0, rel=2 / 2048)


def test_zeros_count_as_values_wherever_they_stand() -> None:
    zeros, ones = [0.0] * 60, [1.0] * 40
    for batches in ([zeros, ones], [ones, zeros], [zeros + ones]):
        assert range_of(percentile(60), *batches).amax < 0.001
        assert range_of(percentile(61), *batches).amax == 1.0


def test_an_empty_batch_changes_nothing() -> None:
    assert range_of(percentile(99), [], [1.0, 2.0], []) == range_of(percentile(99), [1.0, 2.0])


def test_a_tiny_first_batch_does_not_exhaust_the_memory() -> None:
    found = range_of(percentile(99), [1e-9], [1e6])
    assert found.amax == pytest.approx(1e6, rel=2 / 2048)


@settings(max_examples=60)
@given(
    st.data(),
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=30),
)
def test_order_and_batches_do_not_change_a_percentile(
    data: st.DataObject, numbers: list[float]
) -> None:
    how = percentile(data.draw(st.floats(1, 100)))
    shuffled = data.draw(st.permutations(numbers))
    cut = data.draw(st.integers(1, len(numbers) - 1))
    assume(any(numbers))
    assert range_of(how, shuffled[:cut], shuffled[cut:]) == range_of(how, numbers)


@settings(max_examples=60)
@given(st.lists(st.floats(-8, 8, width=32).filter(bool), min_size=1), st.floats(1, 100))
def test_a_range_never_exceeds_the_largest_magnitude(numbers: list[float], p: float) -> None:
    found = range_of(percentile(p), numbers)
    assert 0 < found.amax <= found.peak == max(map(abs, numbers))


@pytest.mark.parametrize("extreme", [1e-45, 1e-38, 3.4028235e38])
def test_the_ends_of_float32_are_counted_like_other_values(extreme: float) -> None:
    largest = float(np.float32(extreme))
    assert range_of(percentile(100), [largest, 0.0, -largest]).amax == largest
    assert range_of(percentile(30), [largest, 0.0, -largest]).amax <= max(largest / 2048, 1e-37)


def test_a_percentile_is_the_decimal_number_and_not_its_float() -> None:
    x = [1.0] * 999 + [2.0]
    assert range_of(percentile(99.9), x).amax == pytest.approx(1.0, abs=0.001)
    assert range_of(percentile(99.91), x).amax == 2.0


def test_a_reset_calibrator_has_seen_nothing() -> None:
    calibrator = HistogramCalibrator("odd.input")
    calibrator.collect(torch.tensor([5.0]))
    calibrator.reset()
    assert calibrator.compute_amax() is None
    calibrator.collect(torch.tensor([3.0]))
    assert find_range(calibrator, percentile(100)) == TensorRange(amax=3.0, peak=3.0)


def test_a_tensor_quantizer_can_hold_the_calibrator() -> None:
    quantizer = TensorQuantizer(QuantDescriptor(num_bits=8))
    quantizer._calibrator = HistogramCalibrator("odd.input")
    quantizer.enable_calib()
    quantizer(torch.tensor([1.0, -6.0]))
    quantizer.load_calib_amax("percentile", percentile=100)
    assert quantizer.amax.item() == 6.0


@pytest.mark.usefixtures("one_thread")
def test_a_large_batch_gives_the_same_range_as_its_parts() -> None:
    # 24 million halves, 10 million ones: 71 % are halves. A float32 count ends at 2**24.
    halves, ones = torch.full((24_000_000,), 0.5), torch.ones(10_000_000)
    whole = range_of(percentile(66), torch.cat([ones, halves]))
    parts = range_of(percentile(66), ones, *halves.chunk(3))
    assert parts.amax == pytest.approx(0.5, abs=0.001)
    assert whole.amax == pytest.approx(0.5, abs=0.001)


@pytest.mark.parametrize("how", [MAX, percentile(99)])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_refused_by_name(
    how: CalibrationSettings, bad: float
) -> None:
    with pytest.raises(RangeError, match=r"'odd\.input' holds NaN or infinity"):
        range_of(how, [1.0, bad])


@pytest.mark.parametrize("how", [MAX, percentile(99)])
def test_a_tensor_of_zeros_is_refused(how: CalibrationSettings) -> None:
    with pytest.raises(RangeError, match=r"'odd.input' gave 0\.0; wanted a finite range > 0"):
        range_of(how, [0.0, 0.0])


@pytest.mark.parametrize("how", [MAX, percentile(99)])
def test_a_tensor_without_data_is_refused(how: CalibrationSettings) -> None:
    with pytest.raises(RangeError, match=r"no calibration data reached 'odd\.input'"):
        range_of(how)


def test_collecting_leaves_the_tensor_alone() -> None:
    x = torch.tensor([-1.0, 2.0])
    range_of(percentile(99), x)
    assert x.tolist() == [-1.0, 2.0]


def test_a_method_is_named_with_its_percentile() -> None:
    assert method_name(MAX) == "max"
    assert method_name(percentile(99.995)) == "percentile:99.995"


def test_percentiles_that_differ_have_names_that_differ() -> None:
    settings_of = [percentile(p) for p in (100, 99.9999, 99.99999, 99.999999)]
    assert len({method_name(s) for s in settings_of}) == 4
