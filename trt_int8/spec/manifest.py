"""The bundle's table of contents."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import model_validator

from trt_int8.spec.base import Frozen
from trt_int8.spec.build import CalibratorName, Flavour, Precision
from trt_int8.spec.overflow import Overflow
from trt_int8.spec.recipe import Recipe
from trt_int8.spec.shapes import Profile

MANIFEST_NAME = "manifest.json"
MANIFEST_FORMAT: Final = "trt_int8-bundle-2"
_FORMAT_1 = "trt_int8-bundle-1"


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
        min_coverage: share of the Linear and attention matmuls that must run INT8; those left in
            float on purpose are not counted.
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
        profiles: optimization profiles of every engine, in the order of their index.
        notes: what the build decided by itself, and why: profiles split, tensors kept out of
            float16.
        overflow: tensors that float16 may not hold, and what was done about them.
        files: every other file of the bundle, by path inside it.
        packages: versions of the packages that made it.
        plugins: shared libraries to load first, by file name with their sha256.
    """

    format: Literal["trt_int8-bundle-2"] = MANIFEST_FORMAT
    model: str
    model_sha256: str
    calibration_sha256: str
    flavour: Flavour
    tensorrt_version: str
    engines: tuple[EngineEntry, ...]
    profiles: tuple[Profile, ...]
    recipe: Recipe
    implicit_int8: CalibratorName | None = None
    policy: Policy
    verdict: Verdict
    notes: tuple[str, ...] = ()
    overflow: tuple[Overflow, ...] = ()
    packages: dict[str, str]
    plugins: dict[str, str]
    files: dict[str, FileEntry]

    @model_validator(mode="before")
    @classmethod
    def _from_format_1(cls, data: Any) -> Any:
        """Read a manifest of format 1 too: it had one profile, called `shapes`."""
        if not isinstance(data, dict) or data.get("format") != _FORMAT_1 or "shapes" not in data:
            return data
        rest = {name: value for name, value in data.items() if name != "shapes"}
        return {**rest, "format": MANIFEST_FORMAT, "profiles": [data["shapes"]]}
