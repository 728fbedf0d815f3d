"""The GPU backend: a TensorRT or TensorRT-RTX engine run through CUDA's driver API.

Each worker has a stream, pinned and device buffers, and one execution context with one CUDA graph
per shape. In the steady state a request is a copy into pinned memory, one cuGraphLaunch, one
cuStreamSynchronize and a copy out; nothing is allocated on the card.

Nothing here has run on a card. The order of calls, what they allocate and free, and which answers
come out are tested beside stand-ins (`tests/runtime/gpu`), the names and argument counts beside
NVIDIA's own packages; `tests/gpu/test_session.py` is for people with a card.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trt_int8 import optional
from trt_int8.engine.cuda import CudaDriver
from trt_int8.engine.flavour import MODULE_OF
from trt_int8.errors import SessionError
from trt_int8.runtime.backend import Backend, Feeds, Outputs
from trt_int8.runtime.checks import CheckedBundle
from trt_int8.runtime.gpu.arrays import PER_THREAD_STREAM, device_array
from trt_int8.runtime.gpu.cache import CacheFile
from trt_int8.runtime.gpu.engine import LoadedEngine
from trt_int8.runtime.gpu.memory import call_failed, current
from trt_int8.runtime.gpu.plan import GraphPolicy
from trt_int8.runtime.gpu.worker import GpuWorker, Shared
from trt_int8.runtime.pool import WorkerPool
from trt_int8.runtime.tensors import Shape, Signature


@dataclass(frozen=True)
class GpuOptions:
    """How an engine is run.

    Attributes:
        workers: requests at the same time.
        graphs: how many shapes each worker keeps ready, each with a context and a CUDA graph; the
            one used longest ago goes first.
        capture: use CUDA graphs at all, TensorRT-RTX's own ones too.
        cache_folder: where TensorRT-RTX's runtime caches are kept; None for the user's own folder.
        shapes: of the inputs, by name, for each batch that will come; memory is had for these.
            Empty for any batch that the engine takes.
        driver: in tests, another module than `cuda.bindings.driver`.
        tensorrt: in tests, another module than the flavour's.
    """

    workers: int = 1
    graphs: int = 32
    capture: bool = True
    cache_folder: Path | None = None
    shapes: tuple[Mapping[str, Shape], ...] = ()
    driver: Any = None
    tensorrt: Any = None


def open_engine(
    checked: CheckedBundle, signature: Signature, index: int, options: GpuOptions | None = None
) -> Backend:
    """Load the engine of a checked bundle on card `index`.

    Raises:
        SessionError: the driver or TensorRT refused; nothing is left allocated.
        MissingPackageError: cuda-python or the bundle's TensorRT is not installed.
        BundleError: a file was changed since it was checked.
        RequestError: the engine does not take one of the fixed shapes.
        EngineError, PluginError: the plugins cannot be loaded.
    """
    return EngineBackend(checked, signature, index, options or GpuOptions())


class EngineBackend:
    """A loaded engine; several threads may call it. See `Backend`.

    Attributes:
        name: product and version.
        workers: requests that run at the same time.
    """

    def __init__(
        self, checked: CheckedBundle, signature: Signature, index: int, options: GpuOptions
    ) -> None:
        """Load; see `open_engine` for what it raises."""
        trt = options.tensorrt or optional.load(MODULE_OF[checked.manifest.flavour])
        self._cuda = CudaDriver(call_failed, options.driver)
        self._resources = contextlib.ExitStack()
        self._workers: list[GpuWorker] = []
        self.workers = options.workers
        digest = checked.manifest.files[_engine_name(checked)].sha256
        self._cache = CacheFile(digest, str(trt.__version__), options.cache_folder)
        self._policy = GraphPolicy(enabled=options.capture)
        self._cuda.call("cuInit", 0)
        self._device = self._cuda.call("cuDeviceGet", index)
        self._context = self._cuda.call("cuDevicePrimaryCtxRetain", self._device)
        try:
            with current(self._cuda, self._context):
                self.name = self._load(trt, checked, signature, options)
        except BaseException:
            with contextlib.suppress(SessionError):  # the first error is the one to tell
                self._release()
            raise
        self._pool = WorkerPool(self._work, self.workers, self.name)

    @property
    def notes(self) -> tuple[str, ...]:
        """What does not work as it should, one sentence each, but keeps nothing from running."""
        return (*self._policy.notes, *self._cache.notes)

    def run(self, feeds: Feeds) -> Outputs:
        """See `Backend.run`."""
        return self._pool.run(feeds)

    def submit(self, feeds: Feeds) -> Future[Outputs]:
        """See `Backend.submit`."""
        arrays = [device_array(name, value) for name, value in feeds.items()]
        if any(array is not None and array.stream == PER_THREAD_STREAM for array in arrays):
            # A worker's thread would wait for its own stream of that name instead of this one's.
            with current(self._cuda, self._context):
                self._cuda.call("cuStreamSynchronize", PER_THREAD_STREAM)
        return self._pool.submit(feeds)

    def close(self) -> None:
        """See `Backend.close`.

        Raises:
            SessionError: the driver failed to free something; all the rest is freed.
        """
        if self._pool.close():
            self._release()

    def _load(
        self, trt: Any, checked: CheckedBundle, signature: Signature, options: GpuOptions
    ) -> str:
        engine = LoadedEngine(trt, checked, self._cache, graphs=options.capture)
        self._resources.callback(engine.release)
        _check_names(engine, signature)
        if engine.has_own_graphs:
            self._policy.enabled = False
        shared = Shared(
            self._cuda, engine, signature, self._policy, int(self._device), options.graphs
        )
        sizes: dict[str, int] = {}
        for _ in range(self.workers):
            worker = GpuWorker(shared)
            self._resources.callback(worker.release)
            sizes = sizes or worker.largest_bytes(options.shapes)
            worker.allocate(sizes)
            self._workers.append(worker)
        return engine.name

    def _work(self, number: int, feeds: Feeds) -> Outputs:
        with current(self._cuda, self._context):
            return self._workers[number].run(feeds)

    def _release(self) -> None:
        self._workers.clear()
        try:
            with current(self._cuda, self._context):
                self._resources.close()
        finally:
            self._cuda.call("cuDevicePrimaryCtxRelease", self._device)


def _engine_name(checked: CheckedBundle) -> str:
    return checked.engine.relative_to(checked.folder).as_posix() if checked.engine else ""


def _check_names(engine: LoadedEngine, signature: Signature) -> None:
    inputs = {one.name for one in engine.tensors if one.is_input}
    outputs = {one.name for one in engine.tensors if not one.is_input}
    wanted = ({one.name for one in signature.inputs}, {one.name for one in signature.outputs})
    profiles = len(signature.profiles) or engine.profiles
    if (inputs, outputs) == wanted and profiles == engine.profiles:
        return
    raise SessionError(
        f"the engine reads {sorted(inputs)}, gives {sorted(outputs)} and has {engine.profiles}"
        " profiles",
        wanted=f"{sorted(wanted[0])}, {sorted(wanted[1])} and {profiles}, as its ONNX file and its"
        " manifest have it",
        todo="build the bundle again",
    )
