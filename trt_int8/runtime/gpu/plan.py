"""One model at one set of shapes: an execution context, its copies, and the CUDA graph of both.

A context of its own for every graph: "the best practice is to use one execution context per
captured graph, and to share memory across the contexts" (TensorRT Developer Guide, "CUDA Graphs"),
for a context keeps state of its last shapes that an older graph would read.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_int8.engine.cuda import CudaDriver
from trt_int8.errors import SessionError
from trt_int8.runtime.gpu.engine import LoadedEngine


@dataclass(frozen=True)
class Copy:
    """One tensor between pinned memory and the card.

    Attributes:
        name: of the input or output.
        device: address on the card.
        host: address in pinned memory.
        view: the pinned memory as an array of the plan's shape.
    """

    name: str
    device: int
    host: int
    view: NDArray[Any]


class GraphPolicy:
    """Whether CUDA graphs are captured; shared by all workers of an engine."""

    def __init__(self, *, enabled: bool) -> None:
        """Start with what the caller wants."""
        self.enabled = enabled
        self.notes: list[str] = []
        self._lock = threading.Lock()

    def give_up(self, error: SessionError) -> None:
        """The engine cannot be captured: run it without graphs from now on, and say so once."""
        with self._lock:
            if not self.enabled:
                return
            self.enabled = False
            self.notes.append(f"runs without CUDA graphs, which costs latency: {error.came}")


class Plan:
    """What one request of this shape takes: nothing is allocated any more."""

    def __init__(self, engine: LoadedEngine, cuda: CudaDriver, stream: int, context: Any) -> None:
        """Hold a context whose shapes and addresses are set.

        Args:
            engine: of the context.
            cuda: the driver.
            stream: handle of the stream that all of it runs on.
            context: nobody else's.
        """
        self._engine, self._cuda, self._stream, self._context = engine, cuda, stream, context
        self._graph: Any = None
        self.copies_in: tuple[Copy, ...] = ()
        self.copies_out: tuple[Copy, ...] = ()

    @property
    def has_graph(self) -> bool:
        """A graph was captured."""
        return self._graph is not None

    def launch(self) -> None:
        """Put copies in, inference and copies out on the stream.

        Raises:
            SessionError: a call failed.
        """
        if self._graph is not None:
            self._cuda.call("cuGraphLaunch", self._graph, self._stream)
            return
        for copy in self.copies_in:
            self._copy("cuMemcpyHtoDAsync", copy.device, copy.host, copy.view.nbytes)
        self._engine.enqueue(self._context, self._stream)
        for copy in self.copies_out:
            self._copy("cuMemcpyDtoHAsync", copy.host, copy.device, copy.view.nbytes)

    def capture(self) -> None:
        """Make one graph of what `launch` does; it must have run once, so that all is set up.

        Raises:
            SessionError: something in it cannot be captured; `launch` works as before.
        """
        # Only what this thread does may spoil a capture: other workers allocate meanwhile.
        mode = self._cuda.module.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._cuda.call("cuStreamBeginCapture", self._stream, mode)
        try:
            self.launch()
        except BaseException:
            with contextlib.suppress(SessionError):  # the stream must leave its capture
                self._cuda.call(
                    "cuGraphDestroy", self._cuda.call("cuStreamEndCapture", self._stream)
                )
            raise
        graph = self._cuda.call("cuStreamEndCapture", self._stream)
        with contextlib.ExitStack() as stack:
            stack.callback(self._cuda.call, "cuGraphDestroy", graph)
            self._graph = self._cuda.call("cuGraphInstantiate", graph, 0)

    def outputs(self, dtypes: dict[str, np.dtype[Any]]) -> dict[str, NDArray[Any]]:
        """Copies of what the last run left in pinned memory, of the types the model has."""
        return {copy.name: copy.view.astype(dtypes[copy.name]) for copy in self.copies_out}

    def release(self) -> None:
        """Free graph and context; a second call does nothing."""
        graph, self._graph = self._graph, None
        try:
            if graph is not None:
                self._cuda.call("cuGraphExecDestroy", graph)
        finally:
            self._context = None
            self.copies_in = self.copies_out = ()

    def _copy(self, call: str, target: int, source: int, size_bytes: int) -> None:
        self._cuda.call(call, target, source, size_bytes, self._stream)


class PlanCache:
    """The plans used last; what is pushed out is freed."""

    def __init__(self, limit: int) -> None:
        """Hold at most `limit` plans, at least one."""
        self._limit = max(limit, 1)
        self._plans: OrderedDict[Hashable, Plan] = OrderedDict()

    def get(self, key: Hashable) -> Plan | None:
        """The plan of a key, which becomes the one used last."""
        if key in self._plans:
            self._plans.move_to_end(key)
        return self._plans.get(key)

    def make_room(self) -> None:
        """Free the plans used longest ago until one more may come.

        Raises:
            SessionError: one could not be freed; it is forgotten all the same.
        """
        while len(self._plans) >= self._limit:
            self._plans.popitem(last=False)[1].release()

    def add(self, key: Hashable, plan: Plan) -> None:
        """Keep a plan."""
        self._plans[key] = plan

    def drop(self, key: Hashable) -> None:
        """Free the plan of a key, if there is one."""
        if key in self._plans:
            self._plans.pop(key).release()

    def clear(self) -> None:
        """Free all."""
        with contextlib.ExitStack() as all_of_them:
            while self._plans:
                all_of_them.callback(self._plans.popitem()[1].release)
