"""Reads one array of a request: NumPy, torch or a list, of a type the model takes, in C order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from trt_int8.errors import RequestError, first_line
from trt_int8.runtime.tensors import Shape, TensorInfo

_TODO = {
    "float64": "convert it, which rounds: .astype(np.float32), or .float() of a torch tensor",
    "bfloat16": "convert it: .float() of a torch tensor, .astype(np.float32) of an array",
}


@dataclass(frozen=True)
class Given:
    """One input of a request and what messages call them.

    Attributes:
        info: what the model takes.
        request: as in messages, `the request` or `request 17`.
    """

    info: TensorInfo
    request: str

    def __str__(self) -> str:
        """The beginning of a message."""
        return f"input {self.info.name!r} of {self.request}"

    def refuse(self, came: str, todo: str) -> RequestError:
        """An error about this input."""
        return RequestError(f"{self} {came}", wanted=str(self.info), todo=todo)


def read_array(value: object, given: Given, *, allow_device: bool) -> Any:
    """The value as the backend takes it.

    Args:
        value: a NumPy array, torch tensor on the CPU, or (nested) list of integers; or memory of a
            GPU with `__cuda_array_interface__`, which is handed on untouched.
        given: the input it is for.
        allow_device: whether memory of a GPU is taken.

    Returns:
        A C-contiguous, aligned array of the model's type, without a copy where that is possible;
        or the object with `__cuda_array_interface__`. Integers, and bool, are widened (int32 to
        int64), as float16 is to float32; nothing else is converted.

    Raises:
        RequestError: it is of another type, or no array at all.
    """
    if getattr(value, "requires_grad", False) and hasattr(value, "detach"):
        value = value.detach()
    interface = _device_interface(value, given)
    if interface is not None:
        _check_device(value, interface, given, allow_device=allow_device)
        return value
    array = _as_numpy(value, given)
    wanted = np.dtype(given.info.dtype)
    if not (_widens(array.dtype, wanted) or _is_list_that_fits(value, array, wanted)):
        name = array.dtype.name
        todo = _TODO.get(name) if wanted.kind == "f" else None
        raise given.refuse(
            f"is {name}", todo or f"convert it, if its values allow: .astype(np.{wanted.name})"
        )
    # `require` would make an array of one axis from a single number.
    return np.require(array, wanted, ["C", "A", "E"]) if array.ndim else array.astype(wanted)


def shape_of(array: Any) -> Shape:
    """Shape of an array, or of memory on a GPU."""
    if isinstance(array, np.ndarray):
        return tuple(map(int, array.shape))
    return tuple(array.__cuda_array_interface__["shape"])


def _device_interface(value: object, given: Given) -> dict[str, Any] | None:
    try:
        return cast("dict[str, Any] | None", getattr(value, "__cuda_array_interface__", None))
    except (KeyError, RuntimeError, TypeError) as error:
        raise given.refuse(
            f"is memory of a GPU that cannot be described: {first_line(error)}",
            f"convert it there to {given.info.dtype}",
        ) from error


def _check_device(
    value: object, interface: dict[str, Any], given: Given, *, allow_device: bool
) -> None:
    if not allow_device:
        raise given.refuse(
            f"is a {type(value).__name__} in the memory of a GPU, which is not read here",
            "copy it to the host: .cpu().numpy() of a torch tensor, .get() of a CuPy or pycuda "
            "array; or open the session on its GPU and call run",
        )
    dtype = np.dtype(interface["typestr"])
    if dtype != np.dtype(given.info.dtype):
        raise given.refuse(
            f"is {dtype.name} in the memory of a GPU",
            f"convert it there to {given.info.dtype}, for example with .to() or .astype()",
        )
    if not _is_contiguous(interface, dtype.itemsize):
        raise given.refuse(
            "is memory of a GPU that is not in C order",
            "call .contiguous() of the torch tensor, or cupy.ascontiguousarray()",
        )


def _is_contiguous(interface: dict[str, Any], itemsize: int) -> bool:
    strides = interface.get("strides")
    if strides is None or 0 in interface["shape"]:
        return True
    step = itemsize
    for size, stride in zip(reversed(interface["shape"]), reversed(strides), strict=True):
        if size > 1 and stride != step:
            return False
        step *= size
    return True


def _as_numpy(value: object, given: Given) -> NDArray[Any]:
    if "bfloat16" in str(getattr(value, "dtype", "")):
        raise given.refuse("is bfloat16, which NumPy does not have", _TODO["bfloat16"])
    if isinstance(value, np.ma.MaskedArray):
        raise given.refuse("is a masked array", "fill it: .filled(value)")
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise given.refuse(
            f"is a {type(value).__name__} that is no array: {first_line(error)}",
            "send a NumPy array, a torch tensor or lists of equal length",
        ) from error
    if array.dtype.kind not in "biuf":
        raise given.refuse(
            f"holds {array.dtype.name} values" if array.ndim else f"is a {type(value).__name__}",
            "send a NumPy array or a torch tensor of numbers",
        )
    return array


def _widens(source: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    """Whether every value has the same meaning and value in the other type."""
    kinds = {"b": "biu", "i": "iu", "u": "iu", "f": "f"}[source.kind]
    return wanted.kind in kinds and np.can_cast(source, wanted, "safe")


def _is_list_that_fits(value: object, array: NDArray[Any], wanted: np.dtype[Any]) -> bool:
    """Python's integers have no width, so those of a list may be of any that holds them."""
    if not isinstance(value, list | tuple | int) or array.dtype.kind not in "iu" or not array.size:
        return False
    if wanted.kind not in "iu":
        return False
    limits = np.iinfo(wanted)
    return bool(limits.min <= array.min() and array.max() <= limits.max)
