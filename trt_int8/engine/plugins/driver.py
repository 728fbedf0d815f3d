"""Launching PTX through CUDA's driver API, for plugins that run as Python (the JIT fallback)."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

from trt_int8.engine.cuda import CudaDriver
from trt_int8.errors import PluginError
from trt_int8.plugins.calls import PlannedKernel
from trt_int8.plugins.compile import CompiledKernel


@dataclass(frozen=True)
class Pointers:
    """Device addresses of a plugin's tensors, in order."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


class DriverLauncher:
    """Loads each kernel once per CUDA context, and launches it.

    The driver of cuda-python is imported at the first launch.
    """

    def __init__(self, driver: Any = None) -> None:
        """Take another driver module in tests."""
        self._cuda = CudaDriver(_failed, driver)
        self._functions: dict[tuple[int, str, str], Any] = {}

    def launch(
        self, kernel: CompiledKernel, planned: PlannedKernel, pointers: Pointers, stream: int
    ) -> None:
        """Enqueue one launch; it runs when the stream gets there.

        Args:
            kernel: what to run.
            planned: its grid, block, shared memory and integers, all of them numbers.
            pointers: device addresses.
            stream: CUDA stream handle.

        Raises:
            PluginError: a call of the driver failed; the message names call and error.
            MissingPackageError: cuda-python is not installed.
        """
        values = [
            *(ctypes.c_void_p(pointer) for pointer in pointers.inputs),
            *(ctypes.c_int32(value) for value in planned.integers),
            *(ctypes.c_void_p(pointer) for pointer in pointers.outputs),
        ]
        # cuLaunchKernel copies the values before it returns, so they may be freed then.
        addresses = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        function = self._function(kernel)
        shape = (*planned.grid, planned.block, 1, 1, planned.shared_bytes)
        self._cuda.call("cuLaunchKernel", function, *shape, stream, ctypes.addressof(addresses), 0)

    def _function(self, kernel: CompiledKernel) -> Any:
        context = int(self._cuda.call("cuCtxGetCurrent"))
        key = (context, kernel.sha256, kernel.entry)
        if key not in self._functions:
            module = self._cuda.call("cuModuleLoadData", kernel.ptx.encode() + b"\0")
            entry = kernel.entry.encode()
            self._functions[key] = self._cuda.call("cuModuleGetFunction", module, entry)
        return self._functions[key]


def _failed(call: str, reason: str) -> PluginError:
    return PluginError(
        f"{call} of the CUDA driver gave {reason}",
        wanted="CUDA_SUCCESS",
        todo="update the GPU driver, or build the engine with its kernels inside (AOT)",
    )
