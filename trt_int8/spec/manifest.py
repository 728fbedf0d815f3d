"""The bundle's table of contents."""

from __future__ import annotations

from typing import Final, Literal

from trt_int8.spec.base import Frozen
from trt_int8.spec.build import CalibratorName, Flavour, Precision
from trt_int8.spec.recipe import Recipe
from trt_int8.spec.shapes import InputShape

MANIFEST_NAME = "manifest.json"
MANIFEST_FORMAT: Final = "trt_int8-bundle-1"


class FileEntry(Frozen):
    """One file of the bundle."""

    sha256: str
    size_bytes: int


class EngineEntry(Frozen):
    """One engine: where it is and what it fits."""

    path: str
    sm: int | None
    precision: Precision


class Policy(Frozen):
    """What the user asked for.

    Attributes:
        min_coverage: share of Linear and attention matmuls that must run INT8.
        min_cosine: mean cosine of INT8 against FP16 on the primary output.
    """

    min_coverage: float = 1.0
    min_cosine: float = 0.97


class Verdict(Frozen):
    """Whether the INT8 engines meet the policy.

    Attributes:
        recommended: the precision to deploy.
        failures: one sentence per missed point, naming nodes.
        warnings: what meets the policy but may cost speed.
    """

    recommended: Precision
    failures: tuple[str, ...]
    warnings: tuple[str, ...] = ()


class Manifest(Frozen):
    """What is in a bundle and what it was made from. Written last.

    Attributes:
        implicit_int8: calibrator with which TensorRT quantized the float graph itself; None for
            explicit Q/DQ.
        files: every other file of the bundle, by path inside it.
        packages: versions of the packages that made it.
        plugins: shared libraries to load first, by file name with their sha256.
    """

    format: Literal["trt_int8-bundle-1"] = MANIFEST_FORMAT
    model: str
    model_sha256: str
    calibration_sha256: str
    flavour: Flavour
    tensorrt_version: str
    engines: tuple[EngineEntry, ...]
    shapes: tuple[InputShape, ...]
    recipe: Recipe
    implicit_int8: CalibratorName | None = None
    policy: Policy
    verdict: Verdict
    packages: dict[str, str]
    plugins: dict[str, str]
    files: dict[str, FileEntry]
