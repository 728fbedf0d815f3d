"""Look into a bundle, an engine or a listing of layers, without a GPU."""

from __future__ import annotations

from pathlib import Path

from google.protobuf.message import DecodeError
from pydantic import TypeAdapter, ValidationError

from trt_int8.engine.inspection import (
    inspect_confirmed,
    inspect_listing,
    inspect_plan,
    inspect_recorded,
)
from trt_int8.engine.manifest_reader import read_manifest
from trt_int8.errors import BundleError, CoverageError, TrtInt8Error
from trt_int8.model.onnx_weights import onnx_weights
from trt_int8.spec.build import Flavour
from trt_int8.spec.coverage import EngineCoverage
from trt_int8.spec.inspection import EngineInspection, Inspection, OnnxInspection
from trt_int8.spec.manifest import EngineEntry, Manifest

_COVERAGE = TypeAdapter(tuple[EngineCoverage, ...])
_COVERAGE_NAME = "coverage.json"
_REBUILD = "build the bundle again"
_NOT_READABLE = (
    "TensorRT's own engines cannot be read without a GPU: kernels other than those of the matmuls,"
    " and bytes of weights inside the engine, are not shown; trtexec --exportLayerInfo=FILE.json"
    " --profilingVerbosity=detailed on the card writes a listing that this command reads"
)
_ALONE = (
    "no ONNX file beside it: attentions that are not one kernel look like other matmuls, and what"
    " was to run INT8 is not known; inspect the bundle for that"
)


def run_inspect(path: Path) -> Inspection:
    """Read everything that is known about the engines at a path.

    Args:
        path: a bundle folder, a TensorRT-RTX engine, or engine inspector JSON.

    Raises:
        TrtInt8Error: there is nothing, or it is damaged, changed or of an unknown form.
    """
    if path.is_dir():
        return _inspect_bundle(path)
    if not path.is_file():
        raise BundleError(
            f"no file or folder {str(path)!r}",
            wanted="a bundle folder, an .engine file, or engine inspector JSON",
            todo="check the path",
        )
    with path.open("rb") as stream:
        start = stream.read(64)
    if start.lstrip()[:1] == b"{":
        return _one(path, inspect_listing(path), "listing")
    if start[:4] != b"vtrt":
        raise CoverageError(
            f"{str(path)!r} is not a TensorRT-RTX engine",
            wanted="a bundle folder, a TensorRT-RTX engine, or engine inspector JSON",
            todo="for an engine of TensorRT, which cannot be read without a GPU, pass what"
            " trtexec --exportLayerInfo=FILE.json --profilingVerbosity=detailed writes",
        )
    return _one(path, inspect_plan(path), "engine")


def choose(inspection: Inspection, name: str | None) -> tuple[EngineInspection, ...]:
    """The engine of a name such as `sm75/int8` (or `sm75/int8.engine`); all for None.

    Raises:
        BundleError: there is none of that name.
    """
    if name is None:
        return inspection.engines
    wanted = name.strip().lower().removesuffix(".engine").replace(" ", "/")
    found = tuple(e for e in inspection.engines if e.name.removesuffix(".engine") == wanted)
    if not found:
        known = ", ".join(engine.name for engine in inspection.engines)
        raise BundleError(f"no engine {name!r} here", wanted=f"one of {known}", todo="correct it")
    return found


def _one(path: Path, engine: EngineInspection, source: str) -> Inspection:
    notes = [_ALONE]
    if not engine.matmuls:
        notes.append("no kernel is known to be a matmul")
    return Inspection.model_validate(
        {
            "path": str(path),
            "source": source,
            "model": None,
            "onnx": (),
            "engines": (engine,),
            "notes": tuple(notes),
        }
    )


def _inspect_bundle(path: Path) -> Inspection:
    manifest = read_manifest(path)
    recorded = _coverage(path, manifest)
    readable = manifest.flavour is Flavour.RTX
    look = inspect_confirmed if readable else inspect_recorded
    engines = tuple(
        look(recorded[entry.sm, entry.precision], path / entry.path, entry.path)
        for entry in manifest.engines
    )
    return Inspection(
        path=str(path),
        source="bundle",
        model=manifest.model,
        onnx=_graphs(path, manifest),
        engines=engines,
        notes=(*_plugin_notes(manifest), *(() if readable else (_NOT_READABLE,))),
    )


def _plugin_notes(manifest: Manifest) -> tuple[str, ...]:
    """Which plugin nodes `model.int8.onnx` has, and who runs them."""
    if not manifest.plugins:
        return ()
    named = ", ".join(f"{each.nodes} {each.id}" for each in manifest.plugins)
    runs = (
        "TensorRT-RTX runs none: its engines have the operators that they stand for"
        if manifest.flavour is Flavour.RTX
        else "TensorRT runs them, and they are not among the matmuls above"
    )
    return (f"plugin nodes in model.int8.onnx: {named}; {runs}",)


def _coverage(path: Path, manifest: Manifest) -> dict[tuple[int | None, str], EngineCoverage]:
    if _COVERAGE_NAME not in manifest.files:
        raise BundleError(
            f"bundle {str(path)!r} lists no {_COVERAGE_NAME}",
            wanted="the coverage of every engine",
            todo=_REBUILD,
        )
    try:
        listed = _COVERAGE.validate_json((path / _COVERAGE_NAME).read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BundleError(
            f"{_COVERAGE_NAME} of {str(path)!r} cannot be read ({where} {first['msg']})",
            wanted="one written by this version",
            todo=_REBUILD,
        ) from error
    found: dict[tuple[int | None, str], EngineCoverage] = {
        (each.sm, each.precision): each for each in listed
    }
    for entry in manifest.engines:
        if (entry.sm, entry.precision) not in found:
            raise _without_coverage(path, entry)
    return found


def _without_coverage(path: Path, entry: EngineEntry) -> TrtInt8Error:
    return BundleError(
        f"{_COVERAGE_NAME} of {str(path)!r} says nothing of engine {entry.path!r}",
        wanted="the coverage of every engine",
        todo=_REBUILD,
    )


def _graphs(path: Path, manifest: Manifest) -> tuple[OnnxInspection, ...]:
    graphs = []
    for precision in ("int8", "fp16"):
        file = f"model.{precision}.onnx"
        if file not in manifest.files:
            continue
        try:
            weights = onnx_weights(path / file)
        except DecodeError as error:
            raise BundleError(
                f"{file!r} of bundle {str(path)!r} is no ONNX file", wanted="one", todo=_REBUILD
            ) from error
        size = manifest.files[file].size_bytes
        graphs.append(
            OnnxInspection(precision=precision, file=file, size_bytes=size, weights=weights)
        )
    return tuple(graphs)
