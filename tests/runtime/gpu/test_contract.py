"""The backend's calls against NVIDIA's own packages, with no GPU."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.gpu import fake_context, fake_trt
from tests.support.tensorrt_bindings import BINDINGS_VERSIONS, cuda_python_folder, run_or_skip
from tests.support.trt_api import Api, describe
from tests.support.trt_contract import faults
from trt_int8.engine.flavour import local_sm
from trt_int8.runtime.gpu import engine

REPO = Path(__file__).parents[3]
SOURCE = inspect.getsource(engine)
_ASK = """
import tensorrt as trt
from tests.support.trt_api import describe
from trt_int8.runtime.gpu.engine import _make_log
log = _make_log(trt)
assert isinstance(log, trt.ILogger)
for name in ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"):
    log.log(getattr(trt.ILogger.Severity, name), name + " \\n text")
result = [describe(trt), log.reason()]
"""
CALLED = {
    "cuCtxPopCurrent", "cuCtxPushCurrent", "cuDeviceGet", "cuDeviceGetAttribute",
    "cuDeviceGetCount", "cuDeviceGetName", "cuDevicePrimaryCtxRelease", "cuDevicePrimaryCtxRetain",
    "cuDeviceTotalMem", "cuDriverGetVersion", "cuEventCreate", "cuEventDestroy", "cuEventRecord",
    "cuGraphDestroy", "cuGraphExecDestroy", "cuGraphInstantiate", "cuGraphLaunch", "cuInit",
    "cuMemAlloc", "cuMemFree", "cuMemFreeHost", "cuMemHostAlloc", "cuMemcpyDtoDAsync",
    "cuMemcpyDtoHAsync", "cuMemcpyHtoDAsync", "cuPointerGetAttribute", "cuStreamBeginCapture",
    "cuStreamCreate", "cuStreamDestroy", "cuStreamEndCapture", "cuStreamSynchronize",
    "cuStreamWaitEvent",
}  # fmt: skip

every_version = pytest.mark.parametrize("version", BINDINGS_VERSIONS)
pytestmark = pytest.mark.xdist_group("bindings")


def genuine_answer(paths: list[Path]) -> Any:
    """What `genuine_calls` says of the cuda-python that `paths` bring."""
    if local_sm() is not None:
        pytest.skip("this machine has a CUDA driver, which would run what the test calls")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*paths, REPO]))}
    command = [sys.executable, "-m", "tests.runtime.gpu.genuine_calls"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_driver_call_fits_the_installed_cuda_python() -> None:
    pytest.importorskip("cuda.bindings.driver")
    answer = genuine_answer([])
    assert answer["faults"] == []
    assert set(answer["names"]) == CALLED
    assert answer["controls"] == []


def test_every_driver_call_fits_cuda_python_12() -> None:
    folder = cuda_python_folder()
    if folder is None:
        pytest.skip("cuda-python 12 is not installed for the tests: run install_bindings.py")
    answer = genuine_answer([folder])
    assert answer["version"].startswith("12.")
    assert answer["faults"] == []
    assert answer["controls"] == []


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    return {}


@pytest.fixture
def bindings(version: str, stubs: Path, told: dict[str, Any]) -> tuple[Api, str]:
    """What a version offers, and what our log keeps as a logger of it."""
    if version not in told:
        told[version] = run_or_skip(version, _ASK, stubs)
    api, reason = told[version]
    return api, reason


@pytest.fixture
def api(bindings: tuple[Api, str]) -> Api:
    return bindings[0]


@every_version
def test_every_name_and_call_of_the_engine_exists_in_this_version(api: Api) -> None:
    assert faults(SOURCE, api) == []


def test_every_name_and_call_of_the_engine_exists_in_tensorrt_rtx() -> None:
    assert faults(SOURCE, describe(pytest.importorskip("tensorrt_rtx"))) == []


@pytest.mark.parametrize("version", ["10.13.3.9"])
@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("context.execute_async_v3(stream)", "context.execute_async_v4(stream)", "v4"),
        ("set_tensor_address(name, address)", "set_tensor_address(name)", "does not fit"),
        ("engine.num_io_tensors", "engine.num_bindings", "num_bindings"),
        ("context.set_device_memory(scratch, self", "context.set_device_memory(self", "not fit"),
        ("trt.TensorIOMode.INPUT", "trt.TensorIOMode.IN", "has no 'IN'"),
    ],
)
def test_a_name_or_call_that_does_not_exist_is_found(
    api: Api, old: str, new: str, fault: str
) -> None:
    assert old in SOURCE
    assert fault in "\n".join(faults(SOURCE.replace(old, new), api))


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("config.cuda_graph_strategy =", "config.cuda_graphs =", "cuda_graphs"),
        ("Strategy.EAGER", "Strategy.SOON", "SOON"),
        ("cache.deserialize(stored)", "cache.deserialize()", "does not fit"),
    ],
)
def test_a_name_that_tensorrt_rtx_does_not_have_is_found(old: str, new: str, fault: str) -> None:
    api = describe(pytest.importorskip("tensorrt_rtx"))
    assert old in SOURCE
    assert fault in "\n".join(faults(SOURCE.replace(old, new), api))


@every_version
def test_the_log_works_on_the_genuine_base_class(bindings: tuple[Api, str]) -> None:
    assert bindings[1] == "INTERNAL_ERROR text | ERROR text"


@pytest.mark.parametrize(
    ("fake", "genuine"),
    [
        (fake_trt.EngineRtx, "ICudaEngine"),
        (fake_context.Context10, "IExecutionContext"),
        (fake_trt.RuntimeConfig, "IRuntimeConfig"),
        (fake_trt.RuntimeCache, "IRuntimeCache"),
        (fake_trt.FakeRuntime, "Runtime"),
        (fake_trt.Registry, "IPluginRegistry"),
    ],
)
def test_the_stand_ins_offer_nothing_that_the_real_classes_lack(fake: type, genuine: str) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    older = {"create_execution_context_without_device_memory", "device_memory_size"}
    own = {"trt", "allocation", "cache", "kernels", "num_optimization_profiles"}
    offered = {name for name in dir(fake) if not name.startswith("_")} - own - older
    assert offered <= set(dir(getattr(trt, genuine)))
