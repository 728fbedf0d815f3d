"""Which NVIDIA cards this machine has. Not run on a card: tested beside a stand-in for the driver.

Asked through cuda-python; without it, without a driver or without a card there simply are none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trt_int8.engine.cuda import CudaDriver
from trt_int8.errors import DeviceError, MissingPackageError

_NAME_BYTES = 256


@dataclass(frozen=True)
class Card:
    """One graphics card.

    Attributes:
        index: its number among those that CUDA shows (CUDA_VISIBLE_DEVICES counts).
        name: as the driver calls it, such as `Tesla T4`.
        sm: compute capability times ten, such as 75.
        memory_bytes: all of its memory.
        driver_version: newest CUDA that the driver runs, such as 12080 for 12.8.
    """

    index: int
    name: str
    sm: int
    memory_bytes: int
    driver_version: int


def cards(driver: Any = None) -> tuple[Card, ...]:
    """All cards, in the order of their index; none without a driver or without cuda-python.

    Args:
        driver: another driver module in tests.
    """
    cuda = CudaDriver(_failed, driver)
    try:
        cuda.call("cuInit", 0)
        version = int(cuda.call("cuDriverGetVersion"))
        count = int(cuda.call("cuDeviceGetCount"))
        return tuple(_card(cuda, index, version) for index in range(count))
    except (DeviceError, MissingPackageError):
        return ()


def find_card(index: int, driver: Any = None) -> Card:
    """The card of this index.

    Raises:
        DeviceError: there is none, or no driver; the message says which.
        MissingPackageError: cuda-python is not installed.
    """
    cuda = CudaDriver(_failed, driver)
    cuda.call("cuInit", 0)
    version = int(cuda.call("cuDriverGetVersion"))
    count = int(cuda.call("cuDeviceGetCount"))
    if not 0 <= index < count:
        raise DeviceError(
            f"this machine has no card cuda:{index}",
            wanted=f"cuda:0 to cuda:{count - 1}" if count else "a card that CUDA shows",
            todo="choose another device, or check nvidia-smi and CUDA_VISIBLE_DEVICES",
        )
    return _card(cuda, index, version)


def _card(cuda: CudaDriver, index: int, version: int) -> Card:
    kinds = cuda.module.CUdevice_attribute
    device = cuda.call("cuDeviceGet", index)
    major, minor = (
        int(cuda.call("cuDeviceGetAttribute", attribute, device))
        for attribute in (
            kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
            kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
        )
    )
    # cuda-python gives the whole array of characters, zeros behind the name.
    name = bytes(cuda.call("cuDeviceGetName", _NAME_BYTES, device)).split(b"\0")[0]
    return Card(
        index=index,
        name=name.decode(errors="replace").strip(),
        sm=major * 10 + minor,
        memory_bytes=int(cuda.call("cuDeviceTotalMem", device)),
        driver_version=version,
    )


def _failed(call: str, reason: str) -> DeviceError:
    return DeviceError(
        f"{call} of the CUDA driver gave {reason}",
        wanted="an NVIDIA card and its driver",
        todo="check nvidia-smi, or pass --device cpu",
    )
