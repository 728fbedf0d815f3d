"""What an engine build needs and gives."""

from __future__ import annotations

from enum import Enum
from typing import Literal

from trt_int8.spec.base import Frozen
from trt_int8.spec.shapes import Profile


class Flavour(str, Enum):
    """The two TensorRT products."""

    RTX = "rtx"
    TENSORRT = "tensorrt"


CalibratorName = Literal["entropy2", "minmax"]


class ImplicitInt8(Frozen):
    """INT8 without Q/DQ nodes, from the ranges of a calibration cache: TensorRT 8.6 to 10 only.

    TensorRT chooses itself what runs INT8. What it compiles as one block with Myelin, as it does
    with Transformer layers, ignores the ranges and runs in floating point, and no message says so.
    Only the coverage that is read from the engine tells what really runs INT8.

    Attributes:
        calibrator: which calibrator the cache is of: IInt8EntropyCalibrator2 or
            IInt8MinMaxCalibrator.
        cache_path: TensorRT's text cache, of exactly this TensorRT version and calibrator. If it
            is there, TensorRT takes its ranges and calibrates nothing; else it calibrates, and
            the file is written.
        batches_path: .npz with the batches to calibrate on, read only without a cache. Arrays are
            named "<index, six digits>.<input>", int64 [B, S]; each has the `opt` shape of its
            input, for TensorRT calibrates at that shape only.
    """

    calibrator: CalibratorName
    cache_path: str
    batches_path: str


class BuildRequest(Frozen):
    """One engine to build, in a process of its own.

    Attributes:
        flavour: which TensorRT.
        onnx_path: strongly typed ONNX file; with `implicit`, one without Q/DQ nodes.
        engine_path: where the engine goes; written whole or not at all.
        evidence_path: where the builder's layer listing goes (RTX: the VERBOSE `Layers:` block;
            TensorRT: engine inspector JSON).
        sm: compute capability to build for; None for the card in this machine.
        profiles: the optimization profiles, at least one, in the order the engine has them.
        timing_cache: file to read and update; None for none. No effect in TensorRT-RTX.
        plugin_libraries: shared libraries to register before parsing.
        uses_plugins: the file has nodes of our own plugins, to be registered before parsing.
        implicit: let TensorRT place INT8 by a calibration cache; None for what the graph says.
    """

    flavour: Flavour
    onnx_path: str
    engine_path: str
    evidence_path: str
    sm: int | None
    profiles: tuple[Profile, ...]
    timing_cache: str | None = None
    plugin_libraries: tuple[str, ...] = ()
    uses_plugins: bool = False
    implicit: ImplicitInt8 | None = None


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
