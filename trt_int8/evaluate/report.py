"""The bundle's report: one self-contained HTML page."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jinja2

from trt_int8.evaluate.plots import error_distribution, range_plot
from trt_int8.spec.accuracy import AccuracyReport
from trt_int8.spec.build import BuildResult, Flavour
from trt_int8.spec.coverage import EngineCoverage, NodeCoverage
from trt_int8.spec.manifest import Verdict
from trt_int8.spec.ranges import RangeTable
from trt_int8.spec.recipe import Recipe

_LAYER_NUMBER = re.compile(r"(?:^|[./_])(\d+)(?=[./_])")


@dataclass(frozen=True)
class ReportData:
    """Everything the page shows.

    Attributes:
        ranges: None for a model that came with its own Q/DQ.
        builds: by engine label.
    """

    model: str
    flavour: Flavour
    coverage: tuple[EngineCoverage, ...]
    accuracy: AccuracyReport
    ranges: RangeTable | None
    verdict: Verdict
    recipe: Recipe
    shapes: str
    builds: Mapping[str, BuildResult]


@dataclass(frozen=True)
class GridRow:
    """One row of the coverage picture."""

    title: str
    nodes: tuple[NodeCoverage, ...]


def grid(coverage: EngineCoverage) -> tuple[GridRow, ...]:
    """Group the matmuls by the first number in their name (the layer), in graph order."""
    rows: dict[str, list[NodeCoverage]] = {}
    for node in coverage.nodes:
        match = _LAYER_NUMBER.search(node.node)
        rows.setdefault(f"layer {match[1]}" if match else "no layer", []).append(node)
    return tuple(GridRow(title, tuple(nodes)) for title, nodes in rows.items())


def short_name(node: str) -> str:
    """The last two distinct parts of a node name that are not just `MatMul`."""
    parts = [p for p in re.split(r"[/.]", node) if p and not re.fullmatch(r"MatMul|Gemm", p)]
    return "/".join(parts[-2:]) or node


def write_report(path: Path, data: ReportData) -> None:
    """Render the page to `path`; it needs no network and no other file."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("trt_int8.evaluate", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("report.html.j2").render(
        data=data,
        grid=grid,
        short_name=short_name,
        error_svg=error_distribution(data.accuracy.cosines),
        range_svg=range_plot(data.ranges) if data.ranges is not None else "",
    )
    path.write_text(page, encoding="utf-8")
