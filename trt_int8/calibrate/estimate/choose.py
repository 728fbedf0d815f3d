"""From a method and what was collected to the range of a tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from trt_int8.calibrate.estimate.affine import affine_current, affine_minmax, affine_mse
from trt_int8.calibrate.estimate.bhandare import (
    kl_conjugate,
    kl_independent,
    kl_symmetric,
)
from trt_int8.calibrate.estimate.clip import (
    amax_aciq_gauss,
    amax_aciq_laplace,
    amax_max,
    amax_moving_average,
    amax_percentile,
)
from trt_int8.calibrate.estimate.kl import amax_entropy
from trt_int8.calibrate.estimate.mse import amax_mse
from trt_int8.calibrate.estimate.rows import amax_output, amax_sqnr
from trt_int8.calibrate.statistics import Needs, TensorStatistics
from trt_int8.errors import RangeError
from trt_int8.numerics import FloatArray
from trt_int8.spec.methods import Method
from trt_int8.spec.ranges import AffineRange, TensorRange

Symmetric = Callable[[TensorStatistics, dict[str, float], FloatArray | None], float]
Affine = Callable[[TensorStatistics, dict[str, float]], AffineRange]


def _steps(settings: dict[str, float]) -> tuple[int, int]:
    return int(settings["stride"]), int(settings["start"])


_SYMMETRIC: dict[str, Symmetric] = {
    "max": lambda seen, _, __: amax_max(seen),
    "moving-average": lambda seen, given, _: amax_moving_average(seen, given["m"]),
    "percentile": lambda seen, given, _: amax_percentile(seen, given["p"]),
    "entropy": lambda seen, given, _: amax_entropy(seen, *_steps(given)),
    "mse": lambda seen, _, __: amax_mse(seen),
    "aciq-gauss": lambda seen, _, __: amax_aciq_gauss(seen),
    "aciq-laplace": lambda seen, _, __: amax_aciq_laplace(seen),
    "sqnr": lambda seen, _, __: amax_sqnr(seen),
    "output": lambda seen, _, weight: (
        amax_sqnr(seen) if weight is None else amax_output(seen, weight)
    ),
    "kl-symmetric": lambda seen, given, _: kl_symmetric(seen, *_steps(given)),
    "kl-conjugate": lambda seen, given, _: kl_conjugate(seen, *_steps(given)),
}
_AFFINE: dict[str, Affine] = {
    "kl-independent": lambda seen, given: kl_independent(seen, *_steps(given)),
    "affine-minmax": lambda seen, _: affine_minmax(seen),
    "affine-current": lambda seen, _: affine_current(seen),
    "affine-mse": lambda seen, _: affine_mse(seen),
}


def needs_of(methods: Iterable[Method]) -> Needs:
    """What must be collected so that each of the methods can be used."""
    kinds = [method.kind for method in methods]
    return Needs(
        histogram=any(kind.histogram for kind in kinds), rows=any(kind.rows for kind in kinds)
    )


def find_range(
    name: str,
    statistics: TensorStatistics | None,
    method: Method,
    weight: FloatArray | None = None,
) -> TensorRange | AffineRange:
    """The range of one tensor.

    Args:
        name: of the tensor, for error messages.
        statistics: collected with `needs_of`; None if no data reached the tensor.
        method: how to choose.
        weight: float32 [K, N], what the tensor is multiplied by, if it is a constant. Without one
            (both operands of an attention matmul), `output` does what `sqnr` does.

    Returns:
        A TensorRange with a float32 amax in (0, peak]; an AffineRange if the method is affine.

    Raises:
        RangeError: no data, zeros only, or a moving average that is 0.
    """
    if statistics is None:
        raise RangeError(
            f"no calibration data reached {name!r}",
            wanted="every quantized tensor to be computed",
            todo="add it to 'keep' in the recipe",
        )
    if statistics.peak == 0:
        raise _no_range(name)
    if method.name in _AFFINE:
        return _AFFINE[method.name](statistics, method.settings)
    # The quantizers, and the scales of ONNX, hold float32: so does the range, to equal theirs.
    amax = float(np.float32(_SYMMETRIC[method.name](statistics, method.settings, weight)))
    if amax == 0:
        raise _no_range(name)
    return TensorRange(amax=amax, peak=statistics.peak)


def _no_range(name: str) -> RangeError:
    return RangeError(
        f"calibration of {name!r} gave 0.0",
        wanted="a finite range > 0",
        todo="check model and texts, or add it to 'keep' in the recipe",
    )
