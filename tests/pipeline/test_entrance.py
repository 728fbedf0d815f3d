"""What an entrance says of its tensors: statistics, weights, and the ranges these give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.pipeline.conftest import tiny_options
from tests.support.collected import EVERYTHING
from trt_int8.calibrate.collector import Statistics
from trt_int8.calibrate.estimate.choose import find_range
from trt_int8.graph.export import export_float
from trt_int8.graph.normalize import normalize
from trt_int8.model.huggingface import load_text_model
from trt_int8.model.source import resolve_source
from trt_int8.pipeline import ranges
from trt_int8.pipeline.data import CalibrationData, PreparedModel
from trt_int8.pipeline.entrance import Entrance
from trt_int8.pipeline.onnx_entrance import OnnxEntrance
from trt_int8.pipeline.prepare import enter
from trt_int8.pipeline.progress import SilentReporter
from trt_int8.pipeline.ranges import choose_ranges, collect, find_all
from trt_int8.pipeline.torch_entrance import TorchEntrance
from trt_int8.spec.methods import parse_method
from trt_int8.spec.recipe import CalibrationSettings, Recipe

QKV = tuple(
    f"model.encoder.layer.1.attention.self.{part}.input" for part in ("query", "key", "value")
)


def entered(folder: Path, **settings: object) -> Entrance:
    recipe = Recipe(calibration=CalibrationSettings.model_validate(settings))
    made = tiny_options(folder, recipe=recipe)
    found = enter(resolve_source(made.model), made, SilentReporter())
    assert not isinstance(found, PreparedModel)
    return found


@pytest.fixture(scope="module")
def torch_entrance(tiny_inputs: Path) -> Entrance:
    return entered(tiny_inputs)


@pytest.fixture(scope="module")
def statistics(torch_entrance: Entrance) -> Statistics:
    return collect(torch_entrance, EVERYTHING, None, SilentReporter())


def test_q_k_and_v_meet_their_three_weights_side_by_side(
    torch_entrance: Entrance, tiny_inputs: Path
) -> None:
    weights = torch_entrance.weights()
    layer = load_text_model(resolve_source(str(tiny_inputs / "bert"))).backbone.encoder.layer[1]
    parts = [getattr(layer.attention.self, part) for part in ("query", "key", "value")]
    wanted = np.concatenate([part.weight.detach().numpy().T for part in parts], axis=1)
    for name in QKV:
        np.testing.assert_array_equal(weights[name], wanted)
    wide = weights["model.encoder.layer.1.output.dense.input"]
    np.testing.assert_array_equal(wide, layer.output.dense.weight.detach().numpy().T)
    assert not any(name.endswith((".softmax", ".context")) for name in weights)


def test_sites_that_share_a_tensor_get_one_range_by_the_weights_of_all(
    torch_entrance: Entrance, statistics: Statistics
) -> None:
    method = parse_method("output")
    found = find_all(torch_entrance, statistics, method, SilentReporter())
    weight = torch_entrance.weights()[QKV[0]]
    assert [found[name] for name in QKV] == [find_range("", statistics[QKV[0]], method, weight)] * 3


def test_the_weights_do_decide(torch_entrance: Entrance, statistics: Statistics) -> None:
    """The test above can fail."""
    found = {
        m: find_all(torch_entrance, statistics, parse_method(m), SilentReporter())
        for m in ("output", "sqnr")
    }
    assert any(found["output"][name] != found["sqnr"][name] for name in torch_entrance.sites)


def test_a_shared_range_is_searched_once(
    torch_entrance: Entrance, statistics: Statistics, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[str] = []

    def counted(name: str, *rest: Any) -> object:
        searched.append(name)
        return find_range(name, *rest)

    monkeypatch.setattr(ranges, "find_range", counted)
    find_all(torch_entrance, statistics, parse_method("output"), SilentReporter())
    assert len(searched) == len(set(searched)) == len(torch_entrance.sites) - 2 * 2


def test_finding_the_weights_runs_one_text(tiny_inputs: Path) -> None:
    """All tensors of that run are held at once: a padded batch of a large model takes gigabytes."""
    entrance = entered(tiny_inputs, pad_to=40)
    assert isinstance(entrance, TorchEntrance)
    texts: list[int] = []
    entrance._model.wrapper.register_forward_hook(lambda _m, x, _o: texts.append(x[0].shape[0]))
    entrance.weights()
    assert len(entrance.data.calibration[0]["input_ids"]) == 16
    assert texts == [1]


def test_padding_changes_no_range_but_by_rounding(tiny_inputs: Path) -> None:
    found = []
    for settings in ({"method": "max"}, {"method": "max", "pad_to": 40}):
        entrance = entered(tiny_inputs, **settings)
        seen = collect(entrance, EVERYTHING, None, SilentReporter())
        found.append(find_all(entrance, seen, parse_method("max"), SilentReporter()))
    amaxes = [{name: each.amax for name, each in ranged.items()} for ranged in found]  # type: ignore[union-attr]
    assert amaxes[1] == pytest.approx(amaxes[0], rel=1e-5)


def graph_entrance(folder: Path, keep: tuple[str, ...] = ()) -> OnnxEntrance:
    source = resolve_source(str(folder / "bert"))
    model = load_text_model(source)
    model.backbone.set_attn_implementation("eager")
    graph = normalize(export_float(model))
    ids = np.arange(3, 40).reshape(1, -1)
    batch = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    batch["token_type_ids"] = np.zeros_like(ids)
    return OnnxEntrance(source, CalibrationData(1, [batch], []), (), graph, Recipe(keep=keep))


def test_a_kept_linear_that_shares_its_input_has_no_say_in_a_cached_range(
    tiny_inputs: Path, tmp_path: Path
) -> None:
    made = tiny_options(tiny_inputs, recipe=Recipe(smooth=0), cache=tmp_path / "cache")
    choose_ranges(graph_entrance(tiny_inputs), made, SilentReporter())
    kept = graph_entrance(tiny_inputs, keep=("*query*",))
    cached = choose_ranges(kept, made, SilentReporter())
    fresh = choose_ranges(kept, made.model_copy(update={"cache": None}), SilentReporter())
    assert cached.ranges == fresh.ranges


def test_an_onnx_tensor_meets_the_weights_of_all_linears_that_read_it(tiny_inputs: Path) -> None:
    weights = graph_entrance(tiny_inputs).weights()
    shapes = sorted(weight.shape for weight in weights.values())
    # Per layer: Q, K and V together, the attention's output, and the two of the FFN.
    assert shapes == sorted([(64, 192), (64, 64), (64, 80), (80, 64)] * 2)
