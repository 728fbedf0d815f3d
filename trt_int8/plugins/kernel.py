"""What one compiled kernel is, and how it is launched: shared by the plugins and the tests.

A kernel is an `extern "C"` entry of a file in `cuda/`. Its parameters come in the order TensorRT's
quick plugins give them: input pointers, 32-bit integer arguments, output pointers (TensorRT,
`tensorrt.plugin`, "Providing an Ahead-of-Time implementation"). A float argument crosses as the
integer with the same bits.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from trt_int8.errors import PluginError

# Architectures that variants are compiled for: m8n8k16 from Turing on, m16n8k32 and cp.async from
# Ampere on. A later card runs the newest variant that it is not older than.
KERNEL_SMS = (75, 80)
SHARED_MEMORY_LIMIT_BYTES = 48 * 1024


@dataclass(frozen=True)
class KernelVariant:
    """One compilation of one kernel.

    Attributes:
        source: file in `cuda/`, such as `int8_attention.cu`.
        entry: name of its `extern "C"` function.
        sm: compute capability times ten, one of `KERNEL_SMS` (a later one only to inspect SASS).
        defines: macros given to the compiler, sorted by name; integers only.

    Raises:
        PluginError: `sm` is older than every kernel.
    """

    source: str
    entry: str
    sm: int
    defines: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        """Refuse an architecture that no kernel is written for."""
        if self.sm < min(KERNEL_SMS):
            raise PluginError(
                f"{self.entry} was asked for sm_{self.sm}",
                wanted=f"sm_{min(KERNEL_SMS)} or later",
                todo="build for a supported GPU, or with --plugins off",
            )


@dataclass(frozen=True)
class KernelLaunch:
    """A variant with its launch shape.

    Attributes:
        grid: blocks along x, y, z.
        block: threads of a block, along x only.
        shared_bytes: dynamic shared memory of a block.
    """

    variant: KernelVariant
    grid: tuple[int, int, int]
    block: int
    shared_bytes: int = 0


@dataclass(frozen=True)
class Input:
    """A C-contiguous array that the kernel only reads; float16 travels as it is."""

    array: NDArray[Any]


@dataclass(frozen=True)
class Output:
    """A C-contiguous array that the kernel writes, every byte exactly once."""

    array: NDArray[Any]


Argument = Input | Output | int


def sorted_defines(values: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    """Macros in the order that `KernelVariant` wants."""
    return tuple(sorted((name, int(value)) for name, value in values.items()))


def float_bits(value: float) -> int:
    """The signed 32-bit integer with the bits of `value` as float32."""
    bits: int = struct.unpack("<i", struct.pack("<f", value))[0]
    return bits


def kernel_folder() -> Path:
    """Where the CUDA sources are; they ship inside the wheel."""
    return Path(__file__).parent / "cuda"
