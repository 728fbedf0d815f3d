"""The ranges of a build: from a file, from the cache, or calibrated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trt_int8 import __version__
from trt_int8.calibrate import cache
from trt_int8.calibrate.collector import NumberedBatches, Statistics
from trt_int8.calibrate.estimate.choose import find_range, needs_of
from trt_int8.calibrate.ray_shards import collect_with_ray
from trt_int8.calibrate.smoothing import choose_factors, peaks_of, smoothing_factors
from trt_int8.calibrate.statistics import Needs, TensorStatistics, merged
from trt_int8.calibrate.tensorrt_cache import read_any
from trt_int8.errors import CalibrationError
from trt_int8.pipeline.entrance import Entrance
from trt_int8.pipeline.options import BuildOptions
from trt_int8.pipeline.progress import Reporter
from trt_int8.pipeline.residual_guard import refuse_one_sided
from trt_int8.spec.methods import Method
from trt_int8.spec.ranges import AffineRange, RangeTable, TensorRange
from trt_int8.spec.smoothing import AUTO, Alpha, Factors, Smoothing

_PLACEHOLDER = TensorRange(amax=1.0, peak=1.0)


def choose_ranges(entrance: Entrance, options: BuildOptions, reporter: Reporter) -> RangeTable:
    """Ranges from the file the user named, else from the cache folder, else calibrated now.

    A recipe with residual sums calibrates in any case: only statistics show outliers.

    Raises:
        CalibrationError: the file or the cache is damaged or of something else.
        RangeError: a tensor has no usable range.
        RecipeError: it quantizes residual sums that have one-sided outliers.
    """
    guarded = options.recipe.is_guarded
    if options.ranges is not None:
        table = read_ranges(options.ranges, entrance)
        _smooth_as(table, entrance, options, reporter)
        if guarded:
            _check_residuals(entrance, options, Needs(), reporter)
        return table
    alpha = options.recipe.alpha
    wanted = empty_table(entrance, options.recipe.calibration.parsed(), Smoothing.planned(alpha))
    groups = entrance.smoothing_groups() if alpha else ()
    if alpha and options.recipe.keep:
        # Linears that are kept read other values than those beside them, which are divided.
        groups = (*groups, options.recipe.keep)
    path = cache.cache_path(options.cache, wanted, groups) if options.cache is not None else None
    stored = cache.load(path, wanted) if path is not None and not guarded else None
    if stored is not None:
        if stored.smoothing is not None:
            entrance.smooth(stored.smoothing.arrays())
        reporter.note(f"ranges taken from {path}")
        return stored
    smoothing = smooth_model(entrance, alpha, options.ray, reporter)
    method = options.recipe.calibration.parsed()
    needs = needs_of([method])
    if guarded:
        statistics = _check_residuals(entrance, options, needs, reporter)
    else:
        statistics = collect(entrance, needs, options.ray, reporter)
    ranges = find_symmetric(entrance, statistics, method, reporter)
    table = wanted.model_copy(update={"ranges": ranges, "smoothing": smoothing})
    if path is not None:
        try:
            cache.save(path, table)
        except OSError as error:  # the ranges are at hand: a read-only folder is no reason to stop
            reporter.note(f"ranges not kept in {path.parent} ({error.strerror})")
    return table


def _check_residuals(
    entrance: Entrance, options: BuildOptions, needs: Needs, reporter: Reporter
) -> Statistics:
    """Collect what is needed, and refuse one-sided outliers of residual sums by it."""
    with_histogram = replace(needs, histogram=True)
    statistics = collect(entrance, with_histogram, options.ray, reporter)
    refuse_one_sided(options.recipe, entrance.residual_sites, statistics)
    return statistics


def _smooth_as(
    table: RangeTable, entrance: Entrance, options: BuildOptions, reporter: Reporter
) -> None:
    """Smooth the model by the factors of a range file, whatever the recipe says."""
    if table.smoothing is not None:
        factors = table.smoothing.arrays()
        entrance.smooth(factors)
        reporter.note(f"{len(factors)} inputs of Linear layers are smoothed as the range file says")
    elif options.recipe.alpha:
        reporter.note("nothing is smoothed: the range file has no factors")


def smooth_model(
    entrance: Entrance, alpha: Alpha | Literal[0], ray: str | None, reporter: Reporter
) -> Smoothing | None:
    """Find the factors of all sites that gain by it, and smooth the model by them.

    Args:
        entrance: its statistics are those of the smoothed model from then on.
        alpha: of the recipe; 0 does nothing.
        ray: address of a cluster, or None.
        reporter: told of progress.

    Raises:
        RangeError: a tensor holds NaN or infinity.
    """
    if not alpha:
        return None
    groups = entrance.smoothing_groups()
    if not groups:
        return Smoothing.of(alpha, {})
    if alpha == AUTO and len(entrance.data.calibration) == 1:
        reporter.note("nothing is smoothed: auto needs two batches of calibration data, pass more")
        return Smoothing.of(alpha, {})
    halves = _halves(entrance, Needs(histogram=False, rows=alpha == AUTO), ray, reporter)
    weights, factors = entrance.weights(), dict[str, Factors]()
    with reporter.task("Smoothing", len(groups)) as advance:
        for group in groups:
            seen = [merged(half[site] for site in group if site in half) for half in halves]
            # Sites that are one tensor have one array of weights.
            parts = {id(weights[site]): weights[site] for site in group}
            chosen = _factors(seen, np.concatenate(list(parts.values()), axis=1), alpha)
            if chosen is not None:
                factors |= dict.fromkeys(group, chosen)
            advance(1)
    entrance.smooth(factors)
    count = sum(len(group) for group in groups)
    reporter.note(f"smoothed {len(factors)} of {count} inputs of Linear layers")
    return Smoothing.of(alpha, factors)


def _factors(
    seen: list[TensorStatistics | None], weight: NDArray[np.float32], alpha: Alpha
) -> Factors | None:
    first, second = seen
    if alpha == AUTO:
        if first is None or second is None:
            return None
        return choose_factors((first, second), weight)
    whole = merged(each for each in seen if each is not None)
    peaks = None if whole is None else peaks_of(whole, len(weight))
    return None if peaks is None else smoothing_factors(peaks, weight, alpha)


def _halves(
    entrance: Entrance, needs: Needs, ray: str | None, reporter: Reporter
) -> tuple[Statistics, Statistics]:
    """Statistics of every other batch, and of the rest; empty where there are no batches."""
    batches = tuple(enumerate(entrance.data.calibration))
    found = [
        collect(entrance, needs, ray, reporter, batches[start::2], "Looking at the channels")
        for start in range(2)
        if batches[start::2]
    ]
    found += [{}] * (2 - len(found))
    return found[0], found[1]


def collect(
    entrance: Entrance,
    needs: Needs,
    ray: str | None,
    reporter: Reporter,
    batches: NumberedBatches | None = None,
    task: str = "Calibrating",
) -> Statistics:
    """Statistics of all sites, here or on a Ray cluster.

    Args:
        entrance: the model.
        needs: which statistics.
        ray: address of a cluster, or None.
        reporter: told of progress.
        batches: those of the calibration data to run, with their numbers; None for all.
        task: what is told.

    Raises:
        RangeError: a tensor holds NaN or infinity.
    """
    if batches is None:
        batches = tuple(enumerate(entrance.data.calibration))
    with reporter.task(task, len(batches)) as advance:
        if ray is not None:
            return collect_with_ray(ray, entrance.tensors, batches, needs, advance)
        return entrance.tensors.collect(batches, needs, lambda: advance(1))


def find_symmetric(
    entrance: Entrance, statistics: Statistics, method: Method, reporter: Reporter
) -> dict[str, TensorRange]:
    """One amax per site.

    Raises:
        RangeError: no data reached a site, or only zeros did.
    """
    found = find_all(entrance, statistics, method, reporter)
    return {name: each for name, each in found.items() if isinstance(each, TensorRange)}


def find_all(
    entrance: Entrance, statistics: Statistics, method: Method, reporter: Reporter
) -> dict[str, TensorRange | AffineRange]:
    """One range per site, symmetric or affine as the method is.

    Raises:
        RangeError: no data reached a site, or only zeros did.
    """
    weights = entrance.weights() if method.kind.weight else {}
    found: dict[str, TensorRange | AffineRange] = {}
    # Sites with the same tensor have the same statistics and weights: search once.
    known: dict[tuple[int, int], TensorRange | AffineRange] = {}
    with reporter.task(f"Choosing ranges ({method.label})", len(entrance.sites)) as advance:
        for name in entrance.sites:
            weight = weights.get(name)
            key = (id(statistics.get(name)), id(weight))
            if key not in known:
                known[key] = find_range(name, statistics.get(name), method, weight)
            found[name] = known[key]
            advance(1)
    return found


def empty_table(entrance: Entrance, method: Method, smoothing: Smoothing | None) -> RangeTable:
    """What a range table of this model, data, method, smoothing and version says of itself."""
    return RangeTable(
        method=method.label,
        samples=entrance.data.samples,
        model_sha256=entrance.source.sha256(),
        data_sha256=entrance.data.sha256(),
        versions={"trt_int8": __version__},
        ranges=dict.fromkeys(entrance.sites, _PLACEHOLDER),
        smoothing=smoothing,
    )


def read_ranges(path: Path, entrance: Entrance) -> RangeTable:
    """Ranges from a file of ours or a TensorRT cache, for exactly this model's sites.

    Raises:
        CalibrationError: it is damaged, of another model, or lacks a tensor.
    """
    table = read_any(path)
    if table.model_sha256 not in ("", entrance.source.sha256()):
        raise CalibrationError(
            f"ranges {str(path)!r} are of another model",
            wanted=f"ranges of {entrance.source.name!r}",
            todo="pass the file made from this model, or leave --ranges out",
        )
    missing = [name for name in entrance.sites if name not in table.ranges]
    if missing:
        raise CalibrationError(
            f"ranges {str(path)!r} lack {missing[0]!r} ({len(missing)} of"
            f" {len(entrance.sites)} tensors missing)",
            wanted="a range for each tensor to be quantized, by its name in the ONNX graph",
            todo="pass the .onnx file the ranges are of as --model, or name it in 'keep'",
        )
    used = {name: table.ranges[name] for name in entrance.sites}
    return table.model_copy(update={"ranges": used})
