"""The calibration study: several methods on one model, side by side, so that people can choose."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from trt_int8.calibrate import cache
from trt_int8.calibrate.collector import Statistics
from trt_int8.calibrate.estimate.choose import needs_of
from trt_int8.calibrate.statistics import Needs
from trt_int8.calibrate.study import method_result, study_tensor
from trt_int8.errors import CalibrationError, TrtInt8Error
from trt_int8.evaluate.calibration_page import write_calibration_page
from trt_int8.evaluate.compare import output_cosines
from trt_int8.files import write_whole
from trt_int8.model.source import resolve_source
from trt_int8.pipeline.data import PreparedModel
from trt_int8.pipeline.entrance import Entrance
from trt_int8.pipeline.options import CalibrateOptions
from trt_int8.pipeline.prepare import enter
from trt_int8.pipeline.progress import Reporter
from trt_int8.pipeline.ranges import collect, empty_table, find_all, smooth_model
from trt_int8.spec.methods import Method
from trt_int8.spec.ranges import AffineRange, RangeTable, TensorRange
from trt_int8.spec.study import STUDY_PAGE, CalibrationStudy, MethodResult, recommend

STUDY_NAME = "calibration.json"
_PAGE = STUDY_PAGE

Ranges = Mapping[str, TensorRange | AffineRange]


@dataclass(frozen=True)
class CalibrationOutcome:
    """What a study delivered.

    Attributes:
        folder: where `calibration.html`, `calibration.json` and one `ranges.<method>.json` per
            symmetric method are.
        study: the figures.
    """

    folder: Path
    study: CalibrationStudy


@dataclass(frozen=True)
class _Found:
    """Ranges of one method, or why there are none."""

    method: Method
    seconds: float
    ranges: Ranges
    failure: TrtInt8Error | None = None


def run_calibrate(options: CalibrateOptions, reporter: Reporter) -> CalibrationOutcome:
    """Collect statistics once, try every method on them, and measure each on held-out texts.

    Raises:
        CalibrationError: the model came with Q/DQ, or the folder holds results already.
        TrtInt8Error: of the stage that failed, or of the method if none gave ranges.
    """
    source = resolve_source(options.model)
    folder = options.out or Path("calibration") / source.name
    targets = [folder / name for name in (_PAGE, STUDY_NAME)]
    existing = [path for path in targets if path.exists()]
    if existing and not options.force:
        raise CalibrationError(
            f"{str(existing[0])!r} exists",
            wanted="a folder without results of an older study",
            todo="pass --force to replace them, or another --out",
        )
    entrance = enter(source, options, reporter)
    if isinstance(entrance, PreparedModel):
        raise CalibrationError(
            f"{source.name!r} came with Q/DQ and ranges of its own",
            wanted="a float model",
            todo="pass --requantize to take them out, or pass the float model",
        )
    smoothing = smooth_model(entrance, options.recipe.alpha, options.ray, reporter)
    # The page draws a histogram of every tensor, whatever the methods need.
    needs = Needs(histogram=True, rows=needs_of(options.methods).rows)
    statistics = collect(entrance, needs, options.ray, reporter)
    found = [_find(entrance, statistics, method, reporter) for method in options.methods]
    failures = [each.failure for each in found if each.failure is not None]
    if len(failures) == len(found):
        raise failures[0]
    study = _study(entrance, statistics, found, options, reporter)
    _write(folder, study, found, partial(empty_table, entrance, smoothing=smoothing))
    return CalibrationOutcome(folder, study)


def _find(entrance: Entrance, statistics: Statistics, method: Method, reporter: Reporter) -> _Found:
    start = time.perf_counter()
    try:
        ranges = find_all(entrance, statistics, method, reporter)
    except TrtInt8Error as error:
        return _Found(method, time.perf_counter() - start, {}, error)
    return _Found(method, time.perf_counter() - start, ranges)


def _study(
    entrance: Entrance,
    statistics: Statistics,
    found: list[_Found],
    options: CalibrateOptions,
    reporter: Reporter,
) -> CalibrationStudy:
    with reporter.task("Looking at the tensors", len(entrance.sites)) as advance:
        tensors = []
        for name in entrance.sites:
            ranges = {each.method.label: each.ranges[name] for each in found if each.ranges}
            tensors.append(study_tensor(name, statistics[name], ranges))
            advance(1)
    results = [
        method_result(
            each.method, tensors, each.seconds, str(each.failure) if each.failure else None
        )
        for each in found
    ]
    methods = _measured(entrance, found, results, reporter)
    return CalibrationStudy(
        model=entrance.source.name,
        model_sha256=entrance.source.sha256(),
        data_sha256=entrance.data.sha256(),
        samples=entrance.data.samples,
        texts_held_out=sum(len(next(iter(b.values()))) for b in entrance.data.held_out),
        recipe=options.recipe,
        methods=methods,
        tensors=tuple(tensors),
        recommended=recommend(methods),
    )


def _measured(
    entrance: Entrance, found: list[_Found], results: list[MethodResult], reporter: Reporter
) -> tuple[MethodResult, ...]:
    """Add the cosine of the model's output on the held-out texts, for symmetric methods."""
    held_out = entrance.data.held_out
    measured = []
    with reporter.task("Trying the ranges", len(found) + 1) as advance:
        reference = entrance.answers(None, held_out)
        advance(1)
        for each, result in zip(found, results, strict=True):
            ranges = _symmetric(each.ranges)
            advance(1)
            if not ranges:
                measured.append(result)
                continue
            cosines = output_cosines(reference, entrance.answers(ranges, held_out), held_out)
            measured.append(
                result.model_copy(
                    update={
                        "output_cosine_mean": float(np.mean(cosines)),
                        "output_cosine_min": float(np.min(cosines)),
                    }
                )
            )
    return tuple(measured)


def _symmetric(ranges: Ranges) -> dict[str, TensorRange]:
    return {name: each for name, each in ranges.items() if isinstance(each, TensorRange)}


def _write(
    folder: Path,
    study: CalibrationStudy,
    found: list[_Found],
    table_of: Callable[[Method], RangeTable],
) -> None:
    """Every file whole; the page, which people look for, last.

    Of an older study nothing stays that could be taken for a part of this one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    old = set(folder.glob("ranges.*.json")) if (folder / STUDY_NAME).exists() else set()
    for each in found:
        ranges = _symmetric(each.ranges)
        if ranges:
            path = folder / ranges_name(each.method)
            cache.save(path, table_of(each.method).model_copy(update={"ranges": ranges}))
            old.discard(path)
    for path in old:
        path.unlink()
    write_whole(folder / STUDY_NAME, study.to_json().encode())
    write_calibration_page(folder / _PAGE, study)


def ranges_name(method: Method) -> str:
    """File name of a method's ranges: `ranges.percentile-99.99.json`."""
    return f"ranges.{re.sub(r'[^a-z0-9.-]+', '-', method.label)}.json"
