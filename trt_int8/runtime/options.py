"""How a session is opened."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Literal

from trt_int8.errors import RequestError

CpuRuntime = Literal["auto", "openvino", "onnxruntime"]


@dataclass(frozen=True)
class SessionOptions:
    """What most callers leave as it is.

    Attributes:
        shapes: (samples, tokens) of the batches that are run. On a CPU each is compiled for itself
            (some tenths of a second, and memory for its weights), which is faster than a model
            for all shapes; on a GPU they are the CUDA graphs, and inputs and outputs get memory for
            the largest. Requests are padded to the next one, larger ones are cut into several.
            Empty: any shape runs, each length padded to the next of `Buckets`.
        threads: on a CPU, of all workers together; None for one per core of this process.
        runtime: on a CPU; `auto` is OpenVINO, and ONNX Runtime where that is not installed.
        graphs: on a GPU, how many (samples, tokens) each worker keeps ready; the one used longest
            ago goes first.
        cuda_graphs: on a GPU, whether CUDA graphs are used: less latency, more memory.
    """

    shapes: tuple[tuple[int, int], ...] = ()
    threads: int | None = None
    runtime: CpuRuntime = "auto"
    graphs: int = 32
    cuda_graphs: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            RequestError: a size is not positive, or the runtime is unknown.
        """
        if self.threads is not None and not is_count(self.threads):
            raise RequestError(
                f"threads is {self.threads!r}", wanted="1 or more, or None", todo="correct it"
            )
        if not is_count(self.graphs):
            raise RequestError(f"graphs is {self.graphs!r}", wanted="1 or more", todo="correct it")
        wrong = [shape for shape in self.shapes if not _is_shape(shape)]
        if wrong:
            raise RequestError(
                f"shapes has {wrong[0]!r}",
                wanted="pairs of (samples, tokens), 1 or more each",
                todo="write, for example, shapes=((1, 32), (8, 128))",
            )
        if self.runtime not in ("auto", "openvino", "onnxruntime"):
            raise RequestError(
                f"runtime is {self.runtime!r}",
                wanted="'auto', 'openvino' or 'onnxruntime'",
                todo="correct it",
            )


def is_count(value: object) -> bool:
    """Whether it is a whole number, 1 or more."""
    return isinstance(value, Integral) and int(value) >= 1


def _is_shape(shape: object) -> bool:
    return isinstance(shape, tuple) and len(shape) == 2 and all(map(is_count, shape))
