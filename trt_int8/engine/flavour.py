"""Which TensorRT flavours can build on this machine; imports neither of them."""

from __future__ import annotations

import contextlib
import ctypes
from typing import Any

from trt_int8 import optional
from trt_int8.errors import TargetError
from trt_int8.spec.build import Flavour

MODULE_OF = {Flavour.RTX: "tensorrt_rtx", Flavour.TENSORRT: "tensorrt"}


def choose_flavour(asked: str) -> Flavour:
    """Resolve `--flavour auto`: TensorRT where it and a GPU are present, else TensorRT-RTX."""
    if asked != "auto":
        return Flavour(asked)
    has_tensorrt = optional.is_installed(MODULE_OF[Flavour.TENSORRT])
    return Flavour.TENSORRT if has_tensorrt and local_sm() is not None else Flavour.RTX


def check_available(flavour: Flavour) -> None:
    """Refuse a flavour that cannot build here, before any work.

    Raises:
        MissingPackageError: its package is not installed.
        TargetError: it needs a GPU and there is none.
    """
    name = MODULE_OF[flavour]
    if not optional.is_installed(name):
        optional.load(name)
    if flavour is Flavour.TENSORRT and local_sm() is None:
        raise TargetError(
            "this machine has no NVIDIA GPU (or no driver)",
            wanted="one, to build with TensorRT",
            todo="pass --flavour rtx to build ahead of time without a GPU",
        )


def local_sm() -> int | None:
    """Compute capability times ten of the first GPU of this machine; None without one."""
    return LocalCards().first_sm()


class LocalCards:
    """The GPUs of this machine, asked of the driver's own library: no package is needed."""

    def __init__(self) -> None:
        """Load the library; without one there are no GPUs."""
        self._cuda: Any = None
        self._known: dict[int, int] = {}
        with contextlib.suppress(OSError):
            self._cuda = ctypes.CDLL("libcuda.so.1")

    def first_sm(self) -> int | None:
        """Compute capability times ten of the first GPU; None without one."""
        device = ctypes.c_int()
        if self._cuda is None or self._cuda.cuInit(0) != 0:
            return None
        if self._cuda.cuDeviceGet(ctypes.byref(device), 0) != 0:
            return None
        return self._sm_of(device)

    def current_sm(self) -> int | None:
        """That of the GPU whose CUDA context is current in this thread, else of the first one.

        A process may have sessions on several GPUs; whoever runs on one makes its context current.
        """
        device = ctypes.c_int()
        if self._cuda is None or self._cuda.cuCtxGetDevice(ctypes.byref(device)) != 0:
            return self.first_sm()
        return self._sm_of(device)

    def _sm_of(self, device: ctypes.c_int) -> int | None:
        if device.value not in self._known:
            numbers = []
            # CUDA driver API: attributes 75 and 76 are the capability's major and minor numbers.
            for attribute in (75, 76):
                number = ctypes.c_int()
                if self._cuda.cuDeviceGetAttribute(ctypes.byref(number), attribute, device) != 0:
                    return None
                numbers.append(number.value)
            self._known[device.value] = numbers[0] * 10 + numbers[1]
        return self._known[device.value]
