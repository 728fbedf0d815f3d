"""A deserialised engine: what it reads and writes, and execution contexts for one set of shapes.

All that touches TensorRT 8.6 to 11 or TensorRT-RTX at run time is here. Nothing of it was run on a
card; every name and call is checked against NVIDIA's own bindings
(`tests/runtime/gpu/test_engine_contract.py`).
"""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from trt_int8.errors import SessionError
from trt_int8.runtime.checks import CheckedBundle
from trt_int8.runtime.gpu.cache import CacheFile
from trt_int8.runtime.gpu.plugins import load_plugins
from trt_int8.spec.build import Flavour

Shape = tuple[int, ...]

# TensorRT's names of the element types that NumPy has.
_NUMPY_OF = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}
_FREE_MEMORY = "check the free memory with nvidia-smi, or build the bundle again on this machine"
_NEW_DRIVER = "update the driver (nvidia-smi shows the newest CUDA it runs), or pass --device cpu"


@dataclass(frozen=True)
class EngineTensor:
    """One input or output as the engine has it.

    Attributes:
        name: as the graph has it.
        dtype: of its elements; TensorRT 8.6 has int32 where the graph has int64.
        is_input: read, not written.
        largest: per profile its greatest shape; empty for outputs.
    """

    name: str
    dtype: np.dtype[Any]
    is_input: bool
    largest: tuple[Shape, ...]


class LoadedEngine:
    """An engine and what makes execution contexts of it; several threads may call it.

    Attributes:
        name: product and version, for messages.
        profiles: how many optimization profiles it has.
        scratch_bytes: memory that a context needs besides inputs and outputs.
        has_own_graphs: TensorRT-RTX captures CUDA graphs itself, so nobody else is to.
        tensors: inputs and outputs.
    """

    def __init__(
        self, trt: Any, checked: CheckedBundle, cache_file: CacheFile, *, graphs: bool = True
    ) -> None:
        """Register plugins, deserialise; the card's CUDA context is current.

        Args:
            trt: the imported package of the bundle's flavour.
            checked: the bundle.
            cache_file: TensorRT-RTX's runtime cache; not touched for other flavours.
            graphs: let TensorRT-RTX capture CUDA graphs.

        Raises:
            SessionError: TensorRT refuses the engine, or it has something this runtime cannot run.
            EngineError: a plugin library cannot be loaded.
            PluginError: this TensorRT cannot carry our plugins.
            BundleError: a file changed since it was checked.
        """
        self._trt, self._cache_file = trt, cache_file
        self._making = threading.Lock()
        product = "TensorRT-RTX" if checked.manifest.flavour is Flavour.RTX else "TensorRT"
        self.name = f"{product} {trt.__version__}"
        self._log = _log_of(trt)
        self._config: Any = None
        self.has_own_graphs = False
        load_plugins(trt, self._log, checked)
        try:
            runtime = trt.Runtime(self._log)
        except TypeError as error:
            raise self.failed("Runtime()", _NEW_DRIVER) from error
        engine = runtime.deserialize_cuda_engine(checked.read_engine())
        if engine is None:
            raise self.failed("deserialize_cuda_engine")
        self._runtime, self._engine = runtime, engine
        if hasattr(trt, "IRuntimeCache"):
            self._config = _rtx_config(trt, engine, cache_file.load(), graphs=graphs)
            self.has_own_graphs = hasattr(self._config, "cuda_graph_strategy")
        self.profiles = int(engine.num_optimization_profiles)
        if hasattr(engine, "device_memory_size_v2"):
            size_bytes = int(engine.device_memory_size_v2)
        else:
            size_bytes = int(engine.device_memory_size)
        self.scratch_bytes = max(size_bytes, 1)
        self.tensors = tuple(self._tensor(index) for index in range(engine.num_io_tensors))

    def _tensor(self, index: int) -> EngineTensor:
        trt, engine = self._trt, self._engine
        name = engine.get_tensor_name(index)
        kind = engine.get_tensor_dtype(name)
        if kind.name not in _NUMPY_OF or engine.get_tensor_location(name) != (
            trt.TensorLocation.DEVICE
        ):
            raise SessionError(
                f"{name!r} of the engine is {kind.name} in {engine.get_tensor_location(name)}",
                wanted=f"{', '.join(_NUMPY_OF)} on the card",
                todo="export the model with inputs and outputs of such types",
            )
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        largest = (
            tuple(
                tuple(engine.get_tensor_profile_shape(name, profile)[2])
                for profile in range(self.profiles)
            )
            if is_input
            else ()
        )
        return EngineTensor(name, np.dtype(_NUMPY_OF[kind.name]), is_input, largest)

    def context(self, scratch: int) -> Any:
        """A new execution context whose scratch memory is at the address `scratch`.

        One thread at a time: TensorRT does not promise that several may, and it is rare.

        Raises:
            SessionError: TensorRT makes none.
        """
        trt, engine = self._trt, self._engine
        with self._making:
            if hasattr(trt, "IRuntimeCache"):
                context = engine.create_execution_context(self._config)
            elif hasattr(trt, "ExecutionContextAllocationStrategy"):
                strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
                context = engine.create_execution_context(strategy)
            else:
                context = engine.create_execution_context_without_device_memory()
        if context is None:
            raise self.failed("create_execution_context")
        if hasattr(context, "set_device_memory"):
            context.set_device_memory(scratch, self.scratch_bytes)
        else:
            context.device_memory = scratch
        return context

    def set_shapes(
        self, context: Any, profile: int, shapes: Mapping[str, Shape], stream: int
    ) -> dict[str, Shape]:
        """Fix profile and input shapes of a context; gives the shapes of the outputs.

        Raises:
            SessionError: TensorRT refuses them, or an output's shape depends on the data.
        """
        if context.active_optimization_profile != profile:
            self._check(
                context.set_optimization_profile_async(profile, stream),
                "set_optimization_profile_async",
            )
        for name, shape in shapes.items():
            self._check(context.set_input_shape(name, shape), f"set_input_shape of {name!r}")
        outputs = [one.name for one in self.tensors if not one.is_input]
        given = {name: tuple(context.get_tensor_shape(name)) for name in outputs}
        unknown = [name for name, shape in given.items() if any(size < 0 for size in shape)]
        if unknown:
            raise SessionError(
                f"the shape of output {unknown[0]!r} depends on the values of the inputs",
                wanted="outputs whose shapes follow from those of the inputs",
                todo="export the model without operators such as NonZero before its outputs",
            )
        return given

    def bind(self, context: Any, addresses: Mapping[str, int]) -> None:
        """Tell a context where its inputs and outputs are on the card.

        Raises:
            SessionError: TensorRT refuses an address.
        """
        for name, address in addresses.items():
            self._check(
                context.set_tensor_address(name, address), f"set_tensor_address of {name!r}"
            )

    def enqueue(self, context: Any, stream: int) -> None:
        """Put one inference on a stream.

        Raises:
            SessionError: TensorRT refuses.
        """
        self._check(context.execute_async_v3(stream), "execute_async_v3")

    def release(self) -> None:
        """Keep the runtime cache, free the engine; all contexts must be gone."""
        trt, config = self._trt, self._config
        self._config = None
        try:
            if hasattr(trt, "IRuntimeCache"):
                self._cache_file.save(_serialized_cache(config))
        finally:
            del config
            self._engine = None
            self._runtime = None

    def _check(self, accepted: Any, call: str) -> None:
        if not accepted:
            raise self.failed(call)

    def failed(self, call: str, todo: str = _FREE_MEMORY) -> SessionError:
        """The error of a call that TensorRT refused, with what its log says."""
        return SessionError(
            f"{call} of {self.name} failed ({self._log.reason() or 'no reason in its log'})",
            wanted="an engine and sizes that this card and this TensorRT run",
            todo=todo,
        )


