from __future__ import annotations

import pytest
import torch

from tests.support.range_models import halver, ids
from trt_int8.calibrate.torch_ranges import apply_ranges, collect_ranges
from trt_int8.errors import RangeError
from trt_int8.spec.ranges import TensorRange
from trt_int8.spec.recipe import CalibrationSettings

MAX = CalibrationSettings(method="max")
PERCENTILE = CalibrationSettings(method="percentile", percentile=99)
BATCHES = [ids([4, 30], [8, 2]), ids([1, 3, 5])]
METHODS = [MAX, PERCENTILE]


def nothing() -> None:
    """Progress that nobody watches."""


def test_each_site_gets_the_range_of_its_own_values() -> None:
    model, annotated = halver()
    found = collect_ranges(model, annotated, BATCHES, MAX, nothing)
    assert {name: r.amax for name, r in found.items()} == {"half": 15.0, "shifted": 9.5}


def test_calibration_runs_the_float_model() -> None:
    model, annotated = halver()
    seen: list[torch.Tensor] = []
    model.wrapper.register_forward_hook(lambda _m, _i, out: seen.append(out[0]))
    collect_ranges(model, annotated, [ids([3, 11])], MAX, nothing)
    assert seen[0].tolist() == [[-8.5, -4.5]]


def test_progress_is_told_once_per_batch() -> None:
    model, annotated = halver()
    ticks: list[int] = []
    collect_ranges(model, annotated, BATCHES, MAX, lambda: ticks.append(1))
    assert len(ticks) == 2


def test_quantizers_are_switched_off_afterwards() -> None:
    model, annotated = halver()
    collect_ranges(model, annotated, BATCHES, MAX, nothing)
    (output,) = model.wrapper(torch.tensor([[777]]))
    assert output.tolist() == [[378.5]]


@pytest.mark.parametrize("settings", METHODS)
@pytest.mark.parametrize("where", [0, 2])
def test_a_model_that_gives_nan_on_any_batch_is_refused(
    settings: CalibrationSettings, where: int
) -> None:
    model, annotated = halver()
    batches = list(BATCHES)
    batches.insert(where, ids([1, 99]))
    with pytest.raises(RangeError, match="NaN or infinity"):
        collect_ranges(model, annotated, batches, settings, nothing)


@pytest.mark.parametrize("settings", METHODS)
@pytest.mark.parametrize("where", [0, 2])
def test_infinity_inside_a_model_with_finite_outputs_is_refused_by_name(
    settings: CalibrationSettings, where: int
) -> None:
    model, annotated = halver()
    batches = list(BATCHES)
    batches.insert(where, ids([1, 88]))
    with pytest.raises(RangeError, match=r"'half'.*(infinity|inf)"):
        collect_ranges(model, annotated, batches, settings, nothing)


@pytest.mark.parametrize("settings", METHODS)
def test_a_site_that_sees_no_data_is_named(settings: CalibrationSettings) -> None:
    model, annotated = halver(unused=True)
    with pytest.raises(RangeError, match="no calibration data reached 'unused'"):
        collect_ranges(model, annotated, BATCHES, settings, nothing)


@pytest.mark.parametrize("settings", METHODS)
def test_a_second_collection_forgets_the_first(settings: CalibrationSettings) -> None:
    model, annotated = halver()
    collect_ranges(model, annotated, [ids([2000, 2000])], settings, nothing)
    found = collect_ranges(model, annotated, [ids([4, 30])], settings, nothing)
    assert found["half"].peak == 15.0


def test_loaded_ranges_decide_the_steps() -> None:
    model, annotated = halver()
    ranges = {n: TensorRange(amax=amax, peak=99) for n, amax in (("half", 127), ("shifted", 254))}
    apply_ranges(annotated, ranges)
    annotated.enable(quantize=True)
    (output,) = model.wrapper(torch.tensor([[25, 27, 301]]))
    # half: 12.5 -> 12, 13.5 -> 14, 150.5 -> 127 at step 1; shifted: 2, 4, 117 at step 2.
    assert output.tolist() == [[2.0, 4.0, 116.0]]


def test_a_site_without_a_range_is_named() -> None:
    _, annotated = halver(unused=True)
    ranges = {"half": TensorRange(amax=1, peak=1)}
    with pytest.raises(RangeError, match=r"no range for 'shifted' \(2 missing\)"):
        apply_ranges(annotated, ranges)
