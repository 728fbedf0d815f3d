"""OpenVINO: INT8 kernels for the Q/DQ graph on x86 and ARM CPUs."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from numpy.typing import NDArray

from trt_int8 import optional
from trt_int8.errors import SessionError, first_line
from trt_int8.runtime.backend import Feeds, Outputs
from trt_int8.runtime.cpu.keys import transpose_keys
from trt_int8.runtime.cpu.options import CpuOptions
from trt_int8.runtime.pool import WorkerPool
from trt_int8.runtime.tensors import Shape

_KERNELS_KEPT = "CPU_RUNTIME_CACHE_CAPACITY"
# MiniLM takes about 20 for a shape, so that some 50 shapes stay: more than a bundle has buckets.
_MOST_KERNELS = 1000


class OpenVinoBackend:
    """One compiled model with an inference request per worker; several threads may call it.

    Without fixed shapes the model keeps its dynamic axes: OpenVINO prepares each new shape once
    (some ms) and remembers it, and the weights exist once. A model compiled for one shape is faster
    (docs/runtime.md), because more of it is fused, and its keys need no Transpose (`keys.py`); its
    float32 sums are rounded elsewhere, so answers with and without fixed shapes differ by as much
    as INT8 rounding does.
    """

    def __init__(self, model: bytes, outputs: tuple[str, ...], options: CpuOptions) -> None:
        """Compile.

        Args:
            model: an ONNX file without functions.
            outputs: names of its outputs.
            options: threads, workers and shapes.

        Raises:
            MissingPackageError: OpenVINO is not installed.
            SessionError: it refuses the model.
        """
        openvino = optional.load("openvino")
        self.workers = options.workers
        self.name = f"OpenVINO {openvino.__version__.split('-')[0]}"
        self._tensor = openvino.Tensor
        try:
            core = openvino.Core()
            graph = transpose_keys(model, options.shapes) if options.shapes else model
            opened = core.read_model(graph, b"")
            settings = _settings(options)
            self._models = [
                compiled(core, _reshaped(opened, shapes), settings)
                for shapes in options.shapes or ({},)
            ]
        except RuntimeError as error:
            raise self._failed("cannot compile the model", error) from error
        self._inputs = tuple(port.any_name for port in self._models[0].inputs)
        # A port has the names of all nodes that were folded into it, so none is its own.
        ports = [port.names for port in self._models[0].outputs]
        self._outputs = {
            name: next(index for index, names in enumerate(ports) if name in names)
            for name in outputs
        }
        # The key of the model for all shapes is empty.
        keys = [tuple(shapes[name] for name in self._inputs) for shapes in options.shapes] or [()]
        self._requests = [
            {key: made.create_infer_request() for key, made in zip(keys, self._models, strict=True)}
            for _ in range(self.workers)
        ]
        self._is_fixed = bool(options.shapes)
        self._pool = WorkerPool(self._infer, self.workers, "openvino")

    @property
    def compiled_model(self) -> Any:
        """OpenVINO's own object of the first shape, to look at what it made of the graph."""
        return self._models[0]

    def run(self, feeds: Feeds) -> Outputs:
        """See `Backend.run`."""
        return self._pool.run(feeds)

    def submit(self, feeds: Feeds) -> Future[Outputs]:
        """See `Backend.submit`."""
        return self._pool.submit(feeds)

    def close(self) -> None:
        """See `Backend.close`."""
        if self._pool.close():
            self._requests.clear()
            self._models.clear()

    def _infer(self, worker: int, feeds: Feeds) -> Outputs:
        shape = tuple(feeds[name].shape for name in self._inputs) if self._is_fixed else ()
        request = self._requests[worker][shape]
        # Input arrays are read in place; the worker is this thread's until the outputs are out.
        tensors = [self._tensor(_shared(feeds[name]), shared_memory=True) for name in self._inputs]
        try:
            for index, tensor in enumerate(tensors):
                request.set_input_tensor(index, tensor)
            request.infer()
            # The next request on this worker overwrites what is not copied.
            return {
                name: request.get_output_tensor(index).data.copy()
                for name, index in self._outputs.items()
            }
        except RuntimeError as error:
            raise self._failed("cannot run the request", error) from error

    def _failed(self, what: str, error: RuntimeError) -> SessionError:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        # What went wrong stands below the places in its source where it was noticed.
        told = [line for line in lines if not line.startswith(("Exception from", "Check 'false'"))]
        reason = " ".join(told[:4]) or first_line(error)
        return SessionError(
            f"{self.name} {what} ({reason})",
            wanted="operators and sizes it supports",
            todo="correct the request, or open the session with the other CPU runtime",
        )


def compiled(core: Any, model: Any, settings: Mapping[str, Any]) -> Any:
    """The model, compiled for the CPU with a bound on what OpenVINO remembers of its shapes.

    Its own bound is 5000 kernels, a gigabyte and more of a small model after some hundred shapes.
    It is no documented setting, so a version that does not know it goes without.
    """
    try:
        return core.compile_model(model, "CPU", {**settings, _KERNELS_KEPT: _MOST_KERNELS})
    except RuntimeError as error:
        if _KERNELS_KEPT not in str(error):
            raise
        return core.compile_model(model, "CPU", dict(settings))


def _reshaped(model: Any, shapes: Mapping[str, Shape]) -> Any:
    """A copy for fixed shapes that shares the weights; the model itself without shapes."""
    if not shapes:
        return model
    copy = model.clone()
    copy.reshape({name: list(shape) for name, shape in shapes.items()})
    return copy


def _shared(array: NDArray[Any]) -> NDArray[Any]:
    """What OpenVINO shares: it takes no memory that may not be written, though it only reads."""
    return array if array.flags.writeable else array.copy()


def _settings(options: CpuOptions) -> dict[str, Any]:
    return {
        "INFERENCE_NUM_THREADS": options.threads,
        # One stream per worker: a request then has its cores to itself.
        "NUM_STREAMS": options.workers,
        "PERFORMANCE_HINT": "LATENCY" if options.workers == 1 else "THROUGHPUT",
        # CPUs with AMX would compute all that is not INT8 in bfloat16: hardly faster
        # (docs/runtime.md), and other answers than every other CPU gives.
        "INFERENCE_PRECISION_HINT": "f32",
    }
