"""What an engine build needs and gives."""

from __future__ import annotations

from enum import Enum
from typing import Literal

from trt_int8.spec.base import Frozen
from trt_int8.spec.shapes import InputShape


class Flavour(str, Enum):
    """The two TensorRT products."""

    RTX = "rtx"
    TENSORRT = "tensorrt"


class BuildRequest(Frozen):
    """One engine to build, in a process of its own.

    Attributes:
        flavour: which TensorRT.
        onnx_path: strongly typed ONNX file.
        engine_path: where the engine goes; written whole or not at all.
        evidence_path: where the builder's layer listing goes (RTX: the VERBOSE `Layers:` block;
            TensorRT: engine inspector JSON).
        sm: compute capability to build for; None for the card in this machine.
        shapes: one optimization profile.
        timing_cache: file to read and update; None for none. No effect in TensorRT-RTX.
        plugin_libraries: shared libraries to register before parsing.
    """

    flavour: Flavour
    onnx_path: str
    engine_path: str
    evidence_path: str
    sm: int | None
    shapes: tuple[InputShape, ...]
    timing_cache: str | None = None
    plugin_libraries: tuple[str, ...] = ()


class BuildResult(Frozen):
    """What came out.

    Attributes:
        tensorrt_version: version of the package that built the engine.
        engine_bytes: size of the engine.
        build_seconds: wall time of the build.
    """

    tensorrt_version: str
    engine_bytes: int
    build_seconds: float


Precision = Literal["int8", "fp16"]
