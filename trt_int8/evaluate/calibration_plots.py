"""Pictures of the calibration page, as SVG text of a few kilobytes each.

A page may show hundreds of tensors; written by hand, a picture takes a few milliseconds. Colours
and fonts come from the style sheet of the page, those of the methods from `method_css`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from itertools import groupby

from matplotlib.ticker import MaxNLocator

from trt_int8.spec.study import TensorStudy, TensorThreshold

# Hues that colour-blind readers tell apart (after M. Okabe, K. Ito, "Color Universal Design",
# 2008), dark enough for text on white. 8 colours and 3 dashes give 24 different lines.
_COLOURS = ("#0072b2", "#c2410c", "#00805c", "#a3387f", "#6b4c35", "#4b3fb5", "#a16207", "#374151")
_DASHES = ("none", "7 3", "2 3")

_WIDTH, _LEFT, _RIGHT = 860.0, 44.0, 10.0
_PLOT, _BELOW, _LABEL = 130.0, 22.0, 13.0
_CHARACTER = 6.9
# Where the log axis of counts starts: below 1, so that a bin with one value is seen.
_FLOOR = math.log10(0.5)


def method_css(count: int) -> str:
    """Style rules `.m0`, `.m1`, … for the lines and labels of `count` methods."""
    return "\n".join(
        f".m{i} {{ --c: {_COLOURS[i % len(_COLOURS)]}; --d: {_DASHES[i % len(_DASHES)]}; }}"
        for i in range(count)
    )


def swatch(number: int) -> str:
    """A short piece of the line of method `number`, for a legend."""
    return (
        f'<svg class="p m{number}" width="34" height="10" aria-hidden="true">'
        '<path class="l" d="M1,5H33"/></svg>'
    )


def histogram_picture(tensor: TensorStudy, numbers: Mapping[str, int]) -> str:
    """The values of a tensor on a log axis of counts, and where each method cuts them.

    Args:
        tensor: what to draw.
        numbers: of the methods, by label; a number chooses the style of a line.
    """
    bars = _bars(tensor)
    low, high, scale = _span(tensor, bars)
    flags = _flags(tensor, scale)
    top = 8 + _LABEL * (1 + max((flag.row for flag in flags), default=-1))
    tallest = max(bar.height for bar in bars)
    axes = _Axes(low, high, scale, top, decades=max(1.0, math.log10(tallest) + 0.1))
    parts = [
        f'<svg class="p" viewBox="0 0 {_WIDTH:g} {axes.bottom + _BELOW:g}" role="img">',
        f"<title>{escape(tensor.name)}: histogram and thresholds</title>",
        _grid(axes),
        f'<path class="h" d="{_outline(bars, axes)}"/>',
        *(_drawn(flag, numbers[flag.method], axes) for flag in flags),
        "</svg>",
    ]
    return "".join(parts)


@dataclass(frozen=True)
class _Axes:
    """From tensor units and counts to points of the picture.

    Attributes:
        low: left end, in tensor units.
        high: right end.
        scale: points per tensor unit.
        top: upper end of the plot, in points.
        decades: log10 of the count there.
    """

    low: float
    high: float
    scale: float
    top: float
    decades: float

    @property
    def bottom(self) -> float:
        return self.top + _PLOT

    def x(self, value: float) -> float:
        return _LEFT + self.scale * (value - self.low)

    def y(self, count: float) -> float:
        share = (math.log10(count) - _FLOOR) / (self.decades - _FLOOR) if count > 0 else 0.0
        return self.bottom - _PLOT * share


@dataclass(frozen=True)
class _Bar:
    """One bin: its ends in tensor units, and its count."""

    left: float
    right: float
    height: float


@dataclass(frozen=True)
class _Flag:
    """The labelled end of a range, the other end, and the row of the label above the plot."""

    method: str
    value: float
    other: float
    row: int


def _bars(tensor: TensorStudy) -> list[_Bar]:
    """The bins, with values per width of one bin: the bin around zero may be twice as wide."""
    bars = []
    for number, count in enumerate(tensor.histogram.counts, start=tensor.histogram.first):
        left, right = tensor.histogram.edges(number)
        if number == 0 and (tensor.low >= 0 or tensor.high <= 0):
            left, right = (0.0, right) if tensor.low >= 0 else (left, 0.0)
        bars.append(_Bar(left, right, count * tensor.histogram.width / (right - left)))
    return bars


def _ends(tensor: TensorStudy, threshold: TensorThreshold) -> tuple[float, float]:
    """The end on the side of the largest |x|, which gets the label, and the other one."""
    ends = threshold.high, threshold.low
    return ends if tensor.high >= -tensor.low else ends[::-1]


def _span(tensor: TensorStudy, bars: list[_Bar]) -> tuple[float, float, float]:
    """Left and right end of the plot in tensor units, and points per unit.

    A label stands to the right of its line; the plot is as wide as all labels leave room for.
    """
    labelled = [(_ends(tensor, t)[0], _text_width(t.method)) for t in tensor.thresholds]
    values = [bars[0].left, bars[-1].right, *(value for value, _ in labelled)]
    low, high, room = min(values), max(values), _WIDTH - _LEFT - _RIGHT
    scales = [(room - width) / (value - low) for value, width in labelled if value > low]
    return low, high, min([room / (high - low), *scales])


def _flags(tensor: TensorStudy, scale: float) -> list[_Flag]:
    """Labels in rows, so that none meets another label or the line of another label.

    From right to left, each goes one row above all whose lines rise below its text.
    """
    flags: list[_Flag] = []
    for threshold in sorted(tensor.thresholds, key=lambda t: _ends(tensor, t)[0], reverse=True):
        value, other = _ends(tensor, threshold)
        reach = value + _text_width(threshold.method) / scale
        below = [flag.row for flag in flags if flag.value <= reach]
        flags.append(_Flag(threshold.method, value, other, max(below, default=-1) + 1))
    return flags


def _text_width(text: str) -> float:
    return _CHARACTER * len(text) + 8


def _drawn(flag: _Flag, number: int, axes: _Axes) -> str:
    x, y = axes.x(flag.value), axes.top - 4 - _LABEL * flag.row
    path = f"M{x:.1f},{y - 9:g}V{axes.bottom:g}"
    if axes.low <= flag.other <= axes.high:
        path += f"M{axes.x(flag.other):.1f},{axes.top:g}V{axes.bottom:g}"
    text = f'<text x="{x + 4:.1f}" y="{y:g}">{escape(flag.method)}</text>'
    return f'<g class="m{number}"><path class="l" d="{path}"/>{text}</g>'


def _outline(bars: list[_Bar], axes: _Axes) -> str:
    """Path along the tops of the bars; neighbours of one height are one step."""
    path = f"M{axes.x(bars[0].left):.1f},{axes.bottom:g}"
    for height, run in groupby(bars, key=lambda bar: f"{axes.y(bar.height):.1f}"):
        path += f"V{height}H{axes.x(list(run)[-1].right):.1f}"
    return f"{path}V{axes.bottom:g}Z"


def _grid(axes: _Axes) -> str:
    """Horizontal lines at powers of ten, and ticks of both axes with their numbers."""
    path, texts, right = "", "", axes.x(axes.high)
    for exponent in range(0, int(axes.decades) + 1, math.ceil(axes.decades / 5)):
        y = axes.y(10.0**exponent)
        path += f"M{_LEFT:g},{y:.1f}H{right:.1f}"
        texts += f'<text x="{_LEFT - 5:g}" y="{y + 4:.1f}">{_power_of_ten(exponent)}</text>'
    ticks = MaxNLocator(9, steps=[1, 2, 2.5, 5, 10]).tick_values(axes.low, axes.high)
    for value in (float(tick) for tick in ticks if axes.low <= tick <= axes.high):
        x = axes.x(value)
        path += f"M{x:.1f},{axes.bottom:g}v4"
        texts += f'<text class="x" x="{x:.1f}" y="{axes.bottom + 16:g}">{value:g}</text>'
    return f'<path class="g" d="{path}"/><g class="a">{texts}</g>'


def _power_of_ten(exponent: int) -> str:
    thousands, rest = divmod(exponent, 3)
    return f"{10**rest}{('', 'k', 'M', 'G', 'T', 'P', 'E')[thousands]}"
