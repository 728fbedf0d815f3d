"""What the runtimes on the CPU are told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trt_int8.runtime.tensors import Shape


@dataclass(frozen=True)
class CpuOptions:
    """Threads and workers.

    Attributes:
        threads: of all workers together.
        workers: requests that run at the same time, each with its share of the threads.
        shapes: of every input by name; a model is compiled for each. Empty: one for all shapes.
    """

    threads: int
    workers: int = 1
    shapes: tuple[Mapping[str, Shape], ...] = ()
