"""Calls a calibrator the way TensorRT does: through C++, with addresses in place of arrays.

For a child process with the genuine bindings. Host memory stands in for the GPU's.
"""

from __future__ import annotations

import ctypes
import importlib
from typing import Any, Final

from tests.support.binding_objects import NotedCalls
from tests.support.fake_tensorrt import FakeTensorRT
from trt_int8.engine.adapter import Adapter, ProgressSink
from trt_int8.spec.build import BuildRequest, Flavour

# Virtual methods of nvinfer1::IInt8Calibrator, in the order of NvInfer.h.
_BATCH_SIZE, _GET_BATCH, _READ_CACHE, _WRITE_CACHE, _ALGORITHM = range(5)
# From TensorRT 10 on, IVersionedInterface comes before them: two methods, two destructors.
_VERSIONED: Final = 4
_POINTER: Final = ctypes.c_void_p


class Caller:
    """One calibrator, seen from C++."""

    def __init__(self, trt: Any, calibrator: Any) -> None:
        """Set it as a genuine configuration's calibrator, and take the pointer C++ gets.

        Raises:
            TypeError: the bindings take no such calibrator.
        """
        self.config = NotedCalls(trt.IBuilderConfig)
        self.config.thing.int8_calibrator = calibrator
        self._this = self.config.answer = self.config.calls[0][1]
        self._first = 0 if str(trt.__version__).startswith("8.") else _VERSIONED

    def batch_size(self) -> int:
        """What getBatchSize gives."""
        return int(self._method(_BATCH_SIZE, ctypes.c_int)(self._this))

    def algorithm(self) -> int:
        """What getAlgorithm gives."""
        return int(self._method(_ALGORITHM, ctypes.c_int)(self._this))

    def get_batch(self, names: list[str]) -> list[int] | None:
        """Addresses that getBatch gives for the named inputs; None at the end."""
        bindings = (_POINTER * len(names))()
        texts = (ctypes.c_char_p * len(names))(*(name.encode() for name in names))
        method = self._method(_GET_BATCH, ctypes.c_bool, _POINTER, _POINTER, ctypes.c_int)
        return list(bindings) if method(self._this, bindings, texts, len(names)) else None

    def read_cache(self) -> bytes | None:
        """What readCalibrationCache gives."""
        size = ctypes.c_size_t(0)
        method = self._method(_READ_CACHE, _POINTER, _POINTER)
        address = method(self._this, ctypes.addressof(size))
        return ctypes.string_at(address, size.value) if address else None

    def write_cache(self, data: bytes) -> None:
        """Hand `data` to writeCalibrationCache."""
        self._method(_WRITE_CACHE, None, ctypes.c_char_p, ctypes.c_size_t)(
            self._this, data, len(data)
        )

    def _method(self, number: int, result: Any, *arguments: Any) -> Any:
        table = _POINTER.from_address(self._this or 0).value or 0
        size = ctypes.sizeof(_POINTER)
        address = _POINTER.from_address(table + size * (self._first + number)).value or 0
        return ctypes.CFUNCTYPE(result, _POINTER, *arguments)(address)


class HostCuda:
    """What Polygraphy needs of CUDA, in host memory."""

    def __init__(self) -> None:
        """Nothing is allocated yet."""
        self._buffers: dict[int, Any] = {}

    def malloc(self, nbytes: int) -> int:
        """Address of new memory."""
        buffer = ctypes.create_string_buffer(nbytes)
        self._buffers[ctypes.addressof(buffer)] = buffer
        return ctypes.addressof(buffer)

    def free(self, ptr: int) -> None:
        """Drop the memory at `ptr`."""
        self._buffers.pop(ptr, None)

    def memcpy(self, dst: int, src: int, nbytes: int, **_: object) -> None:
        """Copy."""
        ctypes.memmove(dst, src, nbytes)


def calibrate(caller: Caller, names: list[str], nbytes: int) -> dict[str, Any]:
    """What TensorRT reads from a calibrator; without a cache it writes one.

    Args:
        caller: the calibrator.
        names: inputs of the network.
        nbytes: how much it reads of each input.
    """
    cache = caller.read_cache()
    batches = []
    while cache is None and (addresses := caller.get_batch(names)) is not None:
        batches.append([ctypes.string_at(address, nbytes).hex() for address in addresses])
    if batches:
        caller.write_cache(b"written by TensorRT\n")
    return {
        "cache": None if cache is None else cache.decode(),
        "batches": batches,
        "batch_size": caller.batch_size(),
        "algorithm": caller.algorithm(),
    }


def build(trt: Any, request: dict[str, Any], input_type: str, nbytes: int) -> dict[str, Any]:
    """Build with the adapter and the genuine calibrators; TensorRT's part is `calibrate`.

    Args:
        trt: the genuine bindings.
        request: fields of a `BuildRequest` with `implicit`.
        input_type: TensorRT's name for the dtype of all inputs.
        nbytes: size of each input.
    """
    importlib.import_module("polygraphy.cuda.cuda").__dict__["G_CUDA"] = HostCuda()
    fake = FakeTensorRT()
    names = [shape["name"] for shape in request["profiles"][0]]
    fake.inputs = {name: getattr(trt, input_type) for name in names}
    for name in ("IInt8EntropyCalibrator2", "IInt8MinMaxCalibrator", "nptype"):
        setattr(fake, name, getattr(trt, name))
    fake.NetworkDefinitionCreationFlag = trt.NetworkDefinitionCreationFlag
    fake.BuilderFlag = trt.BuilderFlag
    seen: dict[str, Any] = {}

    def during(_: object) -> bool:
        config = fake.argument("build_serialized_network")
        seen.update(calibrate(Caller(trt, config.int8_calibrator), names, nbytes))
        return True

    fake.during_build = during
    module: Any = fake
    Adapter(Flavour.TENSORRT, module).build(BuildRequest.model_validate(request), ProgressSink())
    number = fake.argument("create_network")
    flags = trt.NetworkDefinitionCreationFlag.__members__.items()
    seen["network"] = sorted(name for name, flag in flags if number >> int(flag) & 1)
    seen["flags"] = sorted(call[1].name for call in fake.calls if call[0] == "set_flag")
    return seen
