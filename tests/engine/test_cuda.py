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


def test_a_cuda_python_that_does_not_load_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_name: str) -> None:
        raise ImportError("libcuda_bindings.so: undefined symbol: x")

    monkeypatch.setattr("trt_int8.optional.load", broken)
    with pytest.raises(DeviceError, match=r"import cuda\.bindings\.driver: .*undefined symbol"):
        CudaDriver(failed).call("cuInit", 0)


@pytest.mark.parametrize("error", [KeyError(5000), ValueError("5000 is not a valid CUresult")])
def test_an_error_code_newer_than_cuda_python_is_told(error: Exception) -> None:
    def call() -> None:
        raise error

    with pytest.raises(DeviceError, match=r"cuDo: an error that .* no name for \(5000"):
        driver(cuDo=call).call("cuDo")


def test_an_unknown_code_is_what_the_installed_cuda_python_calls_so() -> None:
    module = pytest.importorskip("cuda.bindings.driver")
    with pytest.raises(ValueError, match="CUresult"):
        module.CUresult(5000)


def test_a_wrong_argument_is_no_error_of_the_driver() -> None:
    def call() -> None:
        raise ValueError("wrong argument")

    with pytest.raises(ValueError, match="wrong argument"):
        driver(cuDo=call).call("cuDo")
