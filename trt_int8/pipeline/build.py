"""The main job: model in, verified bundle out."""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
from google.protobuf.message import EncodeError

from trt_int8.engine.bundle import (
    check_destination,
    copy_libraries,
    list_files,
    resolve_out,
    staging,
)
from trt_int8.engine.flavour import check_available, choose_flavour, local_sm
from trt_int8.engine.implicit import check_implicit
from trt_int8.errors import GraphError, TargetError, first_line
from trt_int8.evaluate.compare import TwinFiles, compare, float_outputs
from trt_int8.evaluate.report import ReportData, write_report
from trt_int8.files import write_whole
from trt_int8.graph.half import to_half
from trt_int8.model.source import ModelSource, resolve_source
from trt_int8.pipeline.data import PreparedModel
from trt_int8.pipeline.engines import BuiltEngines, EngineJob, build_all
from trt_int8.pipeline.expected import mark_left
from trt_int8.pipeline.implicit import write_implicit
from trt_int8.pipeline.options import BuildOptions
from trt_int8.pipeline.overflow import FoundOverflows, find_overflows
from trt_int8.pipeline.plugins import choose_plugins, fuse_twin
from trt_int8.pipeline.prepare import prepare
from trt_int8.pipeline.profiles import choose_profiles, plan_notes
from trt_int8.pipeline.progress import Reporter
from trt_int8.pipeline.text import save_text
from trt_int8.pipeline.verdict import judge
from trt_int8.spec.accuracy import AccuracyReport
from trt_int8.spec.build import Flavour
from trt_int8.spec.coverage import EngineCoverage
from trt_int8.spec.manifest import MANIFEST_NAME, Manifest
from trt_int8.spec.overflow import Overflow
from trt_int8.spec.plugins import PluginEntry
from trt_int8.spec.shapes import describe
from trt_int8.spec.targets import check_rtx_targets, parse_targets
from trt_int8.spec.text import TextSettings

DEFAULT_TARGETS = "t4,a100"
_RECORDED_PACKAGES = (
    "trt-int8",
    "torch",
    "transformers",
    "onnx",
    "onnxruntime",
    "polygraphy",
    "pytorch-quantization",
    "tensorrt-rtx-cu13",
    "tensorrt",
)


@dataclass(frozen=True)
class BuildOutcome:
    """What the main job delivered."""

    bundle: Path
    manifest: Manifest
    coverage: tuple[EngineCoverage, ...]
    accuracy: AccuracyReport


def run_build(options: BuildOptions, reporter: Reporter) -> BuildOutcome:
    """Build a bundle.

    Args:
        options: what the user chose.
        reporter: told of progress.

    Returns:
        The bundle; its manifest says whether the policy was met.

    Raises:
        TrtInt8Error: nothing was delivered, and nothing half-written was left.
    """
    options.check()
    source = resolve_source(options.model)
    flavour = choose_flavour(options.flavour)
    check_available(flavour)
    if options.implicit_int8 is not None:
        check_implicit(flavour)
    sms = _targets(options, flavour)
    plugins = choose_plugins(options.recipe.plugins, flavour)
    out = resolve_out(options.out or Path("engines") / source.name)
    check_destination(out, force=options.force)
    options = options.model_copy(
        update={
            "sms": sms,
            "flavour": flavour.value,
            "plugin_attention": "attention" in plugins.families,
        }
    )
    prepared = prepare(source, options, reporter)
    with staging(out) as folder:
        work = folder / ".work"
        work.mkdir()
        found = find_overflows(prepared, reporter)
        int8 = to_half(prepared.int8, found.int8)
        fused = fuse_twin(int8, plugins, prepared, options, work)
        profiles = choose_profiles(prepared, options, fused.model if fused.uses_plugins else None)
        twins = _write_twins(prepared, found, fused.model, (folder, work), reporter)
        text = save_text(source, options, twins.int8, profiles.profiles, reporter)
        job = EngineJob(
            folder=folder,
            work=work,
            flavour=flavour,
            sms=sms,
            profiles=profiles,
            jobs=options.jobs,
            timing_cache=options.timing_cache,
            plugin_libraries=options.plugin_libraries,
            implicit=write_implicit(prepared, options, folder, work),
            int8_path=fused.engine_path,
            uses_plugins=fused.uses_plugins,
        )
        built = build_all(job, reporter)
        built = replace(built, coverage=mark_left(built.coverage, prepared, options.recipe))
        accuracy = _measure(prepared, twins, reporter)
        notes = (*profiles.notes, *found.notes, *fused.notes)
        decided = Decided(notes, found.overflow, fused.entries, text)
        for note in decided.notes:
            reporter.note(note)
        manifest = _finish(folder, options, (source, prepared, built, accuracy, decided), job)
    return BuildOutcome(out, manifest, built.coverage, accuracy)