def _rtx_config(trt: Any, engine: Any, stored: bytes, *, graphs: bool) -> Any:
    """How TensorRT-RTX runs an engine, with the kernels that it compiled in earlier sessions."""
    config = engine.create_runtime_config()
    config.set_execution_context_allocation_strategy(
        trt.ExecutionContextAllocationStrategy.USER_MANAGED
    )
    if hasattr(config, "cuda_graph_strategy"):
        strategies = trt.CudaGraphStrategy
        config.cuda_graph_strategy = (
            strategies.WHOLE_GRAPH_CAPTURE if graphs else strategies.DISABLED
        )
    if hasattr(config, "dynamic_shapes_kernel_specialization_strategy"):
        # LAZY, the default, answers with other kernels until the right ones are compiled: the
        # same request would have other last bits later.
        config.dynamic_shapes_kernel_specialization_strategy = (
            trt.DynamicShapesKernelSpecializationStrategy.EAGER
        )
    cache = config.create_runtime_cache()
    if stored and not cache.deserialize(stored):
        cache = config.create_runtime_cache()  # it is of another driver: start anew
    config.set_runtime_cache(cache)
    return config


def _serialized_cache(config: Any) -> bytes:
    cache = config.get_runtime_cache() if config is not None else None
    data = cache.serialize() if cache is not None else None
    return b"" if data is None else bytes(data)


@functools.cache
def _log_of(trt: Any) -> Any:
    # TensorRT keeps the first logger of a process and calls it as long as any of its objects lives,
    # so a logger of one session must outlive that session.
    return _make_log(trt)


def _make_log(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]
        """Keeps the last errors; a session may run for months."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=3)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(" ".join(message.split()))

        def reason(self) -> str:
            """The last errors in one line, which are forgotten then; empty without any."""
            told = " | ".join(self.errors.copy())
            self.errors.clear()  # they are not to explain what fails later, elsewhere
            return told

    return Log()
