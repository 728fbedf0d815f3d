from __future__ import annotations

from collections.abc import Iterable
from functools import reduce

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support.collected import collected, one_batch
from trt_int8.calibrate.estimate.affine import affine_mse
from trt_int8.calibrate.estimate.bhandare import kl_conjugate, kl_independent, kl_symmetric
from trt_int8.calibrate.estimate.choose import find_range, needs_of
from trt_int8.calibrate.estimate.clip import amax_aciq_gauss, amax_aciq_laplace
from trt_int8.calibrate.estimate.kl import amax_entropy
from trt_int8.calibrate.estimate.mse import amax_mse, sqnr_db
from trt_int8.calibrate.estimate.rows import amax_output, amax_sqnr
from trt_int8.calibrate.statistics import Needs, TensorStatistics, statistics_of
from trt_int8.calibrate.values import Values
from trt_int8.errors import RangeError
from trt_int8.spec.methods import METHODS, parse_method, parse_methods
from trt_int8.spec.ranges import AffineRange, TensorRange

Array = NDArray[np.float32]

SYMMETRIC = sorted(name for name, kind in METHODS.items() if kind.symmetric)
WEIGHT = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)


def batches_of(seed: int) -> Array:
    """Three batches of 60 tokens with 5 channels and heavy tails."""
    return np.random.default_rng(seed).standard_t(3, (3, 60, 5)).astype(np.float32)


def chosen(statistics: TensorStatistics, text: str) -> TensorRange | AffineRange:
    return find_range("odd.input", statistics, parse_method(text), WEIGHT)


def amax_of(batches: Iterable[Array], text: str) -> float:
    found = chosen(collected(*batches), text)
    assert isinstance(found, TensorRange)
    return found.amax


def test_needs_are_those_of_all_the_methods() -> None:
    assert needs_of(parse_methods("max,moving-average")) == Needs(histogram=False, rows=False)
    assert needs_of(parse_methods("max,mse")) == Needs(histogram=True, rows=False)
    assert needs_of(parse_methods("output")) == Needs(histogram=False, rows=True)
    assert needs_of(parse_methods("sqnr,percentile:99")) == Needs(histogram=True, rows=True)
    assert needs_of([]) == Needs(histogram=False, rows=False)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_what_a_method_says_it_needs_is_enough(name: str) -> None:
    method = parse_method(name)
    rows = torch.from_numpy(batches_of(1)[0])
    seen = statistics_of("odd.input", Values(rows), needs_of([method]), 0)
    found = find_range("odd.input", seen, method, WEIGHT)
    assert isinstance(found, TensorRange if METHODS[name].symmetric else AffineRange)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_what_a_method_reads_it_says_it_needs(name: str) -> None:
    kind = METHODS[name]
    rows = torch.from_numpy(batches_of(1)[0])
    seen = statistics_of("t", Values(rows), Needs(not kind.histogram, not kind.rows), 0)
    assert seen is not None
    if kind.histogram or kind.rows:
        with pytest.raises(ValueError, match=r"these statistics hold no"):
            chosen(seen, name)
    else:
        chosen(seen, name)


def test_each_method_gives_what_its_estimator_gives() -> None:
    seen = collected(*batches_of(2))
    expected = {
        "max": seen.peak,
        "entropy:stride=8,start=64": amax_entropy(seen, 8, 64),
        "mse": amax_mse(seen),
        "aciq-gauss": amax_aciq_gauss(seen),
        "aciq-laplace": amax_aciq_laplace(seen),
        "sqnr": amax_sqnr(seen),
        "output": amax_output(seen, WEIGHT),
        "kl-symmetric:stride=8,start=64": kl_symmetric(seen, 8, 64),
        "kl-conjugate:stride=8,start=64": kl_conjugate(seen, 8, 64),
    }
    for text, amax in expected.items():
        assert chosen(seen, text) == TensorRange(amax=float(np.float32(amax)), peak=seen.peak)


def test_each_affine_method_gives_what_its_estimator_gives() -> None:
    seen = collected([-7.0, 1.0, 2.0], [9.0, 2.0, 0.5], [-1.0, 3.0, 1.5])
    assert chosen(seen, "affine-minmax") == AffineRange(low=-7.0, high=9.0)
    assert chosen(seen, "affine-current") == AffineRange(low=-1.0, high=3.0)
    assert chosen(seen, "affine-mse") == affine_mse(seen)
    assert chosen(seen, "kl-independent:stride=8,start=64") == kl_independent(seen, 8, 64)


def test_settings_reach_their_estimators() -> None:
    seen = collected([4.0], [8.0], [1.0])
    assert chosen(seen, "moving-average:0.5") == TensorRange(amax=3.5, peak=8.0)
    assert chosen(seen, "moving-average:0") == TensorRange(amax=1.0, peak=8.0)
    assert chosen(seen, "percentile:66") == TensorRange(amax=4 + 2**-8, peak=8.0)
    assert chosen(seen, "percentile:100") == TensorRange(amax=8.0, peak=8.0)


