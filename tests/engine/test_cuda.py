from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from trt_int8.engine.cuda import CudaDriver
from trt_int8.errors import DeviceError, MissingPackageError


def failed(call: str, reason: str) -> DeviceError:
    return DeviceError(f"{call}: {reason}", wanted="success", todo="try again")


def driver(**functions: Any) -> CudaDriver:
    return CudaDriver(failed, SimpleNamespace(**functions))


def test_a_call_gives_its_first_result() -> None:
    assert driver(cuAdd=lambda a, b: (0, a + b)).call("cuAdd", 2, 3) == 5


def test_a_call_without_results_gives_none() -> None:
    assert driver(cuDo=lambda: (0,)).call("cuDo") is None


def test_an_error_code_is_told_by_its_name() -> None:
    class Code(int):
        name = "CUDA_ERROR_OUT_OF_MEMORY"

    with pytest.raises(DeviceError, match="cuDo: CUDA_ERROR_OUT_OF_MEMORY"):
        driver(cuDo=lambda: (Code(2), None)).call("cuDo")


def test_a_driver_library_that_is_not_there_is_told() -> None:
    def load() -> None:
        raise RuntimeError("Failed to dlopen libcuda.so.1")

    with pytest.raises(DeviceError, match=r"cuDo: Failed to dlopen libcuda\.so\.1"):
        driver(cuDo=load).call("cuDo")


def test_a_misspelt_call_is_no_error_of_the_driver() -> None:
    with pytest.raises(AttributeError, match="cuDone"):
        driver(cuDo=lambda: (0,)).call("cuDone")


def test_without_cuda_python_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'trt-int8\[gpu\]'"):
        CudaDriver(failed).call("cuInit", 0)
