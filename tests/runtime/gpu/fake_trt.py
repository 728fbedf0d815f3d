"""TensorRT's runtime in Python over `FakeCuda`: an engine that really computes on its memory.

The model: `scores = 2 * ids + mask` per token (float32) and `total`, the sum of `ids` over tokens
where `mask` is 1 (int64, int32 in TensorRT 8.6).
"""

from __future__ import annotations

import weakref
from typing import Any

from tests.runtime.gpu.fake_context import Context, Context10
from tests.runtime.gpu.fake_cuda import FakeCuda
from tests.runtime.gpu.fake_trt_types import (
    PROFILES,
    SCRATCH_BYTES,
    Graphs,
    ILogger,
    Kernels,
    Kind,
    Location,
    Mode,
    Severity,
    Strategy,
)


class FakeTrt:
    """The package `tensorrt` 8.6 or 10, or `tensorrt_rtx`.

    Attributes:
        flavour: "8.6", "10" or "rtx".
        loads: the plan can be deserialised.
        capturable: the engine can be captured.
        remembers: a capture that failed makes the next inference of its context fail, too.
        input_names, output_names: of the engine.
        host_output: the first output is in host memory.
        data_dependent: the shape of `total` is not known before it runs.
        token_kind: type of the inputs.
        growth: `scores` repeats each token so often.
        profiles: how many the engine has.
        cache_fits: a stored runtime cache is taken.
        ever: weak references to all objects that were made.
    """

    ILogger = ILogger
    DataType = Kind
    TensorIOMode = Mode
    TensorLocation = Location

    def __init__(self, cuda: FakeCuda, flavour: str = "10") -> None:
        self.cuda, self.script, self.flavour = cuda, cuda.script, flavour
        self.__version__ = {"8.6": "8.6.1", "10": "10.13.3", "rtx": "1.7.1"}[flavour]
        self.loads = self.capturable = self.cache_fits = True
        self.data_dependent = self.remembers = False
        self.token_kind = Kind.INT32 if flavour == "8.6" else Kind.INT64
        self.input_names, self.output_names = ("ids", "mask"), ("scores", "total")
        self.growth, self.profiles = 1, len(PROFILES)
        self.configs: list[RuntimeConfig] = []
        self.plans: list[bytes] = []
        self.logs: list[Any] = []
        self.libraries: set[bytes] = set()
        self.host_output = False
        self.ever: list[weakref.ref[Any]] = []
        if flavour != "8.6":
            self.ExecutionContextAllocationStrategy = Strategy
        if flavour == "rtx":
            self.IRuntimeCache = RuntimeCache
            self.CudaGraphStrategy = Graphs
            self.DynamicShapesKernelSpecializationStrategy = Kernels

    def init_libnvinfer_plugins(self, log: Any, namespace: str) -> bool:
        assert namespace == ""
        self.script.note("init_libnvinfer_plugins", log is not None)
        return True

    def get_plugin_registry(self) -> Any:
        return Registry(self)

    def Runtime(self, log: Any) -> Any:  # noqa: N802
        self.cuda.check_current("Runtime")
        self.logs.append(log)
        if self.script.note("Runtime"):
            log.log(Severity.ERROR, "CUDA initialization failure\n with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return self.keep(FakeRuntime(self, log))

    def keep(self, thing: Any) -> Any:
        self.ever.append(weakref.ref(thing))
        return thing

    def living(self) -> list[str]:
        """Objects that are not freed yet."""
        return [type(thing).__name__ for ref in self.ever if (thing := ref()) is not None]

    def gone(self, name: str) -> None:
        """An object is freed: its CUDA context must be there still."""
        if not self.cuda.stack:
            self.script.faults.append(f"{name} was freed without a current context")
        if not self.cuda.retained:
            self.script.faults.append(f"{name} was freed after the context was released")

    @property
    def tensors(self) -> dict[str, tuple[Mode, Kind]]:
        (ids, mask), (scores, total) = self.input_names, self.output_names
        return {
            ids: (Mode.INPUT, self.token_kind),
            mask: (Mode.INPUT, self.token_kind),
            scores: (Mode.OUTPUT, Kind.FLOAT),
            total: (Mode.OUTPUT, self.token_kind),
        }


class Registry:
    def __init__(self, trt: FakeTrt) -> None:
        self._trt = trt

    def load_library(self, plugin_path: str) -> Any:
        with open(plugin_path, "rb") as file:  # noqa: PTH123
            code = file.read()
        failed = self._trt.script.note("load_library", code)
        if code in self._trt.libraries:  # "if any of the plugins are already registered"
            return None
        self._trt.libraries |= set() if failed else {code}
        return None if failed else object()


class FakeRuntime:
    def __init__(self, trt: FakeTrt, log: Any) -> None:
        self._trt, self._log = trt, log

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
        trt = self._trt
        trt.cuda.check_current("deserialize_cuda_engine")
        trt.plans.append(serialized_engine)
        if trt.script.note("deserialize_cuda_engine") or not trt.loads:
            self._log.log(Severity.ERROR, "Version tag does not match")
            return None
        made = {"8.6": Engine, "10": Engine10, "rtx": EngineRtx}[trt.flavour]
        return trt.keep(made(trt, self))

    def __del__(self) -> None:
        self._trt.gone("Runtime")


class Engine:
    num_io_tensors = 4
    device_memory_size = SCRATCH_BYTES

    def __init__(self, trt: FakeTrt, runtime: FakeRuntime) -> None:
        self.trt, self._runtime = trt, runtime
        self.num_optimization_profiles = trt.profiles

    def get_tensor_name(self, index: int) -> str:
        return list(self.trt.tensors)[index]

    def get_tensor_dtype(self, name: str) -> Kind:
        return self.trt.tensors[name][1]

    def get_tensor_location(self, name: str) -> Location:
        assert name in self.trt.tensors
        is_host = self.trt.host_output and name == self.trt.output_names[0]
        return Location.HOST if is_host else Location.DEVICE

    def get_tensor_mode(self, name: str) -> Mode:
        return self.trt.tensors[name][0]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, int]]:
        assert self.get_tensor_mode(name) is Mode.INPUT
        smallest, largest = PROFILES[profile_index]
        return [smallest, smallest, largest]

    def create_execution_context_without_device_memory(self) -> Any:
        return self._context(Context)

    def _context(self, kind: type[Context]) -> Any:
        self.trt.cuda.check_current("create_execution_context")
        if self.trt.script.note("create_execution_context"):
            return None
        return self.trt.keep(kind(self))

    def __del__(self) -> None:
        self.trt.gone("Engine")


