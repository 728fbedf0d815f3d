"""The calibration study: what it writes, and that its figures are what a build would have."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.pipeline.conftest import tiny_options
from trt_int8.calibrate import cache
from trt_int8.errors import CalibrationError, ModelError, RangeError
from trt_int8.model.source import resolve_source
from trt_int8.pipeline import calibrate
from trt_int8.pipeline.build import run_build
from trt_int8.pipeline.calibrate import CalibrationOutcome, run_calibrate
from trt_int8.pipeline.data import PreparedModel
from trt_int8.pipeline.options import CalibrateOptions
from trt_int8.pipeline.prepare import enter, prepare
from trt_int8.pipeline.progress import SilentReporter
from trt_int8.pipeline.ranges import choose_ranges, find_all
from trt_int8.spec.methods import parse_methods
from trt_int8.spec.recipe import CalibrationSettings, Recipe
from trt_int8.spec.shapes import parse_shapes
from trt_int8.spec.study import CalibrationStudy

METHODS = "output,max,percentile:99.9,affine-minmax"

pytestmark = pytest.mark.xdist_group("tiny-bundle")


def study_options(inputs: Path, out: Path, methods: str = METHODS) -> CalibrateOptions:
    return CalibrateOptions(
        model=str(inputs / "bert"),
        calib=inputs / "texts.txt",
        shapes=parse_shapes("batch=1:2:4,seq=8:16:40"),
        methods=parse_methods(methods),
        out=out,
    )


@pytest.fixture(scope="session")
def outcome(tiny_inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> CalibrationOutcome:
    folder = tmp_path_factory.mktemp("study") / "new" / "folder"
    return run_calibrate(study_options(tiny_inputs, folder), SilentReporter())


def test_the_folder_holds_page_figures_and_one_range_file_per_symmetric_method(
    outcome: CalibrationOutcome,
) -> None:
    assert sorted(path.name for path in outcome.folder.iterdir()) == [
        *("calibration.html", "calibration.json"),
        *("ranges.max.json", "ranges.output.json", "ranges.percentile-99.9.json"),
    ]


def test_the_figures_on_disk_are_those_returned(outcome: CalibrationOutcome) -> None:
    text = (outcome.folder / "calibration.json").read_text(encoding="utf-8")
    assert CalibrationStudy.model_validate_json(text) == outcome.study
    assert [m["method"] for m in json.loads(text)["methods"]] == METHODS.split(",")


def test_every_site_is_studied_with_every_method(outcome: CalibrationOutcome) -> None:
    sites = 2 * (6 + 5)  # two layers: six Linears, five tensors of attention
    assert len(outcome.study.tensors) == sites
    assert all(len(tensor.thresholds) == 4 for tensor in outcome.study.tensors)


@pytest.mark.parametrize("method", ["output", "max", "percentile:99.9"])
def test_a_range_file_holds_what_a_build_with_that_method_calibrates(
    outcome: CalibrationOutcome, tiny_inputs: Path, method: str
) -> None:
    recipe = Recipe(calibration=CalibrationSettings(method=method))
    options = tiny_options(tiny_inputs, recipe=recipe)
    entrance = enter(resolve_source(options.model), options, SilentReporter())
    assert not isinstance(entrance, PreparedModel)
    expected = choose_ranges(entrance, options, SilentReporter())
    assert cache.read(outcome.folder / f"ranges.{method.replace(':', '-')}.json") == expected


def test_a_build_takes_the_ranges_of_a_study(
    outcome: CalibrationOutcome, tiny_inputs: Path, tmp_path: Path
) -> None:
    chosen = outcome.folder / "ranges.max.json"
    options = tiny_options(tiny_inputs, out=tmp_path / "bundle", ranges=chosen, targets=None)
    reporter = SilentReporter()
    built = run_build(options, reporter)
    assert (built.bundle / "ranges.json").read_bytes() == chosen.read_bytes()


def test_the_output_cosine_is_that_of_the_fake_quantized_model(
    outcome: CalibrationOutcome, tiny_inputs: Path
) -> None:
    options = study_options(tiny_inputs, outcome.folder)
    entrance = enter(resolve_source(options.model), options, SilentReporter())
    assert not isinstance(entrance, PreparedModel)
    held_out = entrance.data.held_out
    table = cache.read(outcome.folder / "ranges.max.json")
    exact = entrance.answers(None, held_out)
    assert table.smoothing is not None
    entrance.smooth(table.smoothing.arrays())
    pairs = zip(exact, entrance.answers(table.ranges, held_out), strict=True)
    cosines = [
        float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        for one, other in pairs
        for a, b in zip(one["sentence_embedding"], other["sentence_embedding"], strict=True)
    ]
    result = next(m for m in outcome.study.methods if m.method == "max")
    assert outcome.study.texts_held_out == len(cosines)
    assert result.output_cosine_mean == pytest.approx(np.mean(cosines), abs=1e-6)
    assert result.output_cosine_min == pytest.approx(min(cosines), abs=1e-6)
    assert np.mean(cosines) < 1  # something was quantized


def test_an_affine_method_has_no_output_cosine(outcome: CalibrationOutcome) -> None:
    affine = next(m for m in outcome.study.methods if m.method == "affine-minmax")
    assert affine.output_cosine_mean is None
    assert affine.mean_sqnr_db is not None


def test_an_onnx_model_is_studied_by_tensor_name(
    built_onnx: Path, tiny_inputs: Path, tmp_path: Path
) -> None:
    options = study_options(tiny_inputs, tmp_path / "out", "sqnr").model_copy(
        update={"model": str(built_onnx), "tokenizer": tiny_inputs / "bert"}
    )
    study = run_calibrate(options, SilentReporter()).study
    # Q, K and V read one tensor, which is one site in a graph.
    assert len(study.tensors) == 2 * (4 + 5)
    assert study.methods[0].output_cosine_mean is not None


@pytest.fixture(scope="session")
def built_onnx(tiny_inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built") / "bundle"
    options = tiny_options(tiny_inputs)
    source = resolve_source(options.model)
    entrance = enter(source, options, SilentReporter())
    assert not isinstance(entrance, PreparedModel)
    prepared = entrance.finish(choose_ranges(entrance, options, SilentReporter()), SilentReporter())
    out.mkdir()
    path = out / "model.onnx"
    path.write_bytes(prepared.fp32.SerializeToString())
    (out / "int8.onnx").write_bytes(prepared.int8.SerializeToString())
    return path


def test_a_model_with_qdq_is_refused(built_onnx: Path, tiny_inputs: Path, tmp_path: Path) -> None:
    options = study_options(tiny_inputs, tmp_path / "out").model_copy(
        update={
            "model": str(built_onnx.with_name("int8.onnx")),
            "tokenizer": tiny_inputs / "bert",
        }
    )
    with pytest.raises(CalibrationError, match="came with Q/DQ and ranges of its own"):
        run_calibrate(options, SilentReporter())
    assert not (tmp_path / "out").exists()


def test_old_results_are_kept_without_force(outcome: CalibrationOutcome, tiny_inputs: Path) -> None:
    before = {path: path.read_bytes() for path in outcome.folder.iterdir()}
    with pytest.raises(CalibrationError, match=r"calibration.html' exists; .*--force"):
        run_calibrate(study_options(tiny_inputs, outcome.folder, "max"), SilentReporter())
    assert {path: path.read_bytes() for path in outcome.folder.iterdir()} == before


def test_force_leaves_no_ranges_of_the_older_study(tiny_inputs: Path, tmp_path: Path) -> None:
    run_calibrate(study_options(tiny_inputs, tmp_path, "max,mse"), SilentReporter())
    (tmp_path / "notes.txt").write_text("mine")
    newer = study_options(tiny_inputs, tmp_path, "sqnr").model_copy(update={"force": True})
    run_calibrate(newer, SilentReporter())
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"calibration.html", "calibration.json", "ranges.sqnr.json", "notes.txt"}


def broken(monkeypatch: pytest.MonkeyPatch, *labels: str) -> None:
    real = find_all

    def failing(entrance: object, statistics: object, method: object, reporter: object) -> object:
        if method.label in labels:  # type: ignore[attr-defined]
            raise RangeError(f"no {method.label}", wanted="x", todo="y")  # type: ignore[attr-defined]
        return real(entrance, statistics, method, reporter)  # type: ignore[arg-type]

    monkeypatch.setattr(calibrate, "find_all", failing)


def test_a_method_that_fails_is_recorded_and_the_others_go_on(
    tiny_inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch, "max")
    study = run_calibrate(study_options(tiny_inputs, tmp_path, "max,sqnr"), SilentReporter()).study
    assert [m.failure for m in study.methods] == ["no max; wanted x; y.", None]
    assert study.recommended == "sqnr"
    assert not (tmp_path / "ranges.max.json").exists()


def test_if_every_method_fails_nothing_is_written(
    tiny_inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch, "max", "sqnr")
    with pytest.raises(RangeError, match="no max"):
        run_calibrate(study_options(tiny_inputs, tmp_path / "o", "max,sqnr"), SilentReporter())
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    "changes", [{"ranges": Path("ranges.json")}, {"implicit_int8": "entropy2"}]
)
def test_a_build_refuses_ranges_for_a_model_that_has_its_own(
    built_onnx: Path, tiny_inputs: Path, changes: dict[str, object]
) -> None:
    options = tiny_options(
        tiny_inputs,
        model=str(built_onnx.with_name("int8.onnx")),
        tokenizer=tiny_inputs / "bert",
        **changes,
    )
    option = "--ranges" if "ranges" in changes else "--implicit-int8"
    with pytest.raises(ModelError, match=rf"wanted a float model for {option}; leave {option} out"):
        prepare(resolve_source(options.model), options, SilentReporter())
