"""Implicit INT8 against NVIDIA's own Python bindings, called as TensorRT calls them: from C++."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from tests.support.tensorrt_bindings import run_or_skip
from tests.support.trt_api import Api, describe
from tests.support.trt_contract import faults
from trt_int8.engine import adapter, implicit

# The adapter names what it hands over, so the checker follows both as one text.
SOURCE = inspect.getsource(adapter) + inspect.getsource(implicit)
CACHE = "TRT-8601-EntropyCalibration2\nids: 3c010204\nmask: 3c010204\n"
# Shapes [B, S] = [3, 5]; a wrong item size, order in memory or order of batches shows.
BATCHES = [
    {
        "ids": np.asfortranarray(np.arange(15).reshape(3, 5) + 1000 * n),
        "mask": np.full((3, 5), n),
    }
    for n in range(3)
]
# nvinfer1::CalibrationAlgoType in NvInfer.h.
ALGORITHM = {"entropy2": 2, "minmax": 3}

_DESCRIBE = """
import tensorrt
from tests.support.trt_api import describe
result = describe(tensorrt)
"""
_BUILD = """
import json
import tensorrt
from tests.support.calibrator_caller import build
result = build(tensorrt, **json.loads({arguments!r}))
"""
_CHECK = """
import tensorrt
from trt_int8.engine.implicit import check_implicit
from trt_int8.errors import TargetError
from trt_int8.spec.build import Flavour
try:
    result = check_implicit(Flavour.TENSORRT, tensorrt)
except TargetError as error:
    result = str(error)
"""
_KEPT = """
import gc
import tensorrt
from tests.support.calibrator_caller import Caller
class Quiet(tensorrt.IInt8MinMaxCalibrator):
    def __init__(self): tensorrt.IInt8MinMaxCalibrator.__init__(self)
    def get_batch_size(self): return 41
caller = Caller(tensorrt, Quiet())
gc.collect()
try:
    caller.config.thing.int8_calibrator = object()
    refused = False
except TypeError:
    refused = True
result = [caller.batch_size(), type(caller.config.thing.int8_calibrator).__name__, refused]
"""
_RAISES = """
import tensorrt
from tests.support.calibrator_caller import Caller
class Broken(tensorrt.IInt8MinMaxCalibrator):
    def __init__(self): tensorrt.IInt8MinMaxCalibrator.__init__(self)
    def get_batch(self, names): raise KeyError(names[0])
