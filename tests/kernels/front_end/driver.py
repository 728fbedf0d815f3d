"""A CUDA driver that launches nothing and tells what it was asked to launch."""

from __future__ import annotations

import ctypes
import re
from typing import Any

_PARAMETER = re.compile(r"\.param\s+(?:\.align\s+\d+\s+)?\.([usb])(32|64)")


class RecordingDriver:
    """The calls of cuda-python's `driver` module that a launch needs.

    Attributes:
        launches: what each cuLaunchKernel was given, arguments decoded by the PTX's parameters.
        loads: number of modules loaded.
        fail: name of the call that fails with error 1.
    """

    def __init__(self, fail: str = "") -> None:
        self.launches: list[dict[str, Any]] = []
        self.loads = 0
        self.fail = fail
        self._texts: list[str] = []

    def _code(self, name: str) -> int:
        return int(name == self.fail)

    def cuCtxGetCurrent(self) -> tuple[int, int]:  # noqa: N802 (CUDA's name)
        return self._code("cuCtxGetCurrent"), 7

    def cuModuleLoadData(self, image: bytes) -> tuple[int, int]:  # noqa: N802
        if not image.endswith(b"\0"):
            raise ValueError("the driver reads PTX up to a zero byte")
        self.loads += 1
        self._texts.append(image[:-1].decode())
        return self._code("cuModuleLoadData"), len(self._texts) - 1

    def cuModuleGetFunction(self, module: int, name: bytes) -> tuple[int, tuple[int, str]]:  # noqa: N802
        return self._code("cuModuleGetFunction"), (module, name.decode())

    def cuLaunchKernel(self, function: tuple[int, str], *rest: Any) -> tuple[int]:  # noqa: N802
        *shape, shared, stream, parameters, extra = rest
        module, entry = function
        self.launches.append(
            {
                "entry": entry,
                "ptx": self._texts[module],
                "grid": shape[:3],
                "block": shape[3:],
                "shared_bytes": shared,
                "stream": stream,
                "arguments": _decode(self._texts[module], entry, parameters),
                "extra": extra,
            }
        )
        return (self._code("cuLaunchKernel"),)


def parameter_types(ptx: str, entry: str) -> list[tuple[str, int]]:
    """Type letter and bits of each parameter of an entry."""
    found = re.search(rf"\.entry\s+{re.escape(entry)}\s*\((.*?)\)", ptx, re.DOTALL)
    if found is None:
        raise ValueError(f"no entry {entry!r}")
    return [(letter, int(bits)) for letter, bits in _PARAMETER.findall(found[1])]


def _decode(ptx: str, entry: str, parameters: int) -> list[int]:
    types = parameter_types(ptx, entry)
    addresses = (ctypes.c_void_p * len(types)).from_address(parameters)
    values = []
    for address, (_, bits) in zip(addresses, types, strict=True):
        number = ctypes.c_uint64 if bits == 64 else ctypes.c_int32
        values.append(int(number.from_address(int(address)).value))
    return values
