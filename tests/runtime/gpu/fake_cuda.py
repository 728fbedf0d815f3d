"""A CUDA driver in Python, as strict as the real one.

Work on a stream runs when somebody synchronises that stream, not before, so a forgotten
synchronisation or event gives old bytes. Unknown names, wrong addresses, double frees, copies from
memory that is not pinned, and allocations inside a capture are errors.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from tests.runtime.gpu.fake_machine import (
    CaptureMode,
    CUresult,
    Machine,
    RefusedError,
    Stream,
)


def driver_call(function: Callable[..., Any]) -> Callable[..., tuple[Any, ...]]:
    """Answer as cuda-python does: a tuple of an error code and the results."""

    @functools.wraps(function)
    def call(self: FakeCuda, *arguments: Any) -> tuple[Any, ...]:
        with self.lock:
            if self.script.note(function.__name__, *arguments):
                code = CUresult.CUDA_ERROR_UNKNOWN
                self.on_failure(function.__name__, arguments)
                return (code, *([None] * self.results_of(function.__name__)))
            try:
                result = function(self, *arguments)
            except RefusedError as error:
                return (error.code, *([None] * self.results_of(function.__name__)))
        return (CUresult.CUDA_SUCCESS,) if result is None else (CUresult.CUDA_SUCCESS, result)

    return call


class FakeCuda(Machine):
    """The module `cuda.bindings.driver` of a machine with two cards."""

    CUresult = CUresult
    CUstreamCaptureMode = CaptureMode
    CUstream_flags = SimpleNamespace(CU_STREAM_DEFAULT=0, CU_STREAM_NON_BLOCKING=1)
    CUevent_flags = SimpleNamespace(CU_EVENT_DEFAULT=0, CU_EVENT_DISABLE_TIMING=2)
    CUpointer_attribute = SimpleNamespace(CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL=9)
    CUdevice_attribute = SimpleNamespace(
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR=75,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR=76,
    )

    # ---- devices and contexts ----

    @driver_call
    def cuInit(self, flags: int) -> None:  # noqa: N802
        assert flags == 0

    @driver_call
    def cuDriverGetVersion(self) -> int:  # noqa: N802
        return 12080

    @driver_call
    def cuDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    @driver_call
    def cuDeviceGet(self, ordinal: int) -> int:  # noqa: N802
        if ordinal not in (0, 1):
            raise RefusedError
        return ordinal

    @driver_call
    def cuDeviceGetName(self, length: int, device: int) -> bytes:  # noqa: N802
        return f"Tesla T{device + 4}".encode().ljust(length, b"\0")

    @driver_call
    def cuDeviceGetAttribute(self, attribute: int, device: int) -> int:  # noqa: N802
        return {75: 7 + device, 76: 5 - 5 * device}[int(attribute)]

    @driver_call
    def cuDeviceTotalMem(self, device: int) -> int:  # noqa: N802
        return self.memory_bytes + device

    @driver_call
    def cuDevicePrimaryCtxRetain(self, device: int) -> int:  # noqa: N802
        self.retained += 1
        return 7000 + device

    @driver_call
    def cuDevicePrimaryCtxRelease(self, device: int) -> None:  # noqa: N802
        assert device in (0, 1)
        if self.retained <= 0:
            self.script.faults.append("the context was released twice")
        self.retained -= 1

    @driver_call
    def cuCtxPushCurrent(self, context: int) -> None:  # noqa: N802
        assert context in (7000, 7001)
        self.stack.append(context)

    @driver_call
    def cuCtxPopCurrent(self) -> int:  # noqa: N802
        self.check_current("cuCtxPopCurrent")
        return self.stack.pop()

    # ---- memory ----

    @driver_call
    def cuMemAlloc(self, size_bytes: int) -> int:  # noqa: N802
        self._check_may_allocate("cuMemAlloc")
        if size_bytes <= 0:
            raise RefusedError
        if size_bytes + sum(map(len, self.device.values())) > self.memory_bytes:
            raise RefusedError(CUresult.CUDA_ERROR_OUT_OF_MEMORY)
        # Old bytes of another program: whoever reads before writing gets them.
        address = self._place(self.device, bytearray(b"\xa5" * size_bytes))
        self.ordinals[address] = self.stack[-1] - 7000
        return address

    @driver_call
    def cuMemFree(self, address: int) -> None:  # noqa: N802
        self._check_may_allocate("cuMemFree")
        self._take(self.device, address)

    @driver_call
    def cuMemHostAlloc(self, size_bytes: int, flags: int) -> int:  # noqa: N802
        self._check_may_allocate("cuMemHostAlloc")
        assert flags == 0
        block = ctypes.create_string_buffer(b"\xa5" * size_bytes, size_bytes)
        self.host[ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    @driver_call
    def cuMemFreeHost(self, address: int) -> None:  # noqa: N802
        self._check_may_allocate("cuMemFreeHost")
        self._take(self.host, address)

    @driver_call
    def cuPointerGetAttribute(self, attribute: int, pointer: int) -> int:  # noqa: N802
        assert attribute == 9
        if pointer not in self.ordinals:
            raise RefusedError
        return self.ordinals[pointer]

    @driver_call
    def cuMemcpyHtoDAsync(self, to: int, source: int, size: int, stream: int) -> None:  # noqa: N802
        self._check_pinned(source, size)

        def copy() -> None:
            self._check_pinned(source, size)
            self.bytes_at(to, size)[:] = ctypes.string_at(source, size)

        self.on_stream(stream, copy)

    @driver_call
    def cuMemcpyDtoHAsync(self, to: int, source: int, size: int, stream: int) -> None:  # noqa: N802
        self._check_pinned(to, size)

        def copy() -> None:
            self._check_pinned(to, size)
            ctypes.memmove(to, bytes(self.bytes_at(source, size)), size)

        self.on_stream(stream, copy)

    @driver_call
    def cuMemcpyDtoDAsync(self, to: int, source: int, size: int, stream: int) -> None:  # noqa: N802
        def copy() -> None:
            self.bytes_at(to, size)[:] = bytes(self.bytes_at(source, size))

        self.on_stream(stream, copy)

    # ---- streams, events, graphs ----

    @driver_call
    def cuStreamCreate(self, flags: int) -> int:  # noqa: N802
        self.check_current("cuStreamCreate")
        return self._new(self.streams, Stream(blocking=flags == 0))

    @driver_call
    def cuStreamDestroy(self, stream: int) -> None:  # noqa: N802
        self.check_current("cuStreamDestroy")
        self._take(self.streams, stream)

    @driver_call
    def cuStreamSynchronize(self, stream: int) -> None:  # noqa: N802
        self.check_current("cuStreamSynchronize")
        found = self._stream(stream)
        if found.captured is not None:
            found.broken = True
            raise RefusedError
        found.run()

    @driver_call
    def cuEventCreate(self, flags: int) -> int:  # noqa: N802
        assert flags == 2
        self.check_current("cuEventCreate")
        return self._new(self.events, None)

    @driver_call
    def cuEventDestroy(self, event: int) -> None:  # noqa: N802
        self._take(self.events, event)

    @driver_call
    def cuEventRecord(self, event: int, stream: int) -> None:  # noqa: N802
        found = self._stream(stream)
        assert event in self.events
        self.events[event] = (found, found.done + len(found.ops))

    @driver_call
    def cuStreamWaitEvent(self, stream: int, event: int, flags: int) -> None:  # noqa: N802
        assert flags == 0
        recorded = self.events[event]
        if recorded is not None:
            other, position = recorded
            self.on_stream(stream, lambda: other.run(position))

    @driver_call
    def cuStreamBeginCapture(self, stream: int, mode: CaptureMode) -> None:  # noqa: N802
        assert mode == CaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        found = self._stream(stream)
        if found.blocking or found.ops or found.captured is not None:
            self.script.faults.append("a capture on a stream that is busy or blocking")
            raise RefusedError
        found.captured, found.capturing_thread = [], threading.get_ident()
        found.broken = False

    @driver_call
    def cuStreamEndCapture(self, stream: int) -> int:  # noqa: N802
        found = self._stream(stream)
        ops, found.captured = found.captured, None
        if ops is None or found.broken or found.capturing_thread != threading.get_ident():
            raise RefusedError
        return self._new(self.graphs, ops)

    @driver_call
    def cuGraphInstantiate(self, graph: int, flags: int) -> int:  # noqa: N802
        assert flags == 0
        return self._new(self.executables, list(self.graphs[graph]))

    @driver_call
    def cuGraphDestroy(self, graph: int) -> None:  # noqa: N802
        self._take(self.graphs, graph)

    @driver_call
    def cuGraphLaunch(self, executable: int, stream: int) -> None:  # noqa: N802
        for op in self.executables[executable]:
            self.on_stream(stream, op)

    @driver_call
    def cuGraphExecDestroy(self, executable: int) -> None:  # noqa: N802
        self._take(self.executables, executable)
