"""Range tables from and to the calibration caches of TensorRT (up to TensorRT 10)."""

from __future__ import annotations

import math
import re
import statistics
from pathlib import Path

from trt_int8.calibrate import cache
from trt_int8.calibrate.tensorrt_text import CALIBRATORS, TensorRTCache, parse
from trt_int8.errors import CalibrationError, RangeError
from trt_int8.spec.ranges import RangeTable, TensorRange

DEFAULT_VERSION = "10.14.1"
_QMAX = 127
_METHOD_PREFIX = "tensorrt:"
# See check_plausible.
_ABSURD_SHARE = 0.9
_ABSURD_MEDIAN = 8.0


def check_plausible(found: TensorRTCache, source: str = "TensorRT calibration cache") -> None:
    """Refuse scales that were written as 127 / amax, as some scripts do.

    Read as amax / 127, such a number gives 16129 / amax in place of amax. Refused is a cache where
    at least 9 in 10 scales are above 1 (amax above 127), though nearly every network has bounded
    tensors (softmax, normalized sums), and their median is above 8 (amax above 1016), while the
    other reading gives a common one (a median amax below 16). Zeros do not count.

    Raises:
        CalibrationError: the scales look like their reciprocals.
    """
    scales = [scale for scale in found.scales.values() if scale > 0]
    if not scales:
        return
    above_one = sum(scale > 1 for scale in scales)
    median = statistics.median(scales)
    if above_one >= _ABSURD_SHARE * len(scales) and median > _ABSURD_MEDIAN:
        raise CalibrationError(
            f"{source}: {above_one} of {len(scales)} scales are above 1, so half of the tensors"
            f" would reach {median * _QMAX:.4g}; as 127 / amax they would reach"
            f" {_QMAX / median:.4g}",
            wanted="scales of amax / 127",
            todo="mend the script that wrote them, or add --trust if they are right",
        )


def to_ranges(found: TensorRTCache, model_sha256: str) -> RangeTable:
    """A range table of the cache: amax = scale * 127, exactly.

    Tensors with scale 0 have no range: they are only in `order` (see `RangeTable.without_range`).

    Args:
        found: the cache.
        model_sha256: hash of the model it belongs to; empty if unknown.
    """
    amaxes = {name: scale * _QMAX for name, scale in found.scales.items() if scale > 0}
    return RangeTable(
        method=_METHOD_PREFIX + found.calibrator,
        samples=0,
        model_sha256=model_sha256,
        data_sha256="",
        versions={"tensorrt": found.version},
        ranges={name: TensorRange(amax=amax, peak=amax) for name, amax in amaxes.items()},
        order=tuple(found.scales),
    )


def from_ranges(
    table: RangeTable, version: str | None = None, calibrator: str | None = None
) -> TensorRTCache:
    """The cache that gives TensorRT the ranges of a table.

    Tensors stand in the table's `order`, with scale 0 where it has no range, else sorted.

    Args:
        table: the ranges.
        version: of the TensorRT that is to read it, for it refuses other versions' files; None for
            the one that wrote the ranges, else `DEFAULT_VERSION`.
        calibrator: TensorRT wants the name of its calibrator's class; None for the one that made
            the ranges, else EntropyCalibration2.

    Raises:
        CalibrationError: the text format cannot hold the version, the calibrator or a name, or
            ranges of smoothed tensors.
        RangeError: a scale is 0 or infinite in float32; the message names the tensor.
    """
    if table.smoothing is not None and table.smoothing.factors:
        raise CalibrationError(
            f"{len(table.smoothing.factors)} tensors of these ranges are smoothed",
            wanted="ranges of the model's own tensors: TensorRT's cache has no place for factors",
            todo="calibrate with smooth = 0 in the recipe",
        )
    made_by = table.method.removeprefix(_METHOD_PREFIX)
    if calibrator is None:
        calibrator = CALIBRATORS[0] if made_by == table.method else made_by
    scales: dict[str, float] = {}
    for name in dict.fromkeys([*table.order, *sorted(table.ranges)]):
        scales[name] = table.ranges[name].scale if name in table.ranges else 0.0
        if name in table.ranges and (scales[name] == 0 or math.isinf(scales[name])):
            raise RangeError(
                f"the range of {name!r} has amax {table.ranges[name].amax}: its scale is"
                f" {scales[name]} in float32",
                wanted="a finite scale > 0",
                todo="leave the tensor out of the recipe",
            )
    version = version or table.versions.get("tensorrt", DEFAULT_VERSION)
    return TensorRTCache(version, calibrator, scales)


def is_tensorrt(path: Path) -> bool:
    """Whether a file is TensorRT's text rather than JSON, as far as its first line tells.

    Raises:
        CalibrationError: it cannot be read.
    """
    # The second form is a cache that lost its header.
    return re.match(rb"TRT-|[^\n]+: [0-9A-Fa-f]{1,8}\n", _read(path)) is not None


def read_any(path: Path, *, trust: bool = False) -> RangeTable:
    """Read a range table from JSON or from TensorRT's text.

    Args:
        path: the file.
        trust: skip `check_plausible`.

    Raises:
        CalibrationError: it cannot be read, or is neither of them; the message names the fault.
    """
    if not is_tensorrt(path):
        return cache.read(path)
    source = f"TensorRT calibration cache {str(path)!r}"
    found = parse(_read(path), source)
    if not trust:
        check_plausible(found, source)
    return to_ranges(found, "")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CalibrationError(
            f"calibration cache {str(path)!r} cannot be read ({error.strerror})",
            wanted="a file",
            todo="check the path",
        ) from error
