"""ONNX Runtime: runs every bundle, for machines without OpenVINO."""

from __future__ import annotations

from concurrent.futures import Future

import onnxruntime

from trt_int8.errors import SessionError, first_line
from trt_int8.runtime.backend import Feeds, Outputs
from trt_int8.runtime.cpu.options import CpuOptions
from trt_int8.runtime.pool import WorkerPool


class OnnxRuntimeBackend:
    """One inference session; several threads may call it."""

    def __init__(self, model: bytes, options: CpuOptions) -> None:
        """Load.

        Args:
            model: an ONNX file.
            options: threads and workers.

        Raises:
            SessionError: ONNX Runtime refuses the model.
        """
        self.workers = options.workers
        self.name = f"ONNX Runtime {onnxruntime.__version__}"
        settings = onnxruntime.SessionOptions()
        # The callers compute too, as many as there are workers; all share the session's threads.
        settings.intra_op_num_threads = max(1, options.threads - options.workers + 1)
        settings.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                model, settings, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise self._failed("cannot load the model", error) from error
        self._outputs = [value.name for value in self._session.get_outputs()]
        self._pool = WorkerPool(self._infer, self.workers, "onnxruntime")

    def run(self, feeds: Feeds) -> Outputs:
        """See `Backend.run`."""
        return self._pool.run(feeds)

    def submit(self, feeds: Feeds) -> Future[Outputs]:
        """See `Backend.submit`."""
        return self._pool.submit(feeds)

    def close(self) -> None:
        """See `Backend.close`."""
        if self._pool.close():
            del self._session

    def _infer(self, _worker: int, feeds: Feeds) -> Outputs:
        try:
            arrays = self._session.run(self._outputs, dict(feeds))
        except Exception as error:
            raise self._failed("cannot run the request", error) from error
        return dict(zip(self._outputs, arrays, strict=True))

    def _failed(self, what: str, error: Exception) -> SessionError:
        return SessionError(
            f"{self.name} {what} ({first_line(error)})",
            wanted="operators and sizes it supports",
            todo="correct the request, or install OpenVINO: pip install 'trt-int8[openvino]'",
        )
