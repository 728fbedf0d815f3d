"""Pictures of the report, as SVG text."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from trt_int8.spec.ranges import RangeTable

_INK, _INT8, _CLIPPED = "#1f2937", "#15803d", "#d97706"
_MAX_BARS = 120


def error_distribution(cosines: Sequence[float]) -> str:
    """Histogram of 1 - cosine per held-out text, INT8 against FP16; NaN is counted, not drawn."""
    errors = 1.0 - np.asarray(cosines, dtype=np.float64)
    finite = errors[np.isfinite(errors)]
    figure = Figure(figsize=(7, 2.6), layout="constrained")
    axes = figure.subplots()
    if finite.size:
        axes.hist(finite, bins=min(40, max(5, finite.size // 3)), color=_INT8)
        mean = float(finite.mean())
        axes.axvline(mean, color=_CLIPPED, label=f"mean {mean:.4f}")
        axes.legend(frameon=False)
    if finite.size < errors.size:
        axes.set_title(f"NaN for {errors.size - finite.size} of {errors.size} texts", fontsize=10)
    axes.set_xlabel("1 - cosine (0 = same answer as FP16)")
    axes.set_ylabel("texts")
    return _svg(figure)


def range_plot(table: RangeTable) -> str:
    """The kept range of every quantized tensor, and the peak seen where it was clipped.

    Too many tensors for one picture: the most clipped ones, worst first.
    """
    names = list(table.ranges)
    if len(names) > _MAX_BARS:
        names.sort(key=lambda name: -table.ranges[name].peak / table.ranges[name].amax)
        names = names[:_MAX_BARS]
    amax = np.array([table.ranges[name].amax for name in names])
    peak = np.array([table.ranges[name].peak for name in names])
    figure = Figure(figsize=(9, 1.2 + 0.17 * len(names)), layout="constrained")
    axes = figure.subplots()
    rows = np.arange(len(names))
    axes.barh(rows, amax, color=_INT8, height=0.7, label="range kept (amax)")
    axes.hlines(rows, amax, peak, color=_CLIPPED, linewidth=1.5, label="clipped, up to the peak")
    axes.set_xscale("log")
    # A `$` in a name is no formula.
    axes.set_yticks(rows, [_short(name) for name in names], fontsize=6.5, parse_math=False)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel("largest |x|, in tensor units (log scale)")
    axes.legend(frameon=False, fontsize=8, loc="upper right")
    hidden = len(table.ranges) - len(names)
    if hidden:
        axes.set_title(f"the {len(names)} most clipped tensors; {hidden} more are not shown")
    return _svg(figure)


def _short(name: str) -> str:
    return name if len(name) <= 60 else f"…{name[-59:]}"


def _svg(figure: Figure) -> str:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    stream = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "trt_int8", "svg.fonttype": "none", "text.color": _INK}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    return text[text.index("<svg") :]
