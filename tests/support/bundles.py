"""A tiny bundle on disk."""

from __future__ import annotations

from pathlib import Path

from trt_int8.engine.bundle import list_files
from trt_int8.spec.build import Flavour
from trt_int8.spec.manifest import MANIFEST_NAME, Manifest, Policy, Verdict
from trt_int8.spec.recipe import Recipe

FILES = {"model.onnx": b"graph", "sm75/int8.engine": b"plan"}


def fill(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def manifest_of(folder: Path) -> Manifest:
    return Manifest(
        model="m",
        model_sha256="0",
        calibration_sha256="0",
        flavour=Flavour.RTX,
        tensorrt_version="1",
        engines=(),
        profiles=(),
        recipe=Recipe(),
        policy=Policy(),
        verdict=Verdict(recommended="int8", failures=()),
        packages={},
        files=list_files(folder),
    )


def make_bundle(folder: Path) -> Path:
    fill(folder, FILES)
    (folder / MANIFEST_NAME).write_text(manifest_of(folder).to_json(), encoding="utf-8")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    files = [p for p in folder.rglob("*") if p.is_file()]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
