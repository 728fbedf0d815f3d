"""Files for TensorRT's own calibrator, and who gets the float graph."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from tests.pipeline.conftest import tiny_options
from trt_int8.calibrate.tensorrt_text import parse
from trt_int8.calibrate.texts import TokenArrays
from trt_int8.errors import TargetError
from trt_int8.model.source import resolve_source
from trt_int8.pipeline import engines
from trt_int8.pipeline.build import run_build
from trt_int8.pipeline.data import PreparedModel
from trt_int8.pipeline.implicit import batches_at_opt, write_implicit
from trt_int8.pipeline.options import BuildOptions
from trt_int8.pipeline.prepare import prepare
from trt_int8.pipeline.profiles import ChosenProfiles
from trt_int8.pipeline.progress import SilentReporter
from trt_int8.spec.build import Flavour
from trt_int8.spec.shapes import InputShape

SHAPES = tuple(
    InputShape(name=name, min=(1, 2), opt=(2, 4), max=(4, 9)) for name in ("ids", "mask")
)


def batch(*rows: list[int]) -> TokenArrays:
    ids = np.array(rows, np.int64)
    return {"ids": ids, "mask": np.ones_like(ids)}


def test_texts_are_cut_or_filled_to_the_opt_shape_in_order() -> None:
    found = list(batches_at_opt((batch([1, 2], [3, 4]), batch([5, 6, 7, 8, 9])) * 2, SHAPES))
    assert [b["ids"].tolist() for b in found] == [
        [[1, 2, 0, 0], [3, 4, 0, 0]],
        [[5, 6, 7, 8], [1, 2, 0, 0]],
        [[3, 4, 0, 0], [5, 6, 7, 8]],
    ]
    assert found[1]["mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]


def test_a_rest_that_fills_no_batch_is_dropped() -> None:
    assert list(batches_at_opt((batch([1, 2, 3]),), SHAPES)) == []


@pytest.fixture(scope="module")
def prepared(tiny_inputs: Path) -> PreparedModel:
    options = tiny_options(tiny_inputs, implicit_int8="minmax")
    return prepare(resolve_source(options.model), options, SilentReporter())


def test_the_ranges_go_by_tensor_names_of_the_float_graph(prepared: PreparedModel) -> None:
    assert prepared.ranges is not None
    computed = {name for node in prepared.fp32.graph.node for name in node.output}
    assert set(prepared.ranges.ranges) <= computed


def test_nothing_is_smoothed_for_a_cache_that_holds_no_factors(prepared: PreparedModel) -> None:
    assert BuildOptions(model="m").recipe.smooth == "auto"
    assert prepared.ranges is not None
    assert prepared.ranges.smoothing is None


def test_cache_and_batches_are_written_for_the_installed_tensorrt(
    prepared: PreparedModel, tiny_inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        __import__("sys").modules, "tensorrt", SimpleNamespace(__version__="10.13.3.9")
    )
    options = tiny_options(tiny_inputs, implicit_int8="minmax")
    implicit = write_implicit(prepared, options, tmp_path, tmp_path)
    assert implicit is not None
    assert prepared.ranges is not None
    cache = parse(Path(implicit.cache_path).read_bytes())
    assert (cache.version, cache.calibrator) == ("10.13.3", "MinMaxCalibration")
    expected = {n: np.float32(r.amax / 127) for n, r in prepared.ranges.ranges.items()}
    assert {name: np.float32(scale) for name, scale in cache.scales.items()} == expected
    with np.load(implicit.batches_path) as arrays:
        assert arrays["000000.input_ids"].shape == (2, 16)
        assert len(arrays.files) == 3 * (prepared_texts(prepared) // 2)


def prepared_texts(prepared: PreparedModel) -> int:
    return sum(len(b["input_ids"]) for b in prepared.calibration)


def test_without_the_flag_nothing_is_written(
    prepared: PreparedModel, tiny_inputs: Path, tmp_path: Path
) -> None:
    assert write_implicit(prepared, tiny_options(tiny_inputs), tmp_path, tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_tensorrt_gets_the_float_graph_for_int8_only(
    prepared: PreparedModel, tiny_inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        __import__("sys").modules, "tensorrt", SimpleNamespace(__version__="10.13.3.9")
    )
    work = tmp_path / "work"
    work.mkdir()
    options = tiny_options(tiny_inputs, implicit_int8="entropy2")
    implicit = write_implicit(prepared, options, tmp_path, work)
    onnx.save(prepared.fp32, str(work / "model.fp32.onnx"))
    job = engines.EngineJob(
        folder=tmp_path,
        work=work,
        flavour=Flavour.TENSORRT,
        sms=(None,),
        profiles=ChosenProfiles((prepared.shapes,), ("",)),
        jobs=1,
        timing_cache=None,
        plugin_libraries=(),
        implicit=implicit,
    )
    requests = engines._requests(job)
    int8, fp16 = requests["local int8"], requests["local fp16"]
    assert (int8.implicit, int8.onnx_path) == (implicit, str(work / "model.fp32.onnx"))
    assert (fp16.implicit, fp16.onnx_path) == (None, str(tmp_path / "model.fp16.onnx"))


def test_tensorrt_rtx_refuses_it_before_any_work(tiny_inputs: Path, tmp_path: Path) -> None:
    options = tiny_options(tiny_inputs, out=tmp_path / "b", implicit_int8="entropy2", calib=None)
    reporter = SilentReporter()
    with pytest.raises(TargetError, match=r"has no INT8 calibrators .* explicit Q/DQ"):
        run_build(options, reporter)
    assert reporter.notes == []
    assert not (tmp_path / "b").exists()
