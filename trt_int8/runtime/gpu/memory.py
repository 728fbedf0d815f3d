"""Memory of one tensor on the card with its pinned twin, and the CUDA context they live in."""

from __future__ import annotations

import contextlib
import ctypes
import math
import traceback
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_int8.engine.cuda import CudaDriver
from trt_int8.errors import SessionError

Shape = tuple[int, ...]


# After these "the process must be terminated and relaunched" (CUDA driver API, CUresult): every
# later call in this process gives the same error, in other sessions too.
_ENDS_THE_PROCESS = {
    "CUDA_ERROR_ILLEGAL_ADDRESS",
    "CUDA_ERROR_LAUNCH_TIMEOUT",
    "CUDA_ERROR_ASSERT",
    "CUDA_ERROR_HARDWARE_STACK_ERROR",
    "CUDA_ERROR_ILLEGAL_INSTRUCTION",
    "CUDA_ERROR_MISALIGNED_ADDRESS",
    "CUDA_ERROR_INVALID_ADDRESS_SPACE",
    "CUDA_ERROR_INVALID_PC",
    "CUDA_ERROR_LAUNCH_FAILED",
}


def call_failed(call: str, reason: str) -> SessionError:
    """The error of a driver call that failed while a session runs."""
    wanted = "CUDA_SUCCESS"
    todo = "open the session again; if it stays, check the card with nvidia-smi"
    if reason in _ENDS_THE_PROCESS:
        todo = "start this process anew: CUDA does nothing more in it, nor in a new session of it"
    elif "OUT_OF_MEMORY" in reason and call == "cuMemHostAlloc":
        wanted = "enough host memory that can be pinned"
        todo = "use fewer workers, or raise the limit of memory of this process or container"
    elif "OUT_OF_MEMORY" in reason:
        wanted = "enough free memory on the card"
        todo = "use fewer workers, or free memory on the card (see nvidia-smi)"
    return SessionError(f"{call} of the CUDA driver gave {reason}", wanted=wanted, todo=todo)


@contextlib.contextmanager
def current(cuda: CudaDriver, context: Any) -> Iterator[None]:
    """Make a CUDA context this thread's for a while; whatever was current comes back.

    An error that passes is stripped of the locals of the frames it came through, as they may hold
    TensorRT's objects: these must be freed while the context is current, not when the caller is
    done with the error.
    """
    cuda.call("cuCtxPushCurrent", context)
    try:
        yield
    except BaseException as error:
        _forget_locals(error)
        with contextlib.suppress(SessionError):  # the first error is the one to tell
            cuda.call("cuCtxPopCurrent")
        raise
    cuda.call("cuCtxPopCurrent")


def _forget_locals(error: BaseException) -> None:
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__


class Buffer:
    """One tensor's bytes on the card and in pinned host memory.

    Both addresses stay the same until `fit` is asked for more than there is.

    Attributes:
        device: address on the card; 0 before the first `fit`.
        host: address in page-locked host memory, from which the card copies by itself.
        size_bytes: of each of the two.
    """

    def __init__(self, cuda: CudaDriver) -> None:
        """Nothing is allocated yet."""
        self._cuda = cuda
        self.device = self.host = self.size_bytes = 0

    def fit(self, size_bytes: int) -> None:
        """Have room for so many bytes; what was inside is lost if that takes new memory.

        Raises:
            SessionError: there is not that much memory; then there is none at all.
        """
        if size_bytes <= self.size_bytes:
            return
        self.release()
        self.device = int(self._cuda.call("cuMemAlloc", size_bytes))
        self.host = int(self._cuda.call("cuMemHostAlloc", size_bytes, 0))
        self.size_bytes = size_bytes

    def view(self, dtype: np.dtype[Any], shape: Shape) -> NDArray[Any]:
        """The first bytes of the pinned memory as an array; valid until `fit` or `release`."""
        held = (ctypes.c_char * (math.prod(shape) * dtype.itemsize)).from_address(self.host)
        return np.ndarray(shape, dtype, memoryview(held))

    def release(self) -> None:
        """Free both; a second call does nothing."""
        device, host = self.device, self.host
        self.device = self.host = self.size_bytes = 0
        with contextlib.ExitStack() as both:
            if device:
                both.callback(self._cuda.call, "cuMemFree", device)
            if host:
                both.callback(self._cuda.call, "cuMemFreeHost", host)
