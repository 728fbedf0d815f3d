"""The only module that touches a TensorRT package: TensorRT-RTX or TensorRT 8.6 to 11.

Differences between versions are probed with `hasattr`, never by comparing version strings.
TensorRT needs a GPU to build; that path has not been run on one here, but every name it uses is
checked against NVIDIA's own bindings (`tests/engine/test_tensorrt_contract.py`).
"""

from __future__ import annotations

import ctypes
import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from trt_int8 import optional
from trt_int8.engine import layers_block
from trt_int8.errors import CancelledError, EngineError, TargetError
from trt_int8.spec.build import BuildRequest, Flavour

_MODULE_OF = {Flavour.RTX: "tensorrt_rtx", Flavour.TENSORRT: "tensorrt"}
_PACKAGES_OF = {
    Flavour.RTX: ("tensorrt-rtx-cu13", "tensorrt_rtx_cu13", "tensorrt-rtx"),
    Flavour.TENSORRT: ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-bindings"),
}

PhaseStart = Callable[[str, "str | None", int], None]


class ProgressSink:
    """Receives the builder's progress; `step` answers False to cancel the build."""

    def phase(self, name: str, parent: str | None, steps: int) -> None:
        """A phase of `steps` steps begins inside `parent`."""

    def step(self, name: str, step: int) -> bool:
        """Step number `step` of phase `name` is done."""
        return True

    def finish(self, name: str) -> None:
        """Phase `name` is done."""


def choose_flavour(asked: str) -> Flavour:
    """Resolve `--flavour auto`: TensorRT where it and a GPU are present, else TensorRT-RTX."""
    if asked != "auto":
        return Flavour(asked)
    has_tensorrt = optional.is_installed(_MODULE_OF[Flavour.TENSORRT])
    return Flavour.TENSORRT if has_tensorrt and local_sm() is not None else Flavour.RTX


def local_sm() -> int | None:
    """Compute capability times ten of the first GPU of this machine; None without one."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    # CUDA driver API: attributes 75 and 76 are the compute capability's major and minor numbers.
    calls = (
        lambda: cuda.cuInit(0),
        lambda: cuda.cuDeviceGet(ctypes.byref(device), 0),
        lambda: cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, device),
        lambda: cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, device),
    )
    if any(call() != 0 for call in calls):
        return None
    return major.value * 10 + minor.value


def installed_version(flavour: Flavour) -> str:
    """Version of the flavour's package, without importing it; "not installed" without one."""
    for package in _PACKAGES_OF[flavour]:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "not installed"


