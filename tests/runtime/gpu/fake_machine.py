"""What a machine with two cards holds, for `FakeCuda`: memory is bytes, streams really wait."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from numpy.typing import NDArray

Op = Callable[[], None]
LEGACY, PER_THREAD = 1, 2
CARD_MEMORY = 1 << 34


class CUresult(IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_INVALID_CONTEXT = 201
    CUDA_ERROR_INVALID_HANDLE = 400
    CUDA_ERROR_UNKNOWN = 999


class CaptureMode(IntEnum):
    CU_STREAM_CAPTURE_MODE_GLOBAL = 0
    CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1


class RefusedError(Exception):
    """A call that the driver answers with an error code."""

    def __init__(self, code: CUresult = CUresult.CUDA_ERROR_INVALID_VALUE) -> None:
        super().__init__(code.name)
        self.code = code


@dataclass
class Stream:
    blocking: bool
    ops: list[Op] = field(default_factory=list)
    done: int = 0
    captured: list[Op] | None = None
    capturing_thread: int = 0
    broken: bool = False

    def run(self, until: int | None = None) -> None:
        """Do what is on the stream, all of it or the first `until` pieces ever put there."""
        while self.ops and (until is None or self.done < until):
            self.done += 1
            self.ops.pop(0)()


class Script:
    """Counts every call of driver and TensorRT, and makes one of them fail."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.fail_at: int | None = None
        self.fail_name: str | None = None
        self.faults: list[str] = []
        self._lock = threading.RLock()

    def note(self, name: str, *arguments: Any) -> bool:
        """Record a call; True if it is to fail."""
        with self._lock:
            self.calls.append((name, *arguments))
            return len(self.calls) - 1 == self.fail_at or name == self.fail_name

    def names(self, start: int = 0) -> list[str]:
        return [call[0] for call in self.calls[start:]]

    def count(self, name: str) -> int:
        return self.names().count(name)


class Machine:
    """The state behind the driver.

    Attributes:
        script: what was called.
        device: memory on the cards, by address.
        host: pinned memory, by address.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.script = Script()
        self.device: dict[int, bytearray] = {}
        self.ordinals: dict[int, int] = {}
        self.host: dict[int, Any] = {}
        self.streams: dict[int, Stream] = {LEGACY: Stream(blocking=True)}
        self._of_threads: dict[int, Stream] = {}
        self.events: dict[int, tuple[Stream, int] | None] = {}
        self.graphs: dict[int, list[Op]] = {}
        self.executables: dict[int, list[Op]] = {}
        self.retained = 0
        self.memory_bytes = CARD_MEMORY
        self._numbers = itertools.count(100)
        self._addresses = itertools.count(1)
        self._stacks = threading.local()

    # ---- what tests look at ----

    def alive(self) -> dict[str, int]:
        """How much of each kind is allocated now."""
        kinds = {
            "device": self.device,
            "host": self.host,
            "streams": set(self.streams) - {LEGACY},
            "events": self.events,
            "graphs": self.graphs,
            "executables": self.executables,
        }
        return {name: len(things) for name, things in kinds.items() if things}

    @property
    def stack(self) -> list[int]:
        """Contexts of this thread, the current one last."""
        if not hasattr(self._stacks, "contexts"):
            self._stacks.contexts = []
        found: list[int] = self._stacks.contexts
        return found

    def put(self, array: NDArray[Any], ordinal: int = 0) -> int:
        """Memory on a card that some other library made."""
        address = self._place(self.device, bytearray(array.tobytes()))
        self.ordinals[address] = ordinal
        return address

    def bytes_at(self, address: int, size_bytes: int) -> memoryview:
        """Bytes on the card, which must lie inside one allocation."""
        for start, data in self.device.items():
            if start <= address and address + size_bytes <= start + len(data):
                return memoryview(data)[address - start : address - start + size_bytes]
        self.script.faults.append(f"{size_bytes} bytes at {address:#x} are not allocated")
        raise RefusedError(CUresult.CUDA_ERROR_INVALID_VALUE)

    def on_stream(self, handle: int, op: Op) -> None:
        """Put work on a stream, or into the graph that it captures."""
        stream = self._stream(handle)
        (stream.ops if stream.captured is None else stream.captured).append(op)

    def check_current(self, what: str) -> None:
        """The card's context must be current in this thread."""
        if not self.stack:
            self.script.faults.append(f"{what} without a current context")
            raise RefusedError(CUresult.CUDA_ERROR_INVALID_CONTEXT)

    def results_of(self, name: str) -> int:
        """How many results a failed call of cuda-python gives beside the error code."""
        return 0 if "Free" in name or "Destroy" in name or "Async" in name else 1

    def on_failure(self, name: str, arguments: tuple[Any, ...]) -> None:
        """What a failed call does all the same: frees do free, and a capture ends."""
        if name == "cuStreamEndCapture":
            self.streams[int(arguments[0])].captured = None
        places: dict[str, Any] = {
            "cuMemFree": self.device,
            "cuMemFreeHost": self.host,
            "cuStreamDestroy": self.streams,
            "cuEventDestroy": self.events,
            "cuGraphDestroy": self.graphs,
            "cuGraphExecDestroy": self.executables,
        }
        if name in places:
            self._take(places[name], arguments[0])
        if name == "cuDevicePrimaryCtxRelease":
            self.retained -= 1
        if name == "cuCtxPopCurrent":
            self.stack.pop()

    # ---- inside ----

    def _stream(self, handle: int) -> Stream:
        if handle == PER_THREAD:
            return self._of_threads.setdefault(threading.get_ident(), Stream(blocking=False))
        if handle not in self.streams:
            raise RefusedError(CUresult.CUDA_ERROR_INVALID_HANDLE)
        return self.streams[handle]

    def _new(self, things: dict[int, Any], thing: Any) -> int:
        number = next(self._numbers)
        things[number] = thing
        return number

    def _place(self, things: dict[int, bytearray], data: bytearray) -> int:
        # Never the same address twice, and a gap after each: no stale address is right by luck.
        address = next(self._addresses) << 36
        things[address] = data
        return address

    def _take(self, things: dict[int, Any], key: int) -> None:
        if key not in things:
            self.script.faults.append(f"{key:#x} was freed twice, or never made")
            raise RefusedError
        del things[key]

    def _check_may_allocate(self, name: str) -> None:
        self.check_current(name)
        thread = threading.get_ident()
        for stream in self.streams.values():
            if stream.captured is not None and stream.capturing_thread == thread:
                self.script.faults.append(f"{name} inside a capture")
                stream.broken = True
                raise RefusedError

    def _check_pinned(self, address: int, size_bytes: int) -> None:
        for start, block in self.host.items():
            if start <= address and address + size_bytes <= start + len(block):
                return
        self.script.faults.append(f"{size_bytes} bytes at {address:#x} are not pinned memory")
        raise RefusedError