result = Caller(tensorrt, Broken()).get_batch(["ids"])
"""

with_calibrators = pytest.mark.parametrize("version", ["8.6.1", "10.9.0.34", "10.13.3.9"])
pytestmark = pytest.mark.xdist_group("bindings")


def build(
    version: str, stubs: Path, folder: Path, calibrator: str, input_type: str = "int32"
) -> Any:
    named = {f"{n:06d}.{name}": a for n, batch in enumerate(BATCHES) for name, a in batch.items()}
    np.savez(folder / "batches.npz", **cast(Any, named))
    shape = {"min": [1, 2], "opt": [3, 5], "max": [7, 9]}
    request = {
        "flavour": "tensorrt",
        "onnx_path": "m.onnx",
        "engine_path": "e",
        "evidence_path": "l",
        "sm": None,
        "profiles": [[{"name": name, **shape} for name in ("ids", "mask")]],
        "implicit": {
            "calibrator": calibrator,
            "cache_path": str(folder / "calib.cache"),
            "batches_path": str(folder / "batches.npz"),
        },
    }
    nbytes = 15 * np.dtype(input_type).itemsize
    arguments = {"request": request, "input_type": input_type, "nbytes": nbytes}
    return run_or_skip(version, _BUILD.format(arguments=json.dumps(arguments)), stubs)


@with_calibrators
def test_every_name_and_call_exists_where_calibrators_do(version: str, stubs: Path) -> None:
    assert faults(SOURCE, cast(Api, run_or_skip(version, _DESCRIBE, stubs))) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("config.int8_calibrator", "config.calibrator"),
        ("tensor.dtype", "tensor.data_type"),
        ("trt.IInt8MinMaxCalibrator", "trt.IInt8MaxCalibrator"),
    ],
)
def test_a_name_that_does_not_exist_is_found(old: str, new: str, stubs: Path) -> None:
    api = cast(Api, run_or_skip("10.13.3.9", _DESCRIBE, stubs))
    assert old in SOURCE
    assert new.split(".")[1] in "\n".join(faults(SOURCE.replace(old, new), api))


def test_the_names_that_version_11_dropped_are_found(stubs: Path) -> None:
    found = "\n".join(faults(SOURCE, cast(Api, run_or_skip("11.4.0.106", _DESCRIBE, stubs))))
    assert "has no 'int8_calibrator'" in found
    assert "has no 'set_calibration_profile'" in found


@with_calibrators
def test_implicit_int8_passes_the_check_where_calibrators_exist(version: str, stubs: Path) -> None:
    assert run_or_skip(version, _CHECK, stubs) is None


def test_tensorrt_11_is_refused_with_the_way_out(stubs: Path) -> None:
    assert run_or_skip("11.4.0.106", _CHECK, stubs) == (
        "TensorRT 11.4.0.106 has no INT8 calibrators (TensorRT removed them in 11.0);"
        " wanted TensorRT 8.6 to 10 for --implicit-int8;"
        " leave --implicit-int8 out: explicit Q/DQ is the default; an old cache is taken over by"
        " 'trt-int8 calib convert CACHE ranges.json' and '--ranges ranges.json'."
    )


def test_tensorrt_rtx_has_none_of_what_implicit_int8_needs() -> None:
    found = "\n".join(faults(SOURCE, describe(pytest.importorskip("tensorrt_rtx"))))
    assert "has no 'int8_calibrator'" in found


@with_calibrators
@pytest.mark.parametrize("calibrator", ["entropy2", "minmax"])
def test_with_a_cache_tensorrt_gets_its_bytes_and_nothing_to_calibrate_on(
    version: str, calibrator: str, stubs: Path, tmp_path: Path
) -> None:
    (tmp_path / "calib.cache").write_text(CACHE)
    seen = build(version, stubs, tmp_path, calibrator)
    assert (seen["cache"], seen["batches"]) == (CACHE, [])
    assert seen["algorithm"] == ALGORITHM[calibrator]
    assert (tmp_path / "calib.cache").read_text() == CACHE


@with_calibrators
def test_a_network_with_implicit_int8_is_not_strongly_typed_and_allows_both_precisions(
    version: str, stubs: Path, tmp_path: Path
) -> None:
    (tmp_path / "calib.cache").write_text(CACHE)
    seen = build(version, stubs, tmp_path, "entropy2")
    assert seen["network"] == ["EXPLICIT_BATCH"]
    assert seen["flags"] == ["FP16", "INT8"]


@pytest.mark.parametrize(
    ("version", "input_type"),
    [("8.6.1", "int32"), ("10.9.0.34", "int32"), ("10.13.3.9", "int64")],
)
def test_without_a_cache_each_batch_comes_in_order_in_the_networks_type_and_a_cache_is_written(
    version: str, input_type: str, stubs: Path, tmp_path: Path
) -> None:
    seen = build(version, stubs, tmp_path, "minmax", input_type)
    wanted = [[batch[n].astype(input_type).tobytes().hex() for n in batch] for batch in BATCHES]
    assert (seen["cache"], seen["batches"]) == (None, wanted)
    assert (tmp_path / "calib.cache").read_bytes() == b"written by TensorRT\n"


@with_calibrators
def test_a_configuration_keeps_its_calibrator_alive_and_takes_nothing_else(
    version: str, stubs: Path
) -> None:
    assert run_or_skip(version, _KEPT, stubs) == [41, "Quiet", True]


@with_calibrators
def test_an_error_while_tensorrt_calibrates_only_looks_like_the_end_of_the_batches(
    version: str, stubs: Path
) -> None:
    assert run_or_skip(version, _RAISES, stubs) is None
