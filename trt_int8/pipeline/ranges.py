"""The ranges of a build: from a file, from the cache, or calibrated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from trt_int8 import __version__
from trt_int8.calibrate import cache
from trt_int8.calibrate.collector import Statistics
from trt_int8.calibrate.estimate.choose import find_range, needs_of
from trt_int8.calibrate.ray_shards import collect_with_ray
from trt_int8.calibrate.statistics import Needs
from trt_int8.calibrate.tensorrt_cache import read_any
from trt_int8.errors import CalibrationError
from trt_int8.pipeline.entrance import Entrance
from trt_int8.pipeline.options import BuildOptions
from trt_int8.pipeline.progress import Reporter
from trt_int8.pipeline.residual_guard import refuse_one_sided
from trt_int8.spec.methods import Method
from trt_int8.spec.ranges import AffineRange, RangeTable, TensorRange

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
        if guarded:
            _check_residuals(entrance, options, Needs(), reporter)
        return table
    wanted = empty_table(entrance, options.recipe.calibration.parsed())
    path = cache.cache_path(options.cache, wanted) if options.cache is not None else None
    stored = cache.load(path, wanted) if path is not None and not guarded else None
    if stored is not None:
        reporter.note(f"ranges taken from {path}")
        return stored
    method = options.recipe.calibration.parsed()
    needs = needs_of([method])
    if guarded:
        statistics = _check_residuals(entrance, options, needs, reporter)
    else:
        statistics = collect(entrance, needs, options.ray, reporter)
    ranges = find_symmetric(entrance, statistics, method, reporter)
    table = wanted.model_copy(update={"ranges": ranges})
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


def collect(entrance: Entrance, needs: Needs, ray: str | None, reporter: Reporter) -> Statistics:
    """Statistics of all sites over the calibration batches, here or on a Ray cluster.

    Raises:
        RangeError: a tensor holds NaN or infinity.
    """
    batches = tuple(enumerate(entrance.data.calibration))
    with reporter.task("Calibrating", len(batches)) as advance:
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


def empty_table(entrance: Entrance, method: Method) -> RangeTable:
    """What a range table of this model, data, method and version says of itself."""
    return RangeTable(
        method=method.label,
        samples=entrance.data.samples,
        model_sha256=entrance.source.sha256(),
        data_sha256=entrance.data.sha256(),
        versions={"trt_int8": __version__},
        ranges=dict.fromkeys(entrance.sites, _PLACEHOLDER),
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
