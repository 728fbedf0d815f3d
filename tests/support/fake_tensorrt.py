"""A hand-written stand-in for the `tensorrt` module: builds nothing, records what is called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from types import SimpleNamespace
from typing import Any


class Severity(IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    VERBOSE = 4


class ILogger:
    Severity = Severity


class IProgressMonitor:
    pass


class Calibrator:
    pass


class ParserError:
    def __init__(self, name: str, text: str) -> None:
        self._name, self._text = name, text

    def node(self) -> int:
        return 7

    def node_name(self) -> str:
        return self._name

    def desc(self) -> str:
        return self._text


class FakeTensorRT:
    """The module; options set what goes wrong, `calls` lists what was called, in order.

    Attributes:
        parse_errors: make the parser refuse with these.
        log_on_build: messages of the builder, each with its severity.
        plan: what the builder returns; None for a failure.
        cache_fits: a timing cache that is not empty can be attached.
        keeps_cache: `get_timing_cache` gives one.
        has_gpu: the builder starts.
        plan_loads: the plan can be deserialized.
        library_loads: whether plugin libraries can be loaded.
        during_build: called with the progress monitor; answers False to end the build.
        rtx: has targets, as TensorRT-RTX has.
        inputs: of the parsed network, name and dtype.
    """

    __version__ = "10.99"
    ILogger = ILogger
    IProgressMonitor = IProgressMonitor
    ProfilingVerbosity = SimpleNamespace(DETAILED="DETAILED")
    LayerInformationFormat = SimpleNamespace(JSON="JSON")
    NetworkDefinitionCreationFlag = SimpleNamespace(EXPLICIT_BATCH=0, STRONGLY_TYPED=1)
    BuilderFlag = SimpleNamespace(FP16="FP16", INT8="INT8")
    PreviewFeature = SimpleNamespace(PROFILE_SHARING_0806="SHARING")
    IInt8EntropyCalibrator2: Any = Calibrator
    IInt8MinMaxCalibrator: Any = Calibrator

    def __init__(
        self, *, rtx: bool = False, parse_errors: Sequence[ParserError] = (), plan: Any = b"plan"
    ) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.rtx, self.parse_errors, self.plan = rtx, list(parse_errors), plan
        self.log_on_build: list[tuple[Severity, str]] = []
        self.cache_fits = self.keeps_cache = self.has_gpu = self.plan_loads = True
        self.library_loads = True
        self.during_build: Callable[[Any], bool] = lambda monitor: True
        self.logger: Any = None
        self.inputs: dict[str, Any] = {"ids": "int64"}
        if rtx:
            self.ComputeCapability = SimpleNamespace(SM75="SM75", SM80="SM80")

    def names(self) -> list[str]:
        return [call[0] for call in self.calls]

    def argument(self, name: str) -> Any:
        """First argument of the first call of that name."""
        return next(call[1] for call in self.calls if call[0] == name)

    def note(self, name: str, *arguments: Any) -> None:
        self.calls.append((name, *arguments))

    def nptype(self, dtype: Any) -> Any:
        return dtype

    def init_libnvinfer_plugins(self, log: Any, namespace: str) -> bool:
        self.logger = log
        self.note("init_libnvinfer_plugins", namespace)
        return True

    def get_plugin_registry(self) -> Any:
        def load_library(path: str) -> object:
            self.note("load_library", path)
            if not self.library_loads:
                self.logger.log(Severity.ERROR, "undefined symbol")
            return object() if self.library_loads else None

        return SimpleNamespace(load_library=load_library)

    def Builder(self, log: Any) -> Any:  # noqa: N802
        self.logger = log
        if not self.has_gpu:
            log.log(Severity.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return _Builder(self)

    def OnnxParser(self, network: Any, log: Any) -> Any:  # noqa: N802
        def parse_from_file(path: str) -> bool:
            self.note("parse_from_file", path)
            return not self.parse_errors

        return SimpleNamespace(
            parse_from_file=parse_from_file,
            num_errors=len(self.parse_errors),
            get_error=lambda index: self.parse_errors[index],
        )

    def Runtime(self, log: Any) -> Any:  # noqa: N802
        inspector = SimpleNamespace(get_engine_information=lambda form: f"layers as {form}")
        engine = SimpleNamespace(create_engine_inspector=lambda: inspector)

        def deserialize_cuda_engine(plan: object) -> object:
            if not self.plan_loads:
                log.log(Severity.ERROR, "out of memory")
            return engine if self.plan_loads else None

        return SimpleNamespace(deserialize_cuda_engine=deserialize_cuda_engine)


class _Builder:
    def __init__(self, trt: FakeTensorRT) -> None:
        self._trt = trt

    def create_network(self, flags: int) -> Any:
        self._trt.note("create_network", flags)
        tensors = [SimpleNamespace(name=n, dtype=d) for n, d in self._trt.inputs.items()]
        return SimpleNamespace(num_inputs=len(tensors), get_input=tensors.__getitem__)

    def create_builder_config(self) -> Any:
        return (_RtxConfig if self._trt.rtx else _Config)(self._trt)

    def create_optimization_profile(self) -> Any:
        return SimpleNamespace(set_shape=lambda *shape: self._trt.note("set_shape", shape))

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        self._trt.note("build_serialized_network", config)
        for severity, text in self._trt.log_on_build:
            self._trt.logger.log(severity, text)
        return self._trt.plan if self._trt.during_build(config.progress_monitor) else None


class _Config:
    def __init__(self, trt: FakeTensorRT) -> None:
        self.trt = trt
        self.progress_monitor: Any = None
        self.profiling_verbosity = ""
        self.int8_calibrator: Any = None
        self._cache: bytes | None = None

    def set_flag(self, flag: str) -> None:
        self.trt.note("set_flag", flag)

    def set_preview_feature(self, feature: str, *, enable: bool) -> None:
        self.trt.note("set_preview_feature", feature, enable)

    def add_optimization_profile(self, profile: Any) -> int:
        self.trt.note("add_optimization_profile", profile)
        return 0

    def set_calibration_profile(self, profile: Any) -> bool:
        self.trt.note("set_calibration_profile", profile)
        return True

    def create_timing_cache(self, stored: bytes) -> bytes:
        self.trt.note("create_timing_cache", stored)
        return stored

    def set_timing_cache(self, cache: bytes, *, ignore_mismatch: bool) -> bool:
        self.trt.note("set_timing_cache", cache, ignore_mismatch)
        # An empty cache always fits; a mismatching one is not attached.
        fits = self.trt.cache_fits or not cache
        self._cache = cache if fits else self._cache
        return fits

    def get_timing_cache(self) -> Any:
        if self._cache is None or not self.trt.keeps_cache:
            return None
        return SimpleNamespace(serialize=lambda: (self._cache or b"") + b"+tuned")


class _RtxConfig(_Config):
    num_compute_capabilities = 0

    def set_compute_capability(self, capability: str, index: int) -> None:
        self.trt.note("set_compute_capability", capability, index)
