"""Arrays that are on the card already: torch, CuPy, pycuda and Numba show them in one way.

The CUDA Array Interface, versions 2 and 3 (Numba's documentation, "CUDA Array Interface").
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from trt_int8.errors import RequestError

Shape = tuple[int, ...]

# CUDA's handles of the legacy default stream, and of the calling thread's own default stream
# (CU_STREAM_LEGACY, CU_STREAM_PER_THREAD).
LEGACY_STREAM = 1
PER_THREAD_STREAM = 2


@dataclass(frozen=True)
class DeviceArray:
    """A C-contiguous array on the card.

    Attributes:
        pointer: its address.
        shape: sizes.
        dtype: element type.
        stream: CUDA stream whose work writes the array; None if it is written already.
    """

    pointer: int
    shape: Shape
    dtype: np.dtype[Any]
    stream: int | None

    @property
    def size_bytes(self) -> int:
        """All of its bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def device_array(name: str, value: Any) -> DeviceArray | None:
    """What `__cuda_array_interface__` of an input says; None for an array in host memory.

    Version 2 (torch) does not name the stream that writes the array. It is then taken to be the
    legacy default stream, which torch uses unless told otherwise; with a stream of your own,
    synchronize it first.

    Args:
        name: of the input, for messages.
        value: NumPy array, or anything with the interface; C-contiguous, of a type that NumPy has
            (the session has seen to that).

    Raises:
        RequestError: it has a mask, or its interface is of version 0 or 1.
    """
    shown = getattr(value, "__cuda_array_interface__", None)
    if shown is None:
        return None
    version = int(shown.get("version", 0))
    if version < 2 or shown.get("mask") is not None:
        came = "a mask" if shown.get("mask") is not None else f"version {version}"
        raise RequestError(
            f"input {name!r} has a __cuda_array_interface__ with {came}",
            wanted="version 2 or 3, without a mask",
            todo="send a plain copy of it",
        )
    shape = tuple(int(size) for size in shown["shape"])
    dtype = np.dtype(shown["typestr"])
    stream = shown.get("stream") if version >= 3 else LEGACY_STREAM
    return DeviceArray(int(shown["data"][0]), shape, dtype, None if stream is None else int(stream))
