"""The bundle's table of contents."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import Field, model_validator

from trt_int8.spec.base import Frozen
from trt_int8.spec.build import CalibratorName, Flavour, Precision
from trt_int8.spec.overflow import Overflow
from trt_int8.spec.plugins import PluginEntry
from trt_int8.spec.recipe import Recipe
from trt_int8.spec.shapes import Profile
from trt_int8.spec.text import TextSettings

MANIFEST_NAME = "manifest.json"
MANIFEST_FORMAT: Final = "trt_int8-bundle-3"
_FORMAT_1, _FORMAT_2 = "trt_int8-bundle-1", "trt_int8-bundle-2"


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
        plugins: our plugins that nodes of the INT8 graph call; to be registered before an engine
            of the flavour `tensorrt` is loaded. TensorRT-RTX has their bodies instead.
        plugin_libraries: shared libraries to load first, by file name with their sha256.
        text: how the model reads text; None if it does not, or came without a tokenizer. The
            tokenizer's files are in the bundle's folder `tokenizer`.
    """

    format: Literal["trt_int8-bundle-3"] = MANIFEST_FORMAT
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
    plugins: tuple[PluginEntry, ...] = ()
    plugin_libraries: dict[str, str] = Field(default_factory=dict)
    text: TextSettings | None = None
    files: dict[str, FileEntry]

    @model_validator(mode="before")
    @classmethod
    def _from_older_format(cls, data: Any) -> Any:
        """Read older manifests too.

        Format 1 had one profile, called `shapes`; up to format 2 `plugins` were the libraries.
        """
        if not isinstance(data, dict):
            return data
        given, changes = dict(data), {}
        if given.get("format") == _FORMAT_1 and "shapes" in given:
            changes = {"format": _FORMAT_2, "profiles": [given.pop("shapes")]}
        given |= changes
        if given.get("format") == _FORMAT_2:
            libraries = given.pop("plugins", {})
            given |= {"format": MANIFEST_FORMAT, "plugin_libraries": libraries}
        return given