class Engine10(Engine):
    device_memory_size_v2 = SCRATCH_BYTES

    def create_execution_context(self, strategy: Strategy) -> Any:
        assert strategy is Strategy.USER_MANAGED
        return self._context(Context10)


class EngineRtx(Engine10):
    def create_runtime_config(self) -> Any:
        config = self.trt.keep(RuntimeConfig(self))
        return config

    def create_execution_context(self, runtime_config: Any) -> Any:
        assert runtime_config.allocation is Strategy.USER_MANAGED
        assert runtime_config.cache is not None
        self.trt.configs[:] = [_Settings(runtime_config)]  # type: ignore[list-item]
        made = self._context(Context10)
        if made is not None:
            runtime_config.cache.kernels += b"+"  # it compiled something
        return made


class _Settings:
    """What a runtime config said, without keeping it alive."""

    def __init__(self, config: RuntimeConfig) -> None:
        self.graphs = config.cuda_graph_strategy
        self.kernels = config.dynamic_shapes_kernel_specialization_strategy


class RuntimeCache:
    def __init__(self, trt: FakeTrt) -> None:
        self._trt, self.kernels = trt, b""

    def deserialize(self, blob: bytes) -> bool:
        self._trt.script.note("cache.deserialize", blob)
        self.kernels = blob if self._trt.cache_fits else b"half"
        return self._trt.cache_fits

    def serialize(self) -> bytes:
        return b"kernels" + self.kernels


class RuntimeConfig:
    __slots__ = (
        "__weakref__",
        "_engine",
        "allocation",
        "cache",
        "cuda_graph_strategy",
        "dynamic_shapes_kernel_specialization_strategy",
    )

    def __init__(self, engine: EngineRtx) -> None:
        self._engine, self.cache = engine, None
        self.allocation = Strategy.STATIC
        self.cuda_graph_strategy = Graphs.DISABLED
        self.dynamic_shapes_kernel_specialization_strategy = Kernels.LAZY

    def set_execution_context_allocation_strategy(self, strategy: Strategy) -> None:
        self.allocation = strategy

    def create_runtime_cache(self) -> Any:
        return self._engine.trt.keep(RuntimeCache(self._engine.trt))

    def set_runtime_cache(self, cache: Any) -> bool:
        self.cache = cache
        return True

    def get_runtime_cache(self) -> Any:
        return self.cache