def test_output_without_a_weight_is_sqnr() -> None:
    seen = collected(*batches_of(3))
    without = find_range("odd.input", seen, parse_method("output"))
    assert without == chosen(seen, "sqnr")
    assert without != chosen(seen, "output")


def test_the_peak_is_the_largest_magnitude_even_if_clipped() -> None:
    found = chosen(collected(np.linspace(-1, 1, 9_999), [-40.0]), "percentile:99.9")
    assert isinstance(found, TensorRange)
    assert found.peak == 40.0
    assert found.amax < 1.05


@pytest.mark.parametrize("name", SYMMETRIC)
def test_a_range_is_a_float32(name: str) -> None:
    amax = amax_of(batches_of(4) / np.float32(3), name)
    assert amax == float(np.float32(amax))


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_tensor_without_data_is_refused_by_name(name: str) -> None:
    with pytest.raises(RangeError, match=r"no calibration data reached 'odd\.input'; wanted every"):
        find_range("odd.input", None, parse_method(name))


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_tensor_of_zeros_is_refused_by_name(name: str) -> None:
    with pytest.raises(RangeError, match=r"'odd\.input' gave 0\.0; wanted a finite range > 0"):
        chosen(collected(np.zeros((4, 5))), name)


def test_a_moving_average_of_zero_is_refused_by_name() -> None:
    with pytest.raises(RangeError, match=r"'odd\.input' gave 0\.0; wanted a finite range > 0"):
        chosen(collected([1.0], [0.0]), "moving-average:0")


@settings(max_examples=4)
@given(seed=st.integers(0, 10**6))
@pytest.mark.parametrize("name", sorted(METHODS))
def test_shuffled_and_shared_out_data_give_the_same_range(name: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    batches = batches_of(seed)
    pieces = [
        one_batch(piece, number)
        for number, batch in enumerate(batches)
        for piece in np.split(random.permutation(batch), [11, 40])
    ]
    order = random.permutation(len(pieces))
    merged = reduce(TensorStatistics.merge, [pieces[i] for i in order])
    assert chosen(merged, name) == chosen(collected(*batches), name)


@settings(max_examples=4)
@given(seed=st.integers(0, 10**6), power=st.integers(-80, 80))
@pytest.mark.parametrize("name", SYMMETRIC)
def test_a_power_of_two_scales_a_symmetric_range_exactly(name: str, seed: int, power: int) -> None:
    batches = batches_of(seed)
    scaled = amax_of(np.ldexp(batches, power), name)
    assert scaled == np.ldexp(amax_of(batches, name), power)


@settings(max_examples=4)
@given(seed=st.integers(0, 10**6), factor=st.floats(0.01, 100))
@pytest.mark.parametrize(
    "name", ["max", "moving-average", "percentile:90", "aciq-gauss", "aciq-laplace"]
)
def test_any_factor_scales_a_range_almost_exactly(name: str, seed: int, factor: float) -> None:
    batches = batches_of(seed)
    scaled = amax_of(batches * np.float32(factor), name)
    # A bin is at most 1 / 2,048 of the peak.
    widest = factor * float(np.abs(batches).max()) / 2048
    assert scaled == pytest.approx(factor * amax_of(batches, name), abs=2 * widest)


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6), factor=st.floats(0.01, 100))
def test_any_factor_leaves_the_least_error_almost_as_it_was(seed: int, factor: float) -> None:
    batches = batches_of(seed)
    ratios = []
    for some in (batches, batches * np.float32(factor)):
        seen = collected(*some)
        ratios.append(sqnr_db(seen, amax_mse(seen)))
    assert ratios[0] == pytest.approx(ratios[1], abs=0.2)


@settings(max_examples=4)
@given(seed=st.integers(0, 10**6))
@pytest.mark.parametrize("name", SYMMETRIC)
def test_a_range_is_above_zero_and_never_above_the_peak(name: str, seed: int) -> None:
    batches = batches_of(seed)
    assert 0 < amax_of(batches, name) <= np.abs(batches).max()


@pytest.mark.parametrize("name", SYMMETRIC)
@pytest.mark.parametrize("extreme", [1e-45, 1e-38, 3.4028235e38])
def test_the_ends_of_float32_have_ranges_too(name: str, extreme: float) -> None:
    largest = np.float32(extreme)
    row = np.array([largest, 0, -largest, 0, largest], np.float32)
    assert 0 < amax_of([row], name) <= float(largest)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_one_value_alone_has_a_range(name: str) -> None:
    found = find_range("odd.input", collected([[-3.25]]), parse_method(name))
    if isinstance(found, TensorRange):
        assert 0 < found.amax <= found.peak == 3.25
    else:
        assert -3.25 <= found.low < found.high <= 1e-8
