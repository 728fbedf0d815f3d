"""The only module that loads a TensorRT package: TensorRT-RTX or TensorRT 8.6 to 11.

Differences between versions are probed with `hasattr`, never by comparing version strings.
TensorRT needs a GPU to build; that path has not been run on one here, but every name it uses is
checked against NVIDIA's own bindings (`tests/engine/test_tensorrt_contract.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from trt_int8 import optional
from trt_int8.engine import layers_block
from trt_int8.engine.flavour import MODULE_OF, local_sm
from trt_int8.engine.implicit import attach_calibrator, check_implicit
from trt_int8.engine.plugins import register_plugins
from trt_int8.engine.plugins.libraries import register_libraries
from trt_int8.errors import CancelledError, EngineError, TargetError
from trt_int8.files import write_whole
from trt_int8.spec.build import BuildRequest, Flavour
from trt_int8.spec.shapes import Profile, describe


class ProgressSink:
    """Receives the builder's progress.

    Attributes:
        cancelled: the build is to stop; `step` then answers False.
    """

    cancelled = False

    def phase(self, name: str, parent: str | None, steps: int) -> None:
        """A phase of `steps` steps begins inside `parent`."""

    def step(self, name: str, step: int) -> bool:
        """Step number `step` of phase `name` is done."""
        return not self.cancelled

    def finish(self, name: str) -> None:
        """Phase `name` is done."""


class Adapter:
    """One TensorRT package behind one interface."""

    def __init__(self, flavour: Flavour, module: ModuleType | None = None) -> None:
        """Import the package (or take `module` in tests).

        Raises:
            MissingPackageError: it is not installed.
        """
        self.flavour = flavour
        self._trt: Any = module if module is not None else optional.load(MODULE_OF[flavour])

    @property
    def version(self) -> str:
        """Version of the imported package."""
        return str(self._trt.__version__)

    def build(self, request: BuildRequest, sink: ProgressSink) -> tuple[Any, str]:
        """Build an engine.

        Args:
            request: what to build; its ONNX file is strongly typed (precision is in the graph),
                unless it asks for implicit INT8.
            sink: told of progress; can cancel.

        Returns:
            The engine (supports the buffer protocol) and the layer evidence text.

        Raises:
            EngineError: the parser or the builder refused; the message quotes it.
            PluginError: this TensorRT cannot carry our plugins.
            TargetError: this flavour cannot build for that target, or has no implicit INT8.
            CalibrationError: the batches for implicit INT8 do not fit the network.
            CancelledError: `sink` cancelled.
        """
        if request.implicit is not None:
            check_implicit(self.flavour, self._trt)
        log = _make_logger(self._trt)
        self._check_target(request.sm)
        register_libraries(self._trt, log, request.plugin_libraries)
        if request.uses_plugins:
            register_plugins(self._trt)
        with self._starting(log):
            builder = self._trt.Builder(log)
        typed = request.implicit is None
        network = builder.create_network(network_flags(self._trt, strongly_typed=typed))
        parser = self._trt.OnnxParser(network, log)
        if not parser.parse_from_file(request.onnx_path):
            raise EngineError(
                f"TensorRT cannot parse {Path(request.onnx_path).name!r} ({parser_errors(parser)})",
                wanted="operators and types it supports",
                todo="leave the named node out of the recipe, or export the model differently",
            )
        config = self._config(builder, network, request, sink)
        cache = None if self.flavour is Flavour.RTX else request.timing_cache
        if cache is not None:
            _load_timing_cache(config, Path(cache))
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise CancelledError if sink.cancelled else self._failed(request, log)
        if cache is not None:
            _save_timing_cache(config, Path(cache))
        return plan, self._evidence(plan, log)

    def _config(self, builder: Any, network: Any, request: BuildRequest, sink: ProgressSink) -> Any:
        trt = self._trt
        config = builder.create_builder_config()
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        for flag in precision_flags(trt, strongly_typed=request.implicit is None):
            config.set_flag(flag)
        if hasattr(trt.PreviewFeature, "PROFILE_SHARING_0806"):
            # The runtime has several contexts per profile; from TensorRT 10 on every engine may.
            config.set_preview_feature(trt.PreviewFeature.PROFILE_SHARING_0806, enable=True)
        if hasattr(config, "progress_monitor"):
            config.progress_monitor = _make_monitor(trt, sink)
        self._set_target(config, request.sm)
        made = [self._profile(builder, config, profile) for profile in request.profiles]
        if request.implicit is not None:
            first = request.profiles[0]  # TensorRT calibrates at one shape: its `opt`
            attach_calibrator(trt, config, network, made[0], request.implicit, first)
        return config

    def _profile(self, builder: Any, config: Any, profile: Profile) -> Any:
        made = builder.create_optimization_profile()
        for shape in profile:
            made.set_shape(shape.name, shape.min, shape.opt, shape.max)
        if config.add_optimization_profile(made) < 0:
            raise EngineError(
                f"TensorRT {self.version} refuses the profile {describe([profile])}",
                wanted="sizes that fit the network's inputs",
                todo="correct --shapes",
            )
        return made

    def _check_target(self, sm: int | None) -> None:
        # Only TensorRT-RTX builds for other cards than the one in this machine.
        if hasattr(self._trt, "ComputeCapability"):
            name = f"SM{sm}"
            if sm is None or not hasattr(self._trt.ComputeCapability, name):
                raise TargetError(
                    f"TensorRT-RTX {self.version} has no target {name}",
                    wanted="a compute capability it lists",
                    todo="choose another --target",
                )
        elif sm is not None and sm != local_sm():
            raise TargetError(
                f"TensorRT builds for the card in this machine (SM{local_sm()}), not for SM{sm}",
                wanted="that card",
                todo="leave --target out, or pass --flavour rtx to build ahead of time",
            )

    def _set_target(self, config: Any, sm: int | None) -> None:
        if hasattr(config, "set_compute_capability"):
            name = f"SM{sm}"  # `_check_target` saw that it is there
            config.num_compute_capabilities = 1
            config.set_compute_capability(getattr(self._trt.ComputeCapability, name), 0)

    @contextlib.contextmanager
    def _starting(self, log: Any) -> Iterator[None]:
        try:
            yield
        except TypeError as error:
            # What the bindings raise when CUDA does not start: no GPU, or too old a driver.
            raise EngineError(
                f"TensorRT {self.version} cannot start ({log.reason() or error})",
                wanted="an NVIDIA GPU and a driver new enough for this TensorRT",
                todo="check nvidia-smi, or pass --flavour rtx to build without a GPU",
            ) from error

    def _evidence(self, plan: Any, log: Any) -> str:
        if self.flavour is Flavour.RTX:
            return layers_block.extract(log.messages)
        runtime = self._trt.Runtime(log)
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise EngineError(
                f"TensorRT {self.version} cannot load the engine it just built"
                f" ({log.reason() or 'no reason in the log'})",
                wanted="an engine that loads on this card",
                todo="check the free GPU memory, then report this with --debug",
            )
        inspector = engine.create_engine_inspector()
        return str(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def _failed(self, request: BuildRequest, log: Any) -> EngineError:
        todo = "try a smaller --shapes range or a recipe with fewer INT8 sites"
        if request.implicit is not None:
            cache = Path(request.implicit.cache_path).name
            todo = (
                f"if it names the calibration, delete {cache!r} (it may be of another TensorRT) and"
                " run this again, or leave --implicit-int8 out"
            )
        return EngineError(
            f"TensorRT {self.version} built no engine from {Path(request.onnx_path).name!r}"
            f" for SM{request.sm} ({log.reason() or 'no reason in its log'})",
            wanted="a network it supports on this target",
            todo=todo,
        )


def network_flags(trt: Any, *, strongly_typed: bool = True) -> int:
    """Creation flags by name: their numbers move between TensorRT versions."""
    flags = trt.NetworkDefinitionCreationFlag
    # Our plugins can run from Python too; without a preference TensorRT refuses such ones.
    typed = ("STRONGLY_TYPED", "PREFER_AOT_PYTHON_PLUGINS") if strongly_typed else ()
    wanted = ("EXPLICIT_BATCH", *typed)
    return sum(1 << int(getattr(flags, name)) for name in wanted if hasattr(flags, name))


def precision_flags(trt: Any, *, strongly_typed: bool = True) -> tuple[Any, ...]:
    """FP16 and INT8 builder flags, only where the network is not strongly typed.

    TensorRT 8.6 has no such networks, and implicit INT8 wants none.
    """
    if strongly_typed and hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        return ()
    return tuple(
        getattr(trt.BuilderFlag, name)
        for name in ("FP16", "INT8")
        if hasattr(trt.BuilderFlag, name)
    )


def parser_errors(parser: Any) -> str:
    """The parser's complaints in one line, with node and operator where the version tells."""
    texts = []
    for index in range(min(parser.num_errors, 3)):
        error = parser.get_error(index)
        node = error.node_name() if hasattr(error, "node_name") else f"node {error.node()}"
        operator = f" ({error.node_operator()})" if hasattr(error, "node_operator") else ""
        texts.append(f"{node}{operator}: {error.desc()}")
    return "; ".join(texts)


def _load_timing_cache(config: Any, path: Path) -> None:
    # A missing folder is found out now, not after the build.
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = path.read_bytes() if path.is_file() else b""
    if not config.set_timing_cache(config.create_timing_cache(stored), ignore_mismatch=False):
        # It is of another card or version: start anew.
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


def _save_timing_cache(config: Any, path: Path) -> None:
    cache = config.get_timing_cache()
    if cache is not None:
        write_whole(path, bytes(cache.serialize()))


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

        def reason(self) -> str:
            """The last errors in one line; empty without any."""
            return " | ".join(self.errors[-3:])

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
