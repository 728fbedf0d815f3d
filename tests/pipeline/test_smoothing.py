"""SmoothQuant in a build, by both entrances."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from tests.pipeline.conftest import tiny_options
from tests.support.fake_ray import FakeRay
from tests.support.onnx_tiny import constants_of, count
from tests.support.smoothing_bench import KINDS, OUTLIERS, Bench, Outcome, peaks_by_site, recipe
from trt_int8 import optional
from trt_int8.calibrate import cache
from trt_int8.calibrate.collector import NumberedBatches, Statistics
from trt_int8.calibrate.onnx_statistics import OnnxTensors
from trt_int8.calibrate.texts import read_texts
from trt_int8.calibrate.torch_statistics import TorchTensors
from trt_int8.errors import RangeError
from trt_int8.model.source import resolve_source
from trt_int8.pipeline.calibrate import run_calibrate
from trt_int8.pipeline.entrance import Entrance
from trt_int8.pipeline.options import CalibrateOptions
from trt_int8.pipeline.prepare import prepare
from trt_int8.pipeline.progress import SilentReporter
from trt_int8.pipeline.ranges import choose_ranges, smooth_model
from trt_int8.pipeline.torch_entrance import enter_torch
from trt_int8.spec.methods import parse_methods
from trt_int8.spec.smoothing import Smoothing

pytestmark = pytest.mark.xdist_group("outlier-bert")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in one order, whoever computes them
    try:
        yield Bench.load(tmp_path_factory.mktemp("outliers"))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("kind", KINDS)
def test_outliers_cost_less_accuracy_with_auto_than_without(bench: Bench, kind: str) -> None:
    plain, smoothed = (bench.known(kind, s).cosines() for s in (0, "auto"))
    assert 1 - np.mean(smoothed) < 0.2 * (1 - np.mean(plain))
    assert 1 - np.min(smoothed) < 0.2 * (1 - np.min(plain))


def distinct(smoothing: Smoothing) -> list[NDArray[np.float32]]:
    """The factors of each tensor once, though Q, K and V read one."""
    return list({each.tobytes(): each for each in smoothing.arrays().values()}.values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_range_file_serves_a_recipe_that_keeps_more_in_float(
    bench: Bench, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = bench.known(kind, "auto")
    cache.save(tmp_path / "ranges.json", first.table)
    settings = recipe("auto", keep=("*query*",))
    options = tiny_options(bench.folder, recipe=settings, ranges=tmp_path / "ranges.json")
    source, texts = resolve_source(options.model), read_texts(bench.folder / "texts.txt")
    entrance = enter_torch(source, options, SilentReporter(), texts, as_graph=kind == "onnx")
    forbid_calibration(monkeypatch)
    kept = Outcome(entrance, choose_ranges(entrance, options, SilentReporter()), [])
    assert 1 - np.mean(kept.cosines()) < 2 * (1 - np.mean(first.cosines()))


@pytest.mark.parametrize("kind", KINDS)
def test_the_outlier_channels_have_the_largest_factors(bench: Bench, kind: str) -> None:
    factors = distinct(bench.known(kind, "auto").smoothing)
    found = [set(np.argsort(each)[-2:]) for each in factors if each.size == 64]
    assert found == [set(OUTLIERS)] * 2


def test_both_entrances_find_the_same_factors(bench: Bench) -> None:
    by_torch, by_onnx = (distinct(bench.known(kind, 0.5).smoothing) for kind in KINDS)
    assert len(by_torch) == len(by_onnx) == 3
    for one, other in zip(by_torch, by_onnx, strict=True):
        # A peak that differs in its last bit may round to the next float16 number.
        np.testing.assert_allclose(one, other, rtol=2 / 2048)


@pytest.mark.parametrize("kind", KINDS)
def test_the_float_answers_stay_what_they_were(bench: Bench, kind: str) -> None:
    plain, smoothed = (bench.known(kind, s).entrance for s in (0, "auto"))
    batches = plain.data.held_out
    for one, other in zip(
        plain.answers(None, batches), smoothed.answers(None, batches), strict=True
    ):
        for name in one:
            np.testing.assert_allclose(other[name], one[name], rtol=1e-4, atol=1e-5)


def contents(model: onnx.ModelProto) -> tuple[list[str], list[bytes]]:
    """Operators in their order, and the constants; PyTorch numbers tensors anew in each export."""
    constants = sorted(array.tobytes() for array in constants_of(model).values())
    return [node.op_type for node in model.graph.node], constants


@pytest.mark.parametrize("kind", KINDS)
def test_the_fp16_twin_is_that_of_the_model_as_it_came(bench: Bench, kind: str) -> None:
    plain, smoothed = (bench.known(kind, s).prepared for s in (0, "auto"))
    assert contents(smoothed.fp32) == contents(plain.fp32)
    assert contents(smoothed.int8) != contents(plain.int8)
    assert count(smoothed.int8, "Mul") == count(plain.int8, "Mul") + 3


@pytest.mark.parametrize("kind", KINDS)
def test_ranges_and_weights_are_of_the_smoothed_model(bench: Bench, kind: str) -> None:
    """Nothing is left of the outliers in what the Linears read."""
    plain, smoothed = (bench.known(kind, s) for s in (0, "auto"))
    for site, factors in smoothed.smoothing.arrays().items():
        assert smoothed.table.ranges[site].peak < plain.table.ranges[site].peak
        before, after = (each.entrance.weights()[site] for each in (plain, smoothed))
        np.testing.assert_allclose(after, before * factors[:, None], rtol=3e-7)


@pytest.mark.parametrize(("kind", "smooth"), [("torch", "auto"), ("onnx", "auto"), ("onnx", 0.5)])
def test_a_range_file_of_a_smoothed_build_gives_the_same_graph_without_calibration(
    bench: Bench, kind: str, smooth: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = bench.known(kind, smooth)
    cache.save(tmp_path / "ranges.json", first.table)
    forbid_calibration(monkeypatch)
    # What the recipe says of smoothing does not count: the ranges are of these factors.
    second = bench.calibrated(kind, 0, ranges=tmp_path / "ranges.json")
    assert second.table == first.table
    assert second.prepared.int8.SerializeToString() == first.prepared.int8.SerializeToString()


def test_a_range_file_without_smoothing_smooths_nothing(bench: Bench, tmp_path: Path) -> None:
    first = bench.known("onnx", 0)
    cache.save(tmp_path / "ranges.json", first.table)
    second = bench.calibrated("onnx", "auto", ranges=tmp_path / "ranges.json")
    assert second.prepared.int8.SerializeToString() == first.prepared.int8.SerializeToString()


@pytest.mark.parametrize("kind", KINDS)
def test_factors_of_a_site_that_cannot_be_smoothed_are_refused(
    bench: Bench, kind: str, tmp_path: Path
) -> None:
    table = bench.known(kind, 0).table
    site = next(n for n in table.ranges if n.endswith((".context", "Softmax_output_0", ".softmax")))
    smoothing = Smoothing.of(0.5, {site: np.ones(64, np.float32)})
    cache.save(tmp_path / "ranges.json", table.model_copy(update={"smoothing": smoothing}))
    with pytest.raises(RangeError, match=r"64 smoothing factors for|^smoothing factors for"):
        bench.calibrated(kind, 0, ranges=tmp_path / "ranges.json")


def forbid_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("calibrated again")

    for tensors in (TorchTensors, OnnxTensors):
        monkeypatch.setattr(tensors, "collect", refuse)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cache_hit_smooths_as_the_build_that_filled_it(
    bench: Bench, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = bench.calibrated(kind, "auto", cache=tmp_path)
    forbid_calibration(monkeypatch)
    second = bench.calibrated(kind, "auto", cache=tmp_path)
    assert second.notes == [f"ranges taken from {next(tmp_path.iterdir())}"]
    assert second.table == first.table == bench.known(kind, "auto").table
    assert second.prepared.int8.SerializeToString() == first.prepared.int8.SerializeToString()


def test_each_alpha_has_a_cache_file_of_its_own(bench: Bench, tmp_path: Path) -> None:
    for number, smooth in enumerate((0, 0.5, "auto", 0.5), 1):
        found = bench.calibrated("onnx", smooth, cache=tmp_path)
        assert found.table.smooth == smooth
        assert len(list(tmp_path.iterdir())) == min(number, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_ray_cluster_finds_the_same_factors_bit_for_bit(
    bench: Bench, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, load = FakeRay(), optional.load
    monkeypatch.setattr(optional, "load", lambda name: fake if name == "ray" else load(name))
    shared = bench.calibrated(kind, "auto", ray="local")
    alone = bench.known(kind, "auto")
    # Both halves to find the factors with, then all batches with them.
    assert fake.stopped == 3
    assert sum(fake.shards) == 2 * len(alone.entrance.data.calibration)
    assert shared.table.to_json() == alone.table.to_json()


def test_factors_are_found_with_every_other_batch_and_tried_on_the_rest(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []
    gather = OnnxTensors.collect

    def watched(self: OnnxTensors, batches: NumberedBatches, *rest: Any) -> Statistics:
        seen.append([number for number, _ in batches])
        return gather(self, batches, *rest)

    monkeypatch.setattr(OnnxTensors, "collect", watched)
    entrance = bench.calibrated("onnx", "auto").entrance
    count_all = len(entrance.data.calibration)
    assert seen == [list(range(n, count_all, step)) for n, step in ((0, 2), (1, 2), (0, 1))]


def one_batch(bench: Bench, kind: str) -> Entrance:
    entrance = bench.entrance(kind)
    del entrance.data.calibration[1:]
    return entrance


@pytest.mark.parametrize("kind", KINDS)
def test_from_one_batch_auto_smooths_nothing(bench: Bench, kind: str) -> None:
    """There is no other batch to try factors on."""
    entrance, reporter = one_batch(bench, kind), SilentReporter()
    assert smooth_model(entrance, "auto", None, reporter) == Smoothing(alpha="auto")
    wanted = "nothing is smoothed: auto needs two batches of calibration data, pass more"
    assert reporter.notes == [wanted]
    mul = count(entrance.finish(bench.known(kind, 0).table, SilentReporter()).int8, "Mul")
    assert mul == count(bench.known(kind, 0).prepared.int8, "Mul")


@pytest.mark.parametrize("kind", KINDS)
def test_a_given_alpha_needs_one_batch_only(bench: Bench, kind: str) -> None:
    found = smooth_model(one_batch(bench, kind), 0.5, None, SilentReporter())
    assert found is not None
    assert len(distinct(found)) == 3


def test_without_smoothing_no_channel_is_looked_at(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_calibration(monkeypatch)
    assert smooth_model(bench.entrance("onnx"), 0, None, SilentReporter()) is None


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_a_given_alpha_is_used_for_every_group(bench: Bench, alpha: float) -> None:
    """The factors are those of the paper, by the peaks of all batches."""
    entrance = bench.entrance("onnx")
    found = smooth_model(entrance, alpha, None, SilentReporter())
    assert found is not None
    plain = bench.entrance("onnx")
    weights, peaks = plain.weights(), peaks_by_site(plain)
    for site, factors in found.arrays().items():
        outputs = np.abs(weights[site].astype(np.float64)).max(axis=1)
        inputs = np.maximum(peaks[site], peaks[site].max() / 254)
        raw = inputs**alpha / np.maximum(outputs, outputs.max() / 254) ** (1 - alpha)
        np.testing.assert_allclose(factors, raw / np.exp(np.log(raw).mean()), rtol=1.1 / 2048)


def test_implicit_int8_is_not_smoothed(bench: Bench) -> None:
    options = tiny_options(bench.folder, recipe=recipe(0.5), implicit_int8="minmax")
    prepared = prepare(resolve_source(options.model), options, SilentReporter())
    assert prepared.ranges is not None
    assert prepared.ranges.smoothing is None
    assert not [name for name in constants_of(prepared.int8) if name.endswith("_smooth")]
    assert count(prepared.int8, "Mul") == count(prepared.fp32, "Mul")


def test_a_calibration_study_smooths_as_a_build_does(bench: Bench, tmp_path: Path) -> None:
    wanted = bench.known("torch", "auto").table
    options = tiny_options(bench.folder)
    outcome = run_calibrate(
        CalibrateOptions(
            model=options.model,
            calib=options.calib,
            shapes=options.shapes,
            recipe=recipe("auto"),
            methods=parse_methods("max"),
            out=tmp_path / "study",
        ),
        SilentReporter(),
    )
    assert cache.read(outcome.folder / "ranges.max.json").to_json() == wanted.to_json()
