"""What a script after pytorch-quantization's user guide is told."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch
from pytorch_quantization import nn as quant_nn
from pytorch_quantization.tensor_quant import QuantDescriptor
from torch import nn

from tests.support.guide_script import Scorer, calibrated, collect_stats, loader
from trt_int8.annotate.torch_model import silent_absl
from trt_int8.calibrate.drop_in import StreamingCalibrator, use_calibrators
from trt_int8.errors import RangeError, RecipeError


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with silent_absl(), torch.no_grad():
        yield


def test_an_unknown_setting_is_named() -> None:
    model = calibrated(loader())
    with pytest.raises(
        RecipeError, match="was given 'bins'; wanted only percentile, stride, start"
    ):
        model.keys.load_calib_amax("entropy", bins=7)


def test_an_unknown_method_is_named() -> None:
    model = calibrated(loader())
    with pytest.raises(
        RecipeError, match="calibration method 'entropie' is unknown; wanted one of"
    ):
        model.keys.load_calib_amax("entropie")


def test_a_setting_out_of_range_is_named() -> None:
    model = calibrated(loader())
    with pytest.raises(
        RecipeError, match=r"the number '101(\.0)?'; wanted a number from .* to 100"
    ):
        model.keys.load_calib_amax("percentile", percentile=101)


def test_a_method_with_asymmetric_ranges_is_refused() -> None:
    model = calibrated(loader())
    with pytest.raises(
        RecipeError, match=r"'affine-minmax' gives asymmetric ranges; .* zero point"
    ):
        model.keys.load_calib_amax("affine-minmax")


def test_zeros_only_are_refused_by_the_name_of_the_quantizer() -> None:
    model = Scorer()
    use_calibrators(model)
    model.keys._calibrator.collect(torch.zeros(1, 2, 3))
    with pytest.raises(RangeError, match=r"calibration of 'keys' gave 0\.0"):
        model.keys.load_calib_amax("max")


def test_nan_is_refused_by_the_name_of_the_quantizer() -> None:
    model = Scorer()
    use_calibrators(model)
    model.table.weight.data[5, 5] = torch.nan
    with pytest.raises(RangeError, match=r"'dense\._input_quantizer' holds NaN or infinity"):
        collect_stats(model, [{"input_ids": torch.tensor([[4, 5]])}])


def test_a_quantizer_of_another_width_does_not_get_ranges_of_eight_bits() -> None:
    model = Scorer()
    model.keys = quant_nn.TensorQuantizer(QuantDescriptor(num_bits=4, calib_method="histogram"))
    with contextlib.suppress(RecipeError):
        use_calibrators(model)
    assert not isinstance(model.keys._calibrator, StreamingCalibrator)


def test_a_model_without_quantizers_is_refused() -> None:
    with pytest.raises(
        RecipeError, match=r"Linear has no per-tensor TensorQuantizer; .*initialize"
    ):
        use_calibrators(nn.Linear(3, 3))


def test_padded_batches_without_an_example_are_refused_with_the_remedy() -> None:
    with pytest.raises(RangeError, match=r"'\S+' of shape .* has an axis of unknown") as caught:
        calibrated(loader(pad=True))
    assert "example=" in caught.value.todo
    assert "--pad-to" not in str(caught.value)


def test_a_quantizer_that_saw_nothing_is_their_error() -> None:
    model = Scorer()
    use_calibrators(model)
    with pytest.raises(RuntimeError, match="Calibrator returned None"):
        model.keys.load_calib_amax("percentile", percentile=99.0)
