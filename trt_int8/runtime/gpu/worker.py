"""One worker: a stream, buffers for every input and output, and plans for the shapes that came.

Not run on a card: tested beside stand-ins for driver and TensorRT that really compute.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trt_int8.engine.cuda import CudaDriver
from trt_int8.errors import RequestError, SessionError
from trt_int8.runtime.backend import Feeds, Outputs
from trt_int8.runtime.gpu.arrays import DeviceArray, device_array
from trt_int8.runtime.gpu.engine import EngineTensor, LoadedEngine
from trt_int8.runtime.gpu.memory import Buffer
from trt_int8.runtime.gpu.plan import Copy, GraphPolicy, Plan, PlanCache
from trt_int8.runtime.tensors import Signature

Shape = tuple[int, ...]
Key = tuple[int, tuple[Shape, ...], tuple[bool, ...]]


@dataclass(frozen=True)
class Shared:
    """What the workers of an engine have in common.

    Attributes:
        cuda: the driver.
        engine: deserialised.
        signature: of the model.
        policy: whether graphs are captured.
        device: ordinal of the card.
        graphs: how many shapes each worker keeps ready.
    """

    cuda: CudaDriver
    engine: LoadedEngine
    signature: Signature
    policy: GraphPolicy
    device: int
    graphs: int


class GpuWorker:
    """Runs one request at a time; every call needs the card's CUDA context to be current."""

    def __init__(self, shared: Shared) -> None:
        """Take a stream and scratch memory; `allocate` comes next.

        Raises:
            SessionError: a call of the driver failed; nothing is kept.
        """
        self._shared, self._cuda = shared, shared.cuda
        self._plans = PlanCache(shared.graphs)
        self._buffers = {one.name: Buffer(shared.cuda) for one in shared.engine.tensors}
        self._inputs = tuple(one for one in shared.engine.tensors if one.is_input)
        self._dtypes = {one.name: np.dtype(one.dtype) for one in shared.signature.outputs}
        self._stack = contextlib.ExitStack()
        kinds = self._cuda.module
        try:
            # A blocking stream would wait for the legacy default stream, which a capture forbids.
            self._stream = self._own(
                "cuStreamCreate", "cuStreamDestroy", kinds.CUstream_flags.CU_STREAM_NON_BLOCKING
            )
            self._event = self._own(
                "cuEventCreate", "cuEventDestroy", kinds.CUevent_flags.CU_EVENT_DISABLE_TIMING
            )
            # All contexts of this worker use it, one after the other.
            self._scratch = self._own("cuMemAlloc", "cuMemFree", shared.engine.scratch_bytes)
        except BaseException:
            with contextlib.suppress(SessionError):
                self._stack.close()
            raise
        for buffer in self._buffers.values():
            self._stack.callback(buffer.release)
        self._stack.callback(self._plans.clear)

    def _own(self, make: str, free: str, argument: Any) -> int:
        made = int(self._cuda.call(make, int(argument)))
        self._stack.callback(self._cuda.call, free, made)
        return made

    def largest_bytes(self, fixed: Sequence[Mapping[str, Shape]] = ()) -> dict[str, int]:
        """Bytes of each input and output at the greatest shapes.

        Args:
            fixed: shapes of the inputs, of all requests that will come; empty for whatever the
                profiles take.

        Raises:
            RequestError: no profile takes one of them.
            SessionError: a call failed.
        """
        engine, largest = self._shared.engine, dict.fromkeys(self._buffers, 0)
        for profile, wanted in self._greatest(fixed).items():
            context = engine.context(self._scratch)
            try:
                for given in wanted:
                    shapes = dict(given)
                    shapes |= engine.set_shapes(context, profile, shapes, self._stream)
                    for one in engine.tensors:
                        size_bytes = _bytes_of(one, shapes[one.name])
                        largest[one.name] = max(largest[one.name], size_bytes)
            finally:
                self._synchronize()  # the context goes, so nothing of it may be on its way
        return largest

    def _greatest(
        self, fixed: Sequence[Mapping[str, Shape]]
    ) -> dict[int, list[Mapping[str, Shape]]]:
        """Shapes that may be the greatest, by profile."""
        found: dict[int, list[Mapping[str, Shape]]] = {}
        for shapes in fixed:
            found.setdefault(self._shared.signature.profile_of(shapes), []).append(shapes)
        return found or {
            profile: [{one.name: one.largest[profile] for one in self._inputs}]
            for profile in range(self._shared.engine.profiles)
        }

    def allocate(self, sizes: Mapping[str, int]) -> None:
        """Get the memory of every input and output.

        Raises:
            SessionError: the card or the host has too little.
        """
        for name, size_bytes in sizes.items():
            self._buffers[name].fit(size_bytes)

    def run(self, feeds: Feeds) -> Outputs:
        """Run one request; gives the outputs in memory of their own.

        Raises:
            RequestError: an input does not fit the engine.
            SessionError: a call failed.
        """
        given = {one.name: self._on_card(one, feeds[one.name]) for one in self._inputs}
        shapes = {
            name: feeds[name].shape if array is None else array.shape
            for name, array in given.items()
        }
        profile = self._shared.signature.profile_of(shapes)
        self._check_values(feeds, given)
        # Arrays on the card are copied to the buffer's address, and their own address is no part of
        # the key: torch hands out other addresses all the time, each of which would cost a capture
        # of milliseconds, while the copy of some thousand tokens takes microseconds.
        key = (profile, tuple(shapes.values()), tuple(one is not None for one in given.values()))
        try:
            plan = self._plans.get(key) or self._plan(key, shapes, given)
            self._stage(plan, feeds, given)
            plan.launch()
            self._synchronize()
            outputs = plan.outputs(self._dtypes)
            if self._shared.policy.enabled and not plan.has_graph:
                self._capture(key, plan)
        except BaseException:
            with contextlib.suppress(SessionError):  # nothing may still use the pinned memory
                self._synchronize()
            with contextlib.suppress(SessionError):
                self._plans.drop(key)
            raise
        return outputs

    def _plan(
        self, key: Key, shapes: dict[str, Shape], given: Mapping[str, DeviceArray | None]
    ) -> Plan:
        engine = self._shared.engine
        self._plans.make_room()
        context = engine.context(self._scratch)
        plan = Plan(engine, self._cuda, self._stream, context)
        shapes = shapes | engine.set_shapes(context, key[0], shapes, self._stream)
        sizes = {one.name: _bytes_of(one, shapes[one.name]) for one in engine.tensors}
        if any(size > self._buffers[name].size_bytes for name, size in sizes.items()):
            self._plans.clear()  # they know the addresses that are about to change
            self.allocate(sizes)
        engine.bind(context, {name: buffer.device for name, buffer in self._buffers.items()})
        copies = {one.name: self._copy_of(one, shapes[one.name]) for one in engine.tensors}
        plan.copies_in = tuple(copies[name] for name, array in given.items() if array is None)
        plan.copies_out = tuple(copies[one.name] for one in self._shared.signature.outputs)
        self._plans.add(key, plan)
        return plan

    def _copy_of(self, tensor: EngineTensor, shape: Shape) -> Copy:
        buffer = self._buffers[tensor.name]
        return Copy(tensor.name, buffer.device, buffer.host, buffer.view(tensor.dtype, shape))

    def _stage(self, plan: Plan, feeds: Feeds, given: Mapping[str, DeviceArray | None]) -> None:
        for copy in plan.copies_in:
            np.copyto(copy.view, feeds[copy.name], casting="same_kind")
        on_card = {name: array for name, array in given.items() if array is not None}
        for stream in {array.stream for array in on_card.values()} - {None}:
            self._cuda.call("cuEventRecord", self._event, stream)
            self._cuda.call("cuStreamWaitEvent", self._stream, self._event, 0)
        for name, array in on_card.items():
            target, size_bytes = self._buffers[name].device, array.size_bytes
            self._cuda.call("cuMemcpyDtoDAsync", target, array.pointer, size_bytes, self._stream)

    def _on_card(self, tensor: EngineTensor, value: Any) -> DeviceArray | None:
        array = device_array(tensor.name, value)
        if array is None:
            return None
        kind = self._cuda.module.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
        ordinal = int(self._cuda.call("cuPointerGetAttribute", kind, array.pointer))
        if ordinal != self._shared.device or array.dtype != tensor.dtype:
            raise RequestError(
                f"input {tensor.name!r} is {array.dtype} on cuda:{ordinal}",
                wanted=f"{tensor.dtype} on cuda:{self._shared.device}, as the engine has it",
                todo="send a NumPy array"
                if array.dtype != tensor.dtype
                else "move it there, or send a NumPy array",
            )
        return array

    def _check_values(self, feeds: Feeds, given: Mapping[str, DeviceArray | None]) -> None:
        """TensorRT 8.6 has int32 where the model has int64: refuse what would wrap around."""
        for one in self._inputs:
            array = feeds[one.name]
            if given[one.name] is not None or array.dtype == one.dtype or not array.size:
                continue
            if one.dtype.kind not in "iu" or array.dtype.kind not in "iu":
                continue
            limits = np.iinfo(one.dtype)
            lowest, highest = int(array.min()), int(array.max())
            if lowest < limits.min or highest > limits.max:
                raise RequestError(
                    f"input {one.name!r} has values from {lowest} to {highest}",
                    wanted=f"{limits.min} to {limits.max}: this TensorRT has no {array.dtype}",
                    todo="correct them, or use TensorRT 10 or newer",
                )

    def _capture(self, key: Key, plan: Plan) -> None:
        try:
            plan.capture()
        except SessionError as error:
            self._shared.policy.give_up(error)
            try:  # TensorRT may remember the failed call; it is to show now, not in a request
                plan.launch()
                self._synchronize()
            except SessionError:
                self._plans.drop(key)

    def _synchronize(self) -> None:
        self._cuda.call("cuStreamSynchronize", self._stream)

    def release(self) -> None:
        """Free everything, last made first; a second call does nothing."""
        self._stack.close()


def _bytes_of(tensor: EngineTensor, shape: Shape) -> int:
    # cuMemAlloc refuses to give nothing.
    return max(math.prod(shape) * tensor.dtype.itemsize, 1)
