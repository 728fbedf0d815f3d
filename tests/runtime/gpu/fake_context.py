"""Execution contexts of the stand-in for TensorRT: they compute on the memory of `FakeCuda`.

A graph that is launched after its context got other shapes, or was freed, writes rubbish, as NVIDIA
warns.
"""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.runtime.gpu.fake_machine import RefusedError
from tests.runtime.gpu.fake_trt_types import PROFILES, RUBBISH, SCRATCH_BYTES


class Context:
    """TensorRT 8.6's; it keeps its engine alive, as the real one does."""

    __slots__ = (
        "__weakref__",
        "_addresses",
        "_engine",
        "_fails",
        "_profile",
        "_shapes",
        "_version",
        "device_memory",
    )

    def __init__(self, engine: Any) -> None:
        self._engine, self._profile, self._version = engine, -1, 0
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self.device_memory, self._fails = 0, False

    @property
    def active_optimization_profile(self) -> int:
        return self._profile

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        if self._engine.trt.script.note("set_optimization_profile_async", profile_index):
            return False
        assert 0 <= profile_index < len(PROFILES)
        context, script = weakref.ref(self), self._engine.trt.script

        def switch() -> None:
            if context() is None:
                script.faults.append("a context was freed before its profile was set")

        self._engine.trt.cuda.on_stream(stream_handle, switch)
        self._profile, self._version, self._shapes = profile_index, self._version + 1, {}
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if self._engine.trt.script.note("set_input_shape", name, shape):
            return False
        smallest, largest = PROFILES[self._profile]
        self._shapes[name] = shape
        self._version += 1
        return all(a <= b <= c for a, b, c in zip(smallest, shape, largest, strict=True))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        trt = self._engine.trt
        if name in self._shapes:
            return self._shapes[name]
        batch, tokens = self._shapes[trt.input_names[0]]
        if name == trt.output_names[0]:
            return (batch, tokens * trt.growth)
        return (-1,) if trt.data_dependent else (batch,)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if self._engine.trt.script.note("set_tensor_address", name, memory):
            return False
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        trt = self._engine.trt
        trt.cuda.check_current("execute_async_v3")
        capturing = trt.cuda.streams[stream_handle].captured is not None
        if trt.script.note("execute_async_v3", capturing):
            return False
        if capturing and not trt.capturable:
            trt.cuda.streams[stream_handle].broken = True
            self._fails = trt.remembers
            return False
        if self._fails:
            self._fails = False
            return False
        context, version = weakref.ref(self), self._version
        shapes, addresses = dict(self._shapes), dict(self._addresses)

        def compute() -> None:
            alive = context()
            fresh = alive is not None and alive._version == version
            _compute(trt, shapes, addresses, self_memory, rubbish=not fresh)

        self_memory = self.device_memory
        trt.cuda.on_stream(stream_handle, compute)
        return True

    def __del__(self) -> None:
        self._engine.trt.gone("IExecutionContext")


class Context10(Context):
    """From TensorRT 10 on, and TensorRT-RTX's."""

    __slots__ = ()

    def set_device_memory(self, memory: int, size: int) -> None:
        assert size >= SCRATCH_BYTES
        self.device_memory = memory


def _compute(
    trt: Any,
    shapes: dict[str, tuple[int, ...]],
    addresses: dict[str, int],
    scratch: int,
    *,
    rubbish: bool,
) -> None:
    try:
        trt.cuda.bytes_at(scratch, SCRATCH_BYTES)[:] = bytes([RUBBISH]) * SCRATCH_BYTES
        given = {
            name: np.frombuffer(
                trt.cuda.bytes_at(addresses[name], _size(trt, name, shapes[name])),
                trt.tensors[name][1].value,
            ).reshape(shapes[name])
            for name in trt.input_names
        }
        for name, value in answers(trt, *given.values()).items():
            data = bytes([RUBBISH]) * value.nbytes if rubbish else value.tobytes()
            trt.cuda.bytes_at(addresses[name], value.nbytes)[:] = data
    except RefusedError:
        pass  # the fault is noted


def answers(trt: Any, ids: NDArray[Any], mask: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """The model."""
    scores, total = trt.output_names
    made = np.repeat(2 * ids + mask, trt.growth, axis=1).astype(np.float32)
    return {scores: made, total: (ids * mask).sum(axis=1).astype(trt.token_kind.value)}


def _size(trt: Any, name: str, shape: tuple[int, ...]) -> int:
    return int(np.prod(shape)) * int(np.dtype(trt.tensors[name][1].value).itemsize)
