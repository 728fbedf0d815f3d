"""A script written after pytorch-quantization's user guide, with one line more."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from pytorch_quantization import quant_modules
from torch import Tensor, nn

from tests.support.collected import EVERYTHING
from tests.support.guide_script import (
    HIDDEN,
    Batch,
    Scorer,
    calibrated,
    call_by_name,
    call_by_place,
    collect_stats,
    compute_amax,
    loader,
)
from tests.support.tiny_transformers import VOCABULARY
from trt_int8.annotate.torch_model import silent_absl
from trt_int8.calibrate.drop_in import StreamingCalibrator, use_calibrators
from trt_int8.calibrate.estimate.choose import find_range
from trt_int8.calibrate.statistics import TensorStatistics, statistics_of
from trt_int8.calibrate.values import Values
from trt_int8.spec.methods import parse_method


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with silent_absl(), torch.no_grad():
        yield


def seen_by(model: Scorer, batch: Batch) -> dict[str, Tensor]:
    """What the two quantizers see of one text, computed by hand; rows are tokens."""
    x = torch.exp(model.table(batch["input_ids"]))
    weight, bias = model.dense.weight, model.dense.bias
    return {"dense._input_quantizer": x, "keys": x @ weight.T + bias}


def by_hand(model: Scorer, data: list[Batch]) -> dict[str, TensorStatistics]:
    """Statistics of each text without its padding."""
    found: dict[str, TensorStatistics] = {}
    for number, batch in enumerate(data):
        kept = batch["attention_mask"].bool()
        for name, x in seen_by(model, batch).items():
            part = statistics_of(name, Values(x[kept]), EVERYTHING, number)
            assert part is not None
            found[name] = found[name].merge(part) if name in found else part
    return found


def amaxes(model: Scorer) -> dict[str, float]:
    return {
        "dense._input_quantizer": float(model.dense.input_quantizer.amax),
        "keys": float(model.keys.amax),
    }


def expected(model: Scorer, data: list[Batch], method: str) -> dict[str, float]:
    chosen = parse_method(method)
    found = {n: find_range(n, s, chosen) for n, s in by_hand(model, data).items()}
    return {name: each.amax for name, each in found.items()}  # type: ignore[union-attr]


METHODS: list[tuple[dict[str, Any], str]] = [
    ({"method": "percentile", "percentile": 99.0}, "percentile:99"),
    ({"method": "entropy"}, "entropy"),
    ({"method": "entropy", "stride": 8, "start_bin": 64}, "entropy:stride=8,start=64"),
    ({"method": "mse"}, "mse"),
    ({"method": "mse", "percentile": 99.9}, "mse"),
    ({"method": "sqnr"}, "sqnr"),
    ({"method": "percentile:99.5"}, "percentile:99.5"),
    ({"method": "moving-average"}, "moving-average"),
    ({}, "max"),
]


@pytest.mark.parametrize(("options", "method"), METHODS)
def test_a_guide_style_script_gets_the_range_of_our_method(
    options: dict[str, Any], method: str
) -> None:
    model = calibrated(loader(), example=loader()[0])
    compute_amax(model, **options)
    assert amaxes(model) == pytest.approx(expected(model, loader(), method), rel=1e-6)


def test_the_range_is_that_of_find_range_bit_for_bit() -> None:
    model = calibrated(loader())
    compute_amax(model, method="percentile", percentile=99.0)
    found = model.keys._calibrator.statistics
    chosen = find_range("keys", found, parse_method("percentile:99"))
    assert amaxes(model)["keys"] == chosen.amax  # type: ignore[union-attr]
    assert chosen.amax < found.peak  # type: ignore[union-attr]


def test_the_range_is_close_to_that_of_their_own_calibrator() -> None:
    ours, theirs = calibrated(loader()), Scorer()
    collect_stats(theirs, loader())
    for model in (ours, theirs):
        compute_amax(model, method="percentile", percentile=99.0)
    # Theirs are the edges of 2,048 bins below the largest value of the first batch.
    assert amaxes(ours) == pytest.approx(amaxes(theirs), rel=5e-3)


def test_the_method_may_be_given_by_place() -> None:
    model = calibrated(loader())
    model.keys.load_calib_amax("percentile", percentile=99.0)
    wanted = expected(model, loader(), "percentile:99")["keys"]
    assert float(model.keys.amax) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("number", [np.float64(99.5), np.float32(99.5), 99.5])
def test_a_setting_may_be_a_numpy_number(number: float) -> None:
    model = calibrated(loader())
    model.keys.load_calib_amax("percentile", percentile=number)
    wanted = expected(model, loader(), "percentile:99.5")["keys"]
    assert float(model.keys.amax) == pytest.approx(wanted, rel=1e-6)


def test_quantization_works_afterwards() -> None:
    model = calibrated(loader())
    exact = Scorer()(**loader()[0])
    compute_amax(model, method="max")
    found = model(**loader()[0])
    error = float((found - Scorer()(**loader()[0])).abs().max())
    assert error > 0
    assert not torch.equal(found, exact)


@pytest.mark.parametrize("call", [call_by_name, call_by_place])
def test_padding_is_left_out_wherever_the_mask_is_given(
    call: Callable[[nn.Module, Batch], object],
) -> None:
    data = loader(pad=True)
    model = calibrated(data, example=data[0], call=call)
    wanted = by_hand(model, data)
    for name, quantizer in (
        ("keys", model.keys),
        ("dense._input_quantizer", model.dense.input_quantizer),
    ):
        found = quantizer._calibrator.statistics
        assert found.count == wanted[name].count
        assert found.peak == pytest.approx(wanted[name].peak, rel=1e-6)


def test_a_mask_of_booleans_is_a_mask() -> None:
    data: list[Batch] = [
        {**b, "attention_mask": b["attention_mask"].bool()} for b in loader(pad=True)
    ]
    model = calibrated(data, example=data[0])
    assert model.keys._calibrator.statistics.count == by_hand(model, data)["keys"].count


def test_without_a_mask_everything_counts() -> None:
    """The tests above can fail."""
    data = loader(pad=True)
    model = calibrated(data, call=lambda model, batch: model(batch["input_ids"]))
    count = sum(batch["input_ids"].numel() for batch in data) * HIDDEN
    assert model.keys._calibrator.statistics.count == count


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_the_example_may_hold_arrays_or_tensors(kind: Callable[[Any], Any]) -> None:
    data = loader(pad=True)
    model = calibrated(data, example={name: kind(x) for name, x in data[0].items()})
    assert model.keys._calibrator.statistics.count == by_hand(model, data)["keys"].count


def test_learning_the_axes_counts_nothing_and_leaves_every_switch() -> None:
    model = Scorer()
    model.keys.disable()
    model.dense.input_quantizer.disable_quant()
    before = [
        (q._if_calib, q._if_quant, q._disabled) for q in (model.keys, model.dense._input_quantizer)
    ]
    use_calibrators(model, example=loader()[0])
    quantizers = (model.keys, model.dense._input_quantizer)
    assert [(q._if_calib, q._if_quant, q._disabled) for q in quantizers] == before
    assert all(q._calibrator.statistics is None for q in quantizers)


def test_each_call_of_the_model_is_a_batch() -> None:
    model = calibrated(loader())
    assert list(model.keys._calibrator.statistics.batches) == list(range(len(loader())))


def test_reset_forgets_all_values_of_one_quantizer() -> None:
    model = calibrated(loader())
    ours: Any = model.keys._calibrator
    ours.reset()
    left: Any = ours.statistics
    assert left is None
    assert model.dense.input_quantizer._calibrator.statistics is not None
    with pytest.raises(RuntimeError, match="Calibrator returned None"):
        model.keys.load_calib_amax("max")
    collect_stats(model, loader()[:1])
    assert list(ours.statistics.batches) == [len(loader())]


def test_calibrators_of_weights_per_channel_are_left_alone() -> None:
    model = Scorer()
    weights = model.dense.weight_quantizer._calibrator
    use_calibrators(model)
    assert model.dense.weight_quantizer._calibrator is weights
    assert isinstance(model.keys._calibrator, StreamingCalibrator)
    collect_stats(model, loader())
    compute_amax(model, method="sqnr")
    found, largest = model.dense.weight_quantizer.amax, model.dense.weight.abs().amax(1)
    assert found.flatten().tolist() == largest.tolist()


def test_inference_mode_does_as_well_as_no_grad() -> None:
    model = Scorer()
    use_calibrators(model)
    with torch.inference_mode():
        collect_stats(model, loader())
    assert model.keys._calibrator.statistics.count == by_hand(model, loader())["keys"].count


def test_a_calibrated_model_is_exported_without_warnings_of_ours() -> None:
    model = calibrated(loader(pad=True), example=loader()[0])
    compute_amax(model, method="max")
    batch = loader(pad=True)[0]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.jit.trace(model, (batch["input_ids"], batch["attention_mask"]), check_trace=False)
    assert not [w for w in caught if "drop_in" in w.filename]


def test_a_calibrated_model_can_be_saved() -> None:
    model = calibrated(loader())
    compute_amax(model, method="max")
    torch.save(model.state_dict(), io.BytesIO())
    assert "keys._amax" in model.state_dict()


def test_a_transformer_built_under_quant_modules_leaves_its_padding_out() -> None:
    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=40,
    )
    torch.manual_seed(0)
    quant_modules.initialize()
    try:
        model = transformers.BertModel(config, add_pooling_layer=False).eval()
    finally:
        quant_modules.deactivate()
    data = loader(pad=True)
    use_calibrators(model, example=data[0])
    collect_stats(model, data)
    compute_amax(model, method="percentile", percentile=99.99)
    tokens = sum(int(batch["attention_mask"].sum()) for batch in data)
    inner = model.encoder.layer[0].output.dense.input_quantizer
    assert inner._calibrator.statistics.count == tokens * 48
    queries = model.encoder.layer[0].attention.self
    shared = [getattr(queries, n).input_quantizer._calibrator for n in ("query", "key", "value")]
    assert len({id(each.statistics) for each in shared}) == 1
    assert 0 < float(inner.amax) <= inner._calibrator.statistics.peak
