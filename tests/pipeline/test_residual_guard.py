"""INT8 residual sums are refused where their outliers are one-sided."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.pipeline.conftest import tiny_options
from tests.support.blocks import encoder
from tests.support.collected import one_batch
from trt_int8.calibrate.statistics import TensorStatistics
from trt_int8.errors import RecipeError
from trt_int8.model.source import resolve_source
from trt_int8.pipeline.data import CalibrationData
from trt_int8.pipeline.onnx_entrance import OnnxEntrance
from trt_int8.pipeline.prepare import enter
from trt_int8.pipeline.progress import SilentReporter
from trt_int8.pipeline.ranges import choose_ranges
from trt_int8.pipeline.residual_guard import refuse_one_sided, worst_one_sided
from trt_int8.spec.recipe import CalibrationSettings, Recipe, load_recipe

FULL = load_recipe("full").model_copy(update={"calibration": CalibrationSettings(method="max")})
FORCED = FULL.model_copy(update={"force": True})
CHANNEL = 9


def statistics(high: float, low: float = 0.0, channel: int = CHANNEL) -> TensorStatistics:
    """256 tokens of 24 channels within 1.5 of zero; one channel also takes `low` and `high`."""
    values = np.random.default_rng(0).uniform(-1.5, 1.5, (256, 24)).astype(np.float32)
    values[0, channel] = high
    values[1, channel] = low
    return one_batch(values)


def test_a_one_sided_outlier_channel_is_named_with_its_numbers() -> None:
    found = worst_one_sided("norm", statistics(30.0))
    assert found is not None
    assert (found.tensor, found.channel, found.high) == ("norm", CHANNEL, 30.0)
    assert -1.5 <= found.low < -1.3
    assert found.sigmas > 20


def test_the_side_does_not_matter() -> None:
    found = worst_one_sided("norm", statistics(0.0, -30.0))
    assert found is not None
    assert found.low == -30.0


@pytest.mark.parametrize(("high", "low"), [(1.4, 0.0), (30.0, -29.0), (30.0, -15.0)])
def test_no_outliers_or_two_sided_ones_pass(high: float, low: float) -> None:
    assert worst_one_sided("norm", statistics(high, low)) is None


def test_twice_as_far_on_one_side_is_the_limit() -> None:
    assert worst_one_sided("norm", statistics(30.0, -14.9)) is not None


def test_the_error_names_the_worst_tensor_and_what_to_do() -> None:
    seen = {"a": statistics(20.0), "b": statistics(40.0, channel=4), "c": statistics(1.0)}
    with pytest.raises(
        RecipeError,
        match=r"'full' quantizes the residual tensor 'b', whose channel 4 .*to 40, .*\(2 such",
    ) as caught:
        refuse_one_sided(FULL, ("a", "b", "c"), seen)
    assert "linear+attention" in caught.value.todo
    assert "force = true" in caught.value.todo


def test_only_residual_sites_are_looked_at() -> None:
    refuse_one_sided(FULL, ("b",), {"a": statistics(40.0), "b": statistics(1.0)})


@pytest.mark.parametrize("recipe", [FORCED, Recipe()], ids=["forced", "no residual"])
def test_a_forced_recipe_and_one_without_residual_sums_pass(recipe: Recipe) -> None:
    refuse_one_sided(recipe, ("a",), {"a": statistics(40.0)})


class Blocks(OnnxEntrance):
    """A post-LN encoder over float input, of which one channel may be one-sided."""

    def __init__(self, recipe: Recipe, *, outlier: bool) -> None:
        model = encoder("post", 1)
        for tensor in model.graph.initializer:
            if tensor.name == "start_g" and outlier:
                gains = np.ones(64, np.float32)
                gains[CHANNEL] = 60.0
                tensor.raw_data = gains.tobytes()
        x = np.random.default_rng(1).standard_normal((64, 5, 64)).astype(np.float32)
        x[:, :, CHANNEL] = np.abs(x[:, :, CHANNEL]) + 1
        source: Any = SimpleNamespace(name="blocks", sha256=lambda: "a" * 64)
        data: Any = CalibrationData(64, [{"x": x}], [])
        super().__init__(source, data, (), model, recipe)


def ranges_of(entrance: Blocks, folder: Path, recipe: Recipe) -> list[str]:
    reporter = SilentReporter()
    choose_ranges(entrance, tiny_options(folder, recipe=recipe, cache=folder / "c"), reporter)
    return reporter.notes


def test_calibration_refuses_a_model_with_one_sided_outliers(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"residual tensor 'start', whose channel 9 "):
        ranges_of(Blocks(FULL, outlier=True), tmp_path, FULL)
    assert not (tmp_path / "c").exists()


def test_a_model_without_them_is_calibrated(tmp_path: Path) -> None:
    ranges_of(Blocks(FULL, outlier=False), tmp_path, FULL)
    assert len(list((tmp_path / "c").iterdir())) == 1


def test_cached_ranges_of_a_recipe_that_did_not_look_are_no_way_around(tmp_path: Path) -> None:
    ranges_of(Blocks(FORCED, outlier=True), tmp_path, FORCED)
    with pytest.raises(RecipeError, match="one-sided outliers"):
        ranges_of(Blocks(FULL, outlier=True), tmp_path, FULL)
    assert "ranges taken from" in ranges_of(Blocks(FORCED, outlier=True), tmp_path, FORCED)[0]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_ranges_of_a_recipe_that_smooths_other_tensors_are_not_taken(
    tmp_path: Path, order: tuple[int, int]
) -> None:
    """What a quantized residual sum reads is not smoothed, though its sites are all the same."""
    recipes = [
        FORCED.model_copy(update={"smooth": 0.5, "residual": flag}) for flag in (False, True)
    ]
    assert len({Blocks(recipe, outlier=True).sites for recipe in recipes}) == 1
    for number in order:
        notes = ranges_of(Blocks(recipes[number], outlier=True), tmp_path, recipes[number])
        assert "ranges taken from" not in notes[0]
    assert len(list((tmp_path / "c").iterdir())) == 2


def test_a_range_file_is_no_way_around(tmp_path: Path) -> None:
    ranges_of(Blocks(FORCED, outlier=True), tmp_path, FORCED)
    (file,) = (tmp_path / "c").iterdir()
    options = tiny_options(tmp_path, recipe=FULL, ranges=file)
    with pytest.raises(RecipeError, match="one-sided outliers"):
        choose_ranges(Blocks(FULL, outlier=True), options, SilentReporter())


def test_a_hugging_face_model_with_residual_sums_goes_through_its_graph(tiny_inputs: Path) -> None:
    reporter = SilentReporter()
    source = resolve_source(str(tiny_inputs / "bert"))
    entrance = enter(source, tiny_options(tiny_inputs, recipe=FULL), reporter)
    assert isinstance(entrance, OnnxEntrance)
    assert len(entrance.residual_sites) == 4
    assert any(
        note.startswith("recipe 'full': residual sums become INT8") for note in reporter.notes
    )


def test_the_default_recipe_gives_no_warning(tiny_inputs: Path) -> None:
    reporter = SilentReporter()
    source = resolve_source(str(tiny_inputs / "bert"))
    assert not isinstance(enter(source, tiny_options(tiny_inputs), reporter), OnnxEntrance)
    assert not [note for note in reporter.notes if note.startswith("recipe ")]
