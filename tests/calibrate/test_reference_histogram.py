"""ReferenceHistogram against pytorch-quantization's HistogramCalibrator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pytorch_quantization.calib import HistogramCalibrator
from pytorch_quantization.nn import TensorQuantizer
from torch import Tensor

from trt_int8.annotate.torch_model import silent_absl
from trt_int8.calibrate.reference_histogram import ReferenceHistogram
from trt_int8.errors import RecipeError


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(size: int, seed: int = 1) -> Tensor:
    return torch.randn(size, generator=random(seed))


BATCHES: dict[str, list[Tensor]] = {
    "normal": [normal(5003)],
    "exponential": [torch.empty(5003).exponential_(generator=random(2))],
    "uniform": [torch.rand(4001, generator=random(3))],
    "constant": [torch.full((311,), 2.5)],
    "constant of both signs": [torch.tensor([-2.5, 2.5, 2.5, 0.0])],
    "outliers far beyond a gap": [torch.cat([normal(3001) * 0.1, torch.full((5,), 60.0)])],
    "growing batches": [normal(999, 4), normal(1001, 5) * 1.7, normal(1003, 6) * 2.3],
    "shrinking batches": [normal(999, 4) * 2, normal(1001, 5)],
    "whole numbers": [torch.arange(-255.0, 256.0)],
    "many zeros": [torch.relu(normal(5003, 7))],
}


def both(batches: list[Tensor], **settings: Any) -> tuple[HistogramCalibrator, ReferenceHistogram]:
    """Theirs and ours, 192 bins at first, fed with the same."""
    arguments = {"num_bits": 8, "axis": None, "unsigned": False, "num_bins": 192} | settings
    theirs, ours = HistogramCalibrator(**arguments), ReferenceHistogram(**arguments)
    for batch in batches:
        theirs.collect(batch.clone())
        ours.collect(batch.clone())
    return theirs, ours


def same(one: Tensor | None, other: Tensor | None) -> bool:
    assert one is not None
    assert other is not None
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)


@pytest.mark.parametrize("name", BATCHES)
def test_it_collects_the_same_bins(name: str) -> None:
    theirs, ours = both(BATCHES[name])
    assert torch.equal(theirs._calib_hist, ours._calib_hist)
    assert torch.equal(theirs._calib_bin_edges, ours._calib_bin_edges)


@pytest.mark.parametrize("name", BATCHES)
def test_entropy_gives_the_same_amax(name: str) -> None:
    theirs, ours = both(BATCHES[name])
    assert same(ours.compute_amax("entropy"), theirs.compute_amax("entropy"))


def test_entropy_gives_the_same_amax_with_the_usual_2048_bins() -> None:
    theirs, ours = both([normal(20_011)], num_bins=2048)
    settings = {"stride": 37, "start_bin": 131}
    assert same(
        ours.compute_amax("entropy", **settings), theirs.compute_amax("entropy", **settings)
    )


@pytest.mark.parametrize("settings", [{"unsigned": True, "num_bins": 300}, {"num_bits": 4}])
def test_entropy_follows_the_number_of_levels(settings: dict[str, Any]) -> None:
    theirs, ours = both([normal(5003).abs()], **settings)
    expected = theirs.compute_amax("entropy", start_bin=180)
    assert same(ours.compute_amax("entropy", start_bin=180), expected)


def test_entropy_takes_numpy_counts_too() -> None:
    theirs, ours = both(BATCHES["growing batches"], torch_hist=False)
    assert same(ours.compute_amax("entropy"), theirs.compute_amax("entropy"))


@pytest.mark.parametrize("torch_hist", [True, False])
def test_the_histogram_survives_a_search_and_theirs_does_not(torch_hist: bool) -> None:
    theirs, ours = both(BATCHES["many zeros"], torch_hist=torch_hist)
    before = ours._calib_hist.copy() if not torch_hist else ours._calib_hist.clone()
    first = ours.compute_amax("entropy")
    percentile = ours.compute_amax("percentile", percentile=60)
    assert np.array_equal(ours._calib_hist, before)
    assert same(ours.compute_amax("entropy"), first)
    theirs.compute_amax("entropy")
    changed = not same(percentile, theirs.compute_amax("percentile", percentile=60))
    assert changed is not torch_hist


@pytest.mark.parametrize("percentile", [0, 50, 99.9, 99.99, 100])
def test_percentile_gives_the_same_amax(percentile: float) -> None:
    theirs, ours = both(BATCHES["growing batches"])
    expected = theirs.compute_amax("percentile", percentile=percentile)
    assert same(ours.compute_amax("percentile", percentile=percentile), expected)


def test_a_percentile_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="Must be in range 0 <= percentile <= 100"):
        both(BATCHES["normal"])[1].compute_amax("percentile", percentile=101)


@pytest.mark.parametrize("name", ["normal", "exponential", "constant", "growing batches"])
@pytest.mark.parametrize("torch_hist", [True, False])
def test_mse_gives_the_same_amax_without_cuda(
    name: str, torch_hist: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, ours = both(BATCHES[name], torch_hist=torch_hist)
    found = ours.compute_amax("mse", stride=3, start_bin=20)
    monkeypatch.setattr(Tensor, "cuda", lambda self: self)
    assert same(found, theirs.compute_amax("mse", stride=3, start_bin=20))


@pytest.mark.parametrize("method", ["entropy", "mse", "percentile"])
def test_without_data_there_is_no_amax(method: str) -> None:
    assert both([])[1].compute_amax(method) is None


def test_reset_forgets_the_data() -> None:
    ours = both(BATCHES["normal"])[1]
    ours.reset()
    assert ours.compute_amax("entropy") is None


def test_fewer_bins_than_the_start_give_the_last_edge() -> None:
    ours = both(BATCHES["uniform"], num_bins=100)[1]
    found = ours.compute_amax("entropy")
    assert found is not None
    assert float(found) == float(BATCHES["uniform"][0].max())


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(TypeError) as caught:
        both(BATCHES["normal"])[1].compute_amax("median")
    assert str(caught.value) == (
        "calibration method is 'median', wanted one of ('entropy', 'mse', 'percentile')"
    )


def test_a_stride_of_zero_is_refused() -> None:
    with pytest.raises(RecipeError, match="the entropy search has stride 0 and start 128"):
        both(BATCHES["normal"])[1].compute_amax("entropy", stride=0)


def test_a_tensor_quantizer_takes_it_for_its_calibrator() -> None:
    theirs, ours = both([])
    quantizer = TensorQuantizer()
    quantizer._calibrator = ours
    with silent_absl():
        quantizer.disable_quant()
        quantizer.enable_calib()
        quantizer(BATCHES["exponential"][0])
        quantizer.load_calib_amax("entropy")
    theirs.collect(BATCHES["exponential"][0])
    assert same(quantizer.amax, theirs.compute_amax("entropy"))
