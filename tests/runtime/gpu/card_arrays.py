"""Arrays that other libraries have on the cards of `FakeCuda`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.runtime.gpu.fake_cuda import FakeCuda


@dataclass(frozen=True)
class OnCard:
    """An array on the card, as torch (version 2) or CuPy (version 3) shows it."""

    interface: dict[str, Any]

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self.interface


def on_card(
    cuda: FakeCuda, array: NDArray[Any], *, version: int = 2, ordinal: int = 0, **changes: Any
) -> OnCard:
    """A copy of an array on a card, complete at once."""
    interface = {
        "shape": array.shape,
        "typestr": array.dtype.str,
        "data": (cuda.put(array, ordinal), False),
        "strides": None,
        "version": version,
    }
    return OnCard(interface | changes)


def on_card_later(cuda: FakeCuda, array: NDArray[Any], stream: int, *, version: int) -> OnCard:
    """An array on the card that a stream has yet to write; version 3 says which stream."""
    named = {"stream": stream} if version >= 3 else {}
    made = on_card(cuda, np.zeros_like(array), version=version, **named)
    address = made.interface["data"][0]

    def write() -> None:
        cuda.bytes_at(address, array.nbytes)[:] = array.tobytes()

    cuda.on_stream(stream, write)
    return made
