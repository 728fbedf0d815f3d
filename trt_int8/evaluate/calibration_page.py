"""The page of a calibration study: one self-contained HTML file."""

from __future__ import annotations

import math
from pathlib import Path

from trt_int8.evaluate.calibration_plots import histogram_picture, method_css, swatch
from trt_int8.evaluate.page import render
from trt_int8.files import write_whole
from trt_int8.spec.study import CalibrationStudy, MethodResult, TensorStudy

# One bit of a code is worth 6.02 dB: each level of the picture is a bit, from 2 to 7.
_LEVELS_DB = (12, 18, 24, 30, 36, 42)


def write_calibration_page(path: Path, study: CalibrationStudy) -> None:
    """Render the page to `path`; it needs no network, no other file and no JavaScript to be read.

    Raises:
        OSError: the file cannot be written.
    """
    ranked = study.ranked()
    best = next((r for r in ranked if r.method == study.recommended), None)
    errors = [1 - r.output_cosine_mean for r in ranked if r.output_cosine_mean is not None]
    numbers = {result.method: number for number, result in enumerate(study.methods)}
    page = render(
        "calibration.html.j2",
        {
            "study": study,
            "ranked": ranked,
            "ran": [result for result in ranked if result.failure is None],
            "best": best,
            "next": runner_up(study),
            "worst_error": max(errors, default=0.0),
            "top_db": max((r.mean_sqnr_db or 0.0 for r in ranked), default=0.0),
            "flagged": study.flagged(),
            "numbers": numbers,
            "anchors": {tensor.name: f"t{i}" for i, tensor in enumerate(study.tensors)},
            "levels": _LEVELS_DB,
            "level_of": sqnr_level,
            "worst_tensor": worst_tensor,
            "bar": bar,
            "picture": lambda tensor: histogram_picture(tensor, numbers),
            "method_css": method_css(len(numbers)),
            "swatch": swatch,
            "cosine": cosine_text,
            "db": decibels,
            "percent": percent,
        },
    )
    write_whole(path, page.encode())


def sqnr_level(value_db: float) -> int:
    """Level of the picture, 0 (worst) to 6; NaN is the worst."""
    return sum(value_db >= edge for edge in _LEVELS_DB)


def runner_up(study: CalibrationStudy) -> MethodResult | None:
    """The best of the other methods whose output was measured."""
    others = (r for r in study.ranked() if r.method != study.recommended)
    return next((r for r in others if r.output_cosine_mean is not None), None)


def bar(value: float, largest: float) -> str:
    """Length of a bar as a CSS width; nothing for what has no length."""
    share = value / largest if largest > 0 and value > 0 else 0.0
    return f"{5 * share:.2f}rem"


def worst_tensor(study: CalibrationStudy, method: str) -> TensorStudy | None:
    """The tensor with the lowest SQNR under a method; None if the method gave no ranges."""
    found = [(t.sqnr_db, tensor) for tensor in study.tensors if (t := tensor.of(method))]
    return min(found, key=lambda pair: pair[0])[1] if found else None


def cosine_text(value: float | None) -> str:
    """Five digits after the point, or a dash."""
    return "-" if value is None else f"{value:.5f}"


def decibels(value: float | None) -> str:
    """One digit after the point, or a dash."""
    return "-" if value is None else f"{value:.1f}"


def percent(share: float) -> str:
    """A share as a percentage that never looks like 0 or 100 % unless it is."""
    if share in (0.0, 1.0):
        return f"{share * 100:.0f} %"
    digits = max(1, 1 - math.floor(math.log10(min(share, 1 - share) * 100)))
    return f"{share * 100:.{digits}f} %" if digits < 7 else f"{share * 100:.1e} %"
