from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from tests.kernels.front_end.driver import RecordingDriver
from trt_int8.engine.plugins.driver import DriverLauncher, Pointers
from trt_int8.errors import MissingPackageError, PluginError
from trt_int8.plugins.calls import PlannedKernel
from trt_int8.plugins.compile import CompiledKernel
from trt_int8.plugins.kernel import KernelVariant

VARIANT = KernelVariant("any.cu", "work", 75)
PTX = """
.visible .entry work(
    .param .u64 work_param_0,
    .param .u32 work_param_1,
    .param .u32 work_param_2,
    .param .u64 work_param_3
)
{ ret; }
"""
KERNEL = CompiledKernel(VARIANT, PTX, "0" * 64)
PLANNED = PlannedKernel(VARIANT, (5, 3, 2), 128, 4096, (17, -1))
POINTERS = Pointers((2**40,), (2**41,))
CALLS = ("cuCtxGetCurrent", "cuModuleLoadData", "cuModuleGetFunction", "cuLaunchKernel")


def test_a_launch_gives_inputs_then_integers_then_outputs_on_the_stream() -> None:
    driver = RecordingDriver()
    DriverLauncher(driver).launch(KERNEL, PLANNED, POINTERS, 77)
    (launch,) = driver.launches
    assert launch == {
        "entry": "work",
        "ptx": PTX,
        "grid": [5, 3, 2],
        "block": [128, 1, 1],
        "shared_bytes": 4096,
        "stream": 77,
        "arguments": [2**40, 17, -1, 2**41],
        "extra": 0,
    }


def test_a_kernel_is_loaded_once_and_another_one_again() -> None:
    driver = RecordingDriver()
    launcher = DriverLauncher(driver)
    for sha256 in ("0", "0", "1"):
        launcher.launch(replace(KERNEL, sha256=sha256), PLANNED, POINTERS, 0)
    assert (driver.loads, len(driver.launches)) == (2, 3)


def test_a_kernel_is_loaded_again_for_another_context(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = RecordingDriver()
    launcher = DriverLauncher(driver)
    for context in (1, 2, 1):
        monkeypatch.setattr(driver, "cuCtxGetCurrent", lambda context=context: (0, context))
        launcher.launch(KERNEL, PLANNED, POINTERS, 0)
    assert driver.loads == 2


@pytest.mark.parametrize("name", CALLS)
def test_an_error_of_any_call_is_named(name: str) -> None:
    with pytest.raises(PluginError, match=f"{name} of the CUDA driver gave 1; wanted CUDA_SUCCESS"):
        DriverLauncher(RecordingDriver(fail=name)).launch(KERNEL, PLANNED, POINTERS, 0)


def test_without_cuda_python_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)
    with pytest.raises(MissingPackageError, match=r"cuda\.bindings\.driver.*pip install"):
        DriverLauncher().launch(KERNEL, PLANNED, POINTERS, 0)