@dataclass(frozen=True)
class Decided:
    """What the build decided by itself: sentences, tensors kept out of float16, plugins, task."""

    notes: tuple[str, ...]
    overflow: tuple[Overflow, ...]
    plugins: tuple[PluginEntry, ...] = ()
    text: TextSettings | None = None


def _targets(options: BuildOptions, flavour: Flavour) -> tuple[int | None, ...]:
    if flavour is Flavour.RTX:
        targets = options.targets or parse_targets(DEFAULT_TARGETS)
        check_rtx_targets(targets)
        return tuple(target.sm for target in targets)
    here = local_sm()
    for target in options.targets or ():
        if target.sm != here:
            raise TargetError(
                f"target {target.name!r} is SM{target.sm}, the card in this machine is SM{here}",
                wanted="that card (TensorRT builds on the card it builds for)",
                todo="leave --target out, or pass --flavour rtx to build ahead of time",
            )
    return (here,)


def _write_twins(
    prepared: PreparedModel,
    found: FoundOverflows,
    int8: onnx.ModelProto,
    folders: tuple[Path, Path],
    reporter: Reporter,
) -> TwinFiles:
    folder, work = folders
    with reporter.task("Making the FP16 twins", 2) as advance:
        twins = TwinFiles(
            fp32=work / "model.fp32.onnx",
            fp16=folder / "model.fp16.onnx",
            int8=folder / "model.int8.onnx",
        )
        _save(prepared.fp32, twins.fp32)
        _save(to_half(prepared.fp32, found.fp32), twins.fp16)
        advance(1)
        _save(int8, twins.int8)
    return twins


def _save(model: onnx.ModelProto, path: Path) -> None:
    try:
        onnx.save(model, str(path))
    except (ValueError, EncodeError) as error:
        raise GraphError(
            f"{path.name!r} cannot be written as one file ({first_line(error)})",
            wanted="a model under 2 GB in float32 (the limit of an ONNX file)",
            todo="build a smaller model, or the layers of this one in parts",
        ) from error


def _measure(prepared: PreparedModel, twins: TwinFiles, reporter: Reporter) -> AccuracyReport:
    outputs = float_outputs(prepared.fp32)
    with reporter.task("Comparing INT8, FP16, FP32", 3 * len(prepared.held_out)) as advance:
        return compare(twins, prepared.held_out, outputs, lambda: advance(1))


def _finish(
    folder: Path,
    options: BuildOptions,
    parts: tuple[ModelSource, PreparedModel, BuiltEngines, AccuracyReport, Decided],
    job: EngineJob,
) -> Manifest:
    """Write reports, drop the work files, and write the manifest last."""
    source, prepared, built, accuracy, decided = parts
    verdict = judge(options.policy, built.coverage, accuracy, plan_notes(prepared.placement))
    data = ReportData(
        model=source.name,
        flavour=job.flavour,
        coverage=built.coverage,
        accuracy=accuracy,
        ranges=prepared.ranges,
        verdict=verdict,
        recipe=options.recipe,
        shapes=describe(job.profiles.profiles),
        builds=built.results,
        notes=decided.notes,
        overflow=decided.overflow,
    )
    coverage = [engine.model_dump(mode="json") for engine in built.coverage]
    (folder / "coverage.json").write_text(json.dumps(coverage, indent=1) + "\n", encoding="utf-8")
    (folder / "accuracy.json").write_text(accuracy.to_json(), encoding="utf-8")
    if prepared.ranges is not None:
        (folder / "ranges.json").write_text(prepared.ranges.to_json(), encoding="utf-8")
    write_report(folder / "report.html", data)
    libraries = copy_libraries(folder, options.plugin_libraries)
    _remove(job.work)
    manifest = Manifest(
        model=source.name,
        model_sha256=source.sha256(),
        calibration_sha256=prepared.calibration_sha256,
        flavour=job.flavour,
        tensorrt_version=next(iter(built.results.values())).tensorrt_version,
        engines=built.entries,
        profiles=job.profiles.profiles,
        recipe=options.recipe,
        implicit_int8=options.implicit_int8,
        policy=options.policy,
        verdict=verdict,
        notes=decided.notes,
        overflow=decided.overflow,
        packages=_package_versions(),
        plugins=decided.plugins,
        plugin_libraries=libraries,
        text=decided.text,
        files=list_files(folder),
    )
    write_whole(folder / MANIFEST_NAME, manifest.to_json().encode())
    return manifest


def _remove(work: Path) -> None:
    for file in work.iterdir():
        file.unlink()
    work.rmdir()


def _package_versions() -> dict[str, str]:
    versions = {}
    for package in _RECORDED_PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
