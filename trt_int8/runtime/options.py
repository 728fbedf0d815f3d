"""How a session is opened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trt_int8.errors import RequestError

CpuRuntime = Literal["auto", "openvino", "onnxruntime"]


@dataclass(frozen=True)
class SessionOptions:
    """What most callers leave as it is.

    Attributes:
        shapes: (samples, tokens) of the batches that are run. On a CPU each is compiled for itself
            (some tenths of a second, and memory for its weights), which is faster than a model
            for all shapes; on a GPU they are the CUDA graphs. Requests are padded to the next one,
            larger ones are cut into several. Empty: any shape runs, each length padded to the
            next of `Buckets`.
        threads: on a CPU, of all workers together; None for one per core of this process.
        runtime: on a CPU; `auto` is OpenVINO, and ONNX Runtime where that is not installed.
    """

    shapes: tuple[tuple[int, int], ...] = ()
    threads: int | None = None
    runtime: CpuRuntime = "auto"

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            RequestError: a size is not positive, or the runtime is unknown.
        """
        if self.threads is not None and self.threads < 1:
            raise RequestError(
                f"threads is {self.threads}", wanted="1 or more, or None", todo="correct it"
            )
        wrong = [shape for shape in self.shapes if len(shape) != 2 or min(shape) < 1]
        if wrong:
            raise RequestError(
                f"shapes has {wrong[0]}",
                wanted="pairs of (samples, tokens), 1 or more each",
                todo="write, for example, shapes=((1, 32), (8, 128))",
            )
        if self.runtime not in ("auto", "openvino", "onnxruntime"):
            raise RequestError(
                f"runtime is {self.runtime!r}",
                wanted="'auto', 'openvino' or 'onnxruntime'",
                todo="correct it",
            )
