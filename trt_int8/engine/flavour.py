"""Which TensorRT flavours can build on this machine; imports neither of them."""

from __future__ import annotations

import ctypes

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
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    # CUDA driver API: attributes 75 and 76 are the compute capability's major and minor numbers.
    calls = (
        lambda: cuda.cuInit(0),
        lambda: cuda.cuDeviceGet(ctypes.byref(device), 0),
        lambda: cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, device),
        lambda: cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, device),
    )
    if any(call() != 0 for call in calls):
        return None
    return major.value * 10 + minor.value