class Adapter:
    """One TensorRT package behind one interface."""

    def __init__(self, flavour: Flavour, module: ModuleType | None = None) -> None:
        """Import the package (or take `module` in tests).

        Raises:
            MissingPackageError: it is not installed.
        """
        self.flavour = flavour
        self._trt: Any = module if module is not None else optional.load(_MODULE_OF[flavour])

    @property
    def version(self) -> str:
        """Version of the imported package."""
        return str(self._trt.__version__)

    def build(self, request: BuildRequest, sink: ProgressSink) -> tuple[Any, str]:
        """Build an engine.

        Args:
            request: what to build; its ONNX file is strongly typed (precision is in the graph).
            sink: told of progress; can cancel.

        Returns:
            The engine (supports the buffer protocol) and the layer evidence text.

        Raises:
            EngineError: the parser or the builder refused; the message quotes it.
            TargetError: this flavour cannot build for that target.
            CancelledError: `sink` cancelled.
        """
        log = _make_logger(self._trt)
        self._register_plugins(log, request.plugin_libraries)
        builder = self._trt.Builder(log)
        network = builder.create_network(network_flags(self._trt))
        parser = self._trt.OnnxParser(network, log)
        if not parser.parse_from_file(request.onnx_path):
            raise EngineError(
                f"TensorRT cannot parse {Path(request.onnx_path).name!r} ({parser_errors(parser)})",
                wanted="operators and types it supports",
                todo="leave the named node out of the recipe, or export the model differently",
            )
        config = self._config(builder, request, sink)
        cache = self._load_timing_cache(config, request.timing_cache)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise CancelledError if sink_cancelled(sink) else self._failed(request, log)
        self._save_timing_cache(cache, config, request.timing_cache)
        return plan, self._evidence(plan, log)

    def _config(self, builder: Any, request: BuildRequest, sink: ProgressSink) -> Any:
        trt = self._trt
        config = builder.create_builder_config()
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        for flag in precision_flags(trt):
            config.set_flag(flag)
        if hasattr(config, "progress_monitor"):
            config.progress_monitor = _make_monitor(trt, sink)
        self._set_target(config, request.sm)
        profile = builder.create_optimization_profile()
        for shape in request.shapes:
            profile.set_shape(shape.name, shape.min, shape.opt, shape.max)
        config.add_optimization_profile(profile)
        return config

    def _set_target(self, config: Any, sm: int | None) -> None:
        if hasattr(config, "set_compute_capability"):
            name = f"SM{sm}"
            if sm is None or not hasattr(self._trt.ComputeCapability, name):
                raise TargetError(
                    f"TensorRT-RTX {self.version} has no target {name}",
                    wanted="a compute capability it lists",
                    todo="choose another --target",
                )
            config.num_compute_capabilities = 1
            config.set_compute_capability(getattr(self._trt.ComputeCapability, name), 0)
        elif sm is not None and sm != local_sm():
            raise TargetError(
                f"TensorRT builds for the card in this machine (SM{local_sm()}), not for SM{sm}",
                wanted="that card",
                todo="leave --target out, or pass --flavour rtx to build ahead of time",
            )

    def _register_plugins(self, log: Any, libraries: tuple[str, ...]) -> None:
        if hasattr(self._trt, "init_libnvinfer_plugins"):
            self._trt.init_libnvinfer_plugins(log, "")
        if libraries:
            registry = self._trt.get_plugin_registry()
            for library in libraries:
                registry.load_library(library)

    def _load_timing_cache(self, config: Any, path: str | None) -> Any:
        if path is None or self.flavour is Flavour.RTX:
            return None
        stored = Path(path).read_bytes() if Path(path).is_file() else b""
        cache = config.create_timing_cache(stored)
        config.set_timing_cache(cache, ignore_mismatch=False)
        return cache

    def _save_timing_cache(self, cache: Any, config: Any, path: str | None) -> None:
        if cache is None or path is None:
            return
        partial = Path(f"{path}.partial")
        partial.write_bytes(bytes(config.get_timing_cache().serialize()))
        partial.replace(path)

    def _evidence(self, plan: Any, log: Any) -> str:
        if self.flavour is Flavour.RTX:
            return layers_block.extract(log.messages)
        runtime = self._trt.Runtime(log)
        engine = runtime.deserialize_cuda_engine(plan)
        inspector = engine.create_engine_inspector()
        return str(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def _failed(self, request: BuildRequest, log: Any) -> EngineError:
        reason = " | ".join(log.errors[-3:]) or "no reason in its log"
        return EngineError(
            f"TensorRT {self.version} built no engine from {Path(request.onnx_path).name!r}"
            f" for SM{request.sm} ({reason})",
            wanted="a network it supports on this target",
            todo="try a smaller --shapes range or a recipe with fewer INT8 sites",
        )


def network_flags(trt: Any) -> int:
    """Creation flags by name: their numbers move between TensorRT versions."""
    flags = trt.NetworkDefinitionCreationFlag
    wanted = ("EXPLICIT_BATCH", "STRONGLY_TYPED")
    return sum(1 << int(getattr(flags, name)) for name in wanted if hasattr(flags, name))


def precision_flags(trt: Any) -> tuple[Any, ...]:
    """FP16 and INT8 builder flags, only where networks are not strongly typed (TensorRT 8.6)."""
    if hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        return ()
    return tuple(
        getattr(trt.BuilderFlag, name)
        for name in ("FP16", "INT8")
        if hasattr(trt.BuilderFlag, name)
    )


def parser_errors(parser: Any) -> str:
    """The parser's complaints in one line, with the node where the version tells it."""
    texts = []
    for index in range(min(parser.num_errors, 3)):
        error = parser.get_error(index)
        node = error.node_name() if hasattr(error, "node_name") else f"node {error.node()}"
        texts.append(f"{node}: {error.desc()}")
    return "; ".join(texts)


def sink_cancelled(sink: ProgressSink) -> bool:
    """Tell whether a sink asked to stop."""
    return bool(getattr(sink, "cancelled", False))


def _make_logger(trt: Any) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        """Keeps every message; shows nothing."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: list[str] = []
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            self.messages.append(message)
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(" ".join(message.split()))

    return Logger()


def _make_monitor(trt: Any, sink: ProgressSink) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Hands the builder's progress to `sink`."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            sink.phase(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return sink.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            sink.finish(phase_name)

    return Monitor()
