"""The JIT launcher through NVIDIA's own cuda-python, over a driver that only tells."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.tensorrt_bindings import cuda_python_folder

REPO = Path(__file__).parents[2]
STUB = REPO / "tests" / "support" / "libcuda_stub.c"
_LAUNCH = """
from trt_int8.engine.plugins.driver import DriverLauncher, Pointers
from trt_int8.errors import PluginError
from trt_int8.plugins.calls import PlannedKernel
from trt_int8.plugins.compile import CompiledKernel
from trt_int8.plugins.kernel import KernelVariant

variant = KernelVariant("any.cu", "work", 75)
kernel = CompiledKernel(variant, "the text", "0")
planned = PlannedKernel(variant, (5, 3, 2), 128, 4096, (17, -1))
launcher = DriverLauncher()
for _ in range(2):
    try:
        launcher.launch(kernel, planned, Pointers((0xAABBCCDDEE,), (0x1122334455,)), 77)
    except PluginError as error:
        print(error, flush=True)
"""


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the stand-in for libcuda.so.1."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler (gcc or cc) to build the stand-in for the CUDA driver")
    folder = tmp_path_factory.mktemp("libcuda")
    flags = ["-std=gnu99", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    name = "libcuda.so.1"
    command = [compiler, *flags, f"-Wl,-soname,{name}", str(STUB), "-o", str(folder / name)]
    subprocess.run(command, check=True)
    return folder


def output(libraries: Path | None) -> list[str]:
    """What a process prints that launches twice, with `libraries` in the library path."""
    folder = cuda_python_folder()
    if folder is None:
        pytest.skip("cuda-python is not installed for the tests: run install_bindings.py")
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{REPO}"}
    environment["LD_LIBRARY_PATH"] = str(libraries or "")
    done = subprocess.run(
        [sys.executable, "-c", _LAUNCH], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_cuda_python_hands_a_launch_to_the_driver_as_it_was_given(stub: Path) -> None:
    launch = [
        "launch 13 grid 5 3 2 block 128 1 1 shared 4096 stream 77 extra 0",
        "arguments aabbccddee 17 -1 1122334455",
    ]
    *done, error = output(stub)
    assert done == ["load the text", "function 11 work", *launch, *launch]
    assert error.startswith(
        "cuLaunchKernel of the CUDA driver gave CUDA_ERROR_INVALID_VALUE; wanted CUDA_SUCCESS;"
    )


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there is a CUDA driver")
def test_without_a_driver_the_error_says_so() -> None:
    first, second = output(None)
    assert first == second
    assert first.startswith("cuCtxGetCurrent of the CUDA driver gave Failed to dlopen libcuda.so.1")
