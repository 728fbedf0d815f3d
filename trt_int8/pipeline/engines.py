"""Build the engines of a bundle and prove what runs INT8 in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from trt_int8.engine import inspector, layers_block, selftest
from trt_int8.engine.build import build_engines
from trt_int8.engine.coverage import Evidence, cover
from trt_int8.engine.plan_text import read_plan
from trt_int8.errors import CoverageError
from trt_int8.model.onnx_matmuls import MatMulSite, find_matmuls
from trt_int8.pipeline.profiles import ChosenProfiles
from trt_int8.pipeline.progress import Reporter
from trt_int8.spec.build import BuildRequest, BuildResult, Flavour, ImplicitInt8, Precision
from trt_int8.spec.coverage import EngineCoverage
from trt_int8.spec.manifest import EngineEntry
from trt_int8.spec.shapes import Profile
from trt_int8.spec.targets import target_folder

PRECISIONS: tuple[Precision, ...] = ("int8", "fp16")


@dataclass(frozen=True)
class EngineJob:
    """What to build.

    Attributes:
        folder: staging folder of the bundle; holds `model.int8.onnx` and `model.fp16.onnx`.
        work: folder for files that do not go into the bundle.
        flavour: which TensorRT.
        sms: compute capabilities; (None,) for the local card.
        profiles: the optimization profiles of each engine, and their names.
        jobs: processes at once.
        timing_cache: file, or None.
        plugin_libraries: shared libraries.
        int8_path: the INT8 graph as TensorRT reads it; None for `model.int8.onnx` itself.
        uses_plugins: `int8_path` has nodes of our plugins.
        implicit: let TensorRT quantize the float graph (`model.fp32.onnx` in `work`) itself.
    """

    folder: Path
    work: Path
    flavour: Flavour
    sms: tuple[int | None, ...]
    profiles: ChosenProfiles
    jobs: int
    timing_cache: Path | None
    plugin_libraries: tuple[Path, ...]
    implicit: ImplicitInt8 | None = None
    int8_path: Path | None = None
    uses_plugins: bool = False

    def onnx_path(self, precision: Precision) -> Path:
        """The file that an engine is built from."""
        if precision == "int8" and self.int8_path is not None:
            return self.int8_path
        return self.folder / f"model.{precision}.onnx"


@dataclass(frozen=True)
class BuiltEngines:
    """Engines, what built them, and what runs INT8 in them."""

    entries: tuple[EngineEntry, ...]
    results: dict[str, BuildResult]
    coverage: tuple[EngineCoverage, ...]


def build_all(job: EngineJob, reporter: Reporter) -> BuiltEngines:
    """Build both twins for each target, and read their coverage.

    Raises:
        EngineError: TensorRT refused.
        CoverageError: the evidence cannot be read, or the reader failed its self-test.
    """
    requests = _requests(job) | (_control_requests(job) if job.flavour is Flavour.RTX else {})
    results = _build_with_bars(job, requests, reporter)
    entries, coverage = [], []
    with reporter.task("Reading what runs INT8"):
        if job.flavour is Flavour.RTX:
            for sm in job.sms:
                _self_test(job, sm, requests, results)
        for sm in job.sms:
            for precision in PRECISIONS:
                key = label(sm, precision)
                # What should run INT8 is in the Q/DQ graph, even if TensorRT got the float one.
                sites = find_matmuls(onnx.load(str(job.onnx_path(precision))))
                built = _Built(requests[key], results[key], job.profiles.labels)
                coverage.append(_coverage(sites, built, precision))
                path = Path(requests[key].engine_path).relative_to(job.folder)
                entries.append(EngineEntry(path=str(path), sm=sm, precision=precision))
    kept = {key: results[key] for key in _requests(job)}
    return BuiltEngines(tuple(entries), kept, tuple(coverage))


def label(sm: int | None, precision: str) -> str:
    """Name of an engine in progress bars and reports: "sm75 int8"."""
    return f"{target_folder(sm)} {precision}"


def _requests(job: EngineJob) -> dict[str, BuildRequest]:
    requests = {}
    for sm in job.sms:
        for precision in PRECISIONS:
            engine = job.folder / target_folder(sm) / f"{precision}.engine"
            engine.parent.mkdir(exist_ok=True)
            request = _request(job, job.onnx_path(precision), engine, (sm, job.profiles.profiles))
            if job.implicit is not None and precision == "int8":
                float_path = str(job.work / "model.fp32.onnx")
                changes = {"onnx_path": float_path, "implicit": job.implicit}
                request = request.model_copy(update=changes)
            elif precision == "int8":
                request = request.model_copy(update={"uses_plugins": job.uses_plugins})
            requests[label(sm, precision)] = request
    return requests


def _control_requests(job: EngineJob) -> dict[str, BuildRequest]:
    controls = {"positive": selftest.positive_control, "negative": selftest.negative_control}
    requests = {}
    for name, make in controls.items():
        onnx_path = job.work / f"{name}.onnx"
        onnx.save(make(), str(onnx_path))
        for sm in job.sms:
            engine = job.work / f"{name}.{target_folder(sm)}.engine"
            key = label(sm, f"self-test {name}")
            requests[key] = _request(job, onnx_path, engine, (sm, (selftest.SHAPES,)))
    return requests


def _request(
    job: EngineJob,
    onnx_path: Path,
    engine: Path,
    target: tuple[int | None, tuple[Profile, ...]],
) -> BuildRequest:
    sm, profiles = target
    return BuildRequest(
        flavour=job.flavour,
        onnx_path=str(onnx_path),
        engine_path=str(engine),
        evidence_path=str(job.work / f"{engine.parent.name}.{engine.name}.layers"),
        sm=sm,
        profiles=profiles,
        timing_cache=str(job.timing_cache) if job.timing_cache else None,
        plugin_libraries=tuple(str(p) for p in job.plugin_libraries),
    )


def _build_with_bars(
    job: EngineJob, requests: Mapping[str, BuildRequest], reporter: Reporter
) -> dict[str, BuildResult]:
    """One bar over all engines: each counts 1 when whole."""
    done = dict.fromkeys(requests, 0.0)
    own = len(job.sms) * len(PRECISIONS)
    title = f"Building {own} engines" + (" + self-test" if len(requests) > own else "")
    with reporter.task(title, len(requests)) as advance:

        def progress(name: str, fraction: float) -> None:
            advance(max(fraction - done[name], 0.0))
            done[name] = max(fraction, done[name])

        return build_engines(requests, job.jobs, progress)


def _self_test(
    job: EngineJob,
    sm: int | None,
    requests: Mapping[str, BuildRequest],
    results: Mapping[str, BuildResult],
) -> None:
    seen = []
    for name in ("positive", "negative"):
        key = label(sm, f"self-test {name}")
        sites = find_matmuls(onnx.load(requests[key].onnx_path))
        seen.append(_coverage(sites, _Built(requests[key], results[key], ("",)), "int8"))
    selftest.check(*seen)


@dataclass(frozen=True)
class _Built:
    """An engine, and the names of its profiles."""

    request: BuildRequest
    result: BuildResult
    profiles: tuple[str, ...]


def _coverage(sites: tuple[MatMulSite, ...], built: _Built, precision: Precision) -> EngineCoverage:
    request, result = built.request, built.result
    text = Path(request.evidence_path).read_text(encoding="utf-8")
    if request.flavour is Flavour.RTX:
        plan = read_plan(Path(request.engine_path))
        if plan.sms != (request.sm,):
            raise CoverageError(
                f"the engine for SM{request.sm} says it is for SM {plan.sms}",
                wanted="that one target",
                todo="install the TensorRT-RTX version that the constraints file pins",
            )
        evidence = Evidence(
            source="builder log, confirmed by the plan",
            version=result.tensorrt_version,
            layers=layers_block.parse(text),
            operators=plan.operators,
        )
    else:
        evidence = Evidence(
            "engine inspector", result.tensorrt_version, inspector.parse(text), None
        )
    return cover(sites, evidence, precision, request.sm, built.profiles)
