"""The bundle's report: one self-contained HTML page."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from trt_int8.evaluate.page import render
from trt_int8.evaluate.plots import error_distribution, range_plot
from trt_int8.spec.accuracy import AccuracyReport
from trt_int8.spec.build import BuildResult, Flavour
from trt_int8.spec.coverage import EngineCoverage, NodeCoverage
from trt_int8.spec.manifest import Verdict
from trt_int8.spec.overflow import Overflow
from trt_int8.spec.ranges import RangeTable
from trt_int8.spec.recipe import Recipe

_LAYER_NUMBER = re.compile(r"(?:^|[./_])(\d+)(?=[./_])")

_BMM_LABELS = ("Q·Kᵀ", "P·V")


@dataclass(frozen=True)
class ReportData:
    """Everything the page shows.

    Attributes:
        ranges: None for a model that came with its own Q/DQ.
        builds: by engine label.
        notes: what the build decided by itself.
        overflow: tensors kept out of float16.
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
    notes: tuple[str, ...] = ()
    overflow: tuple[Overflow, ...] = ()


@dataclass(frozen=True)
class GridCell:
    """One matmul in the coverage picture, with a label that is short but unlike its neighbours'."""

    label: str
    node: NodeCoverage


@dataclass(frozen=True)
class GridRow:
    """One row of the coverage picture."""

    title: str
    cells: tuple[GridCell, ...]


def grid(coverage: EngineCoverage) -> tuple[GridRow, ...]:
    """Group the matmuls by the first number in their name (the layer), in graph order.

    Where the graph orders the matmuls of two layers differently, the earlier layer counts, so that
    equal labels stand below each other.
    """
    bmms = _bmm_labels(coverage.nodes)
    rows: dict[str, list[NodeCoverage]] = {}
    for node in coverage.nodes:
        match = _LAYER_NUMBER.search(node.node)
        rows.setdefault(f"layer {match[1]}" if match else "no layer", []).append(node)
    labelled = {title: _labelled(nodes, bmms) for title, nodes in rows.items()}
    order: dict[str, int] = {}
    for cells in labelled.values():
        for cell in cells:
            order.setdefault(cell.label, len(order))
    return tuple(
        GridRow(title, tuple(sorted(cells, key=lambda cell: order[cell.label])))
        for title, cells in labelled.items()
    )


def _labelled(nodes: list[NodeCoverage], bmms: Mapping[str, str]) -> list[GridCell]:
    """Label the matmuls of a row; where two labels are equal, both get longer."""
    labels = [_label(node.node, bmms, 2) for node in nodes]
    for parts in (3, 4, 5):
        count = Counter(labels)
        labels = [
            _label(node.node, bmms, parts) if count[label] > 1 else label
            for node, label in zip(nodes, labels, strict=True)
        ]
    return [GridCell(label, node) for node, label in zip(nodes, labels, strict=True)]


def _label(node: str, bmms: Mapping[str, str], parts: int) -> str:
    match = _LAYER_NUMBER.search(node)
    name = node[match.end() :] if match else node
    if node not in bmms:
        return short_name(name, parts)
    module = re.split(r"[/.]", name)[:-1] if parts > 2 else []
    return " ".join([*module[-1:], bmms[node]])


def _bmm_labels(nodes: Iterable[NodeCoverage]) -> dict[str, str]:
    """What the attention matmuls compute; those of one attention share a name up to the last part.

    In graph order the scores come before the context. An odd number of them is left unlabelled.
    """
    groups: dict[str, list[str]] = {}
    for node in nodes:
        if node.role == "attention":
            groups.setdefault(re.sub(r"[^/.]*$", "", node.node), []).append(node.node)
    return {
        name: _BMM_LABELS[index % 2]
        for names in groups.values()
        if len(names) % 2 == 0
        for index, name in enumerate(names)
    }


def short_name(node: str, count: int = 2) -> str:
    """The last `count` parts of a node name that are not just `MatMul` and do not repeat."""
    parts = [p.strip("_") for p in re.split(r"[/.]", node)]
    telling = [p for p in parts if p and not re.fullmatch(r"MatMul|Gemm", p)]
    return "/".join([part for part, _ in groupby(telling)][-count:]) or node


def write_report(path: Path, data: ReportData) -> None:
    """Render the page to `path`; it needs no network and no other file."""
    page = render(
        "report.html.j2",
        {
            "data": data,
            "grid": grid,
            "error_svg": error_distribution(data.accuracy.cosines),
            "range_svg": range_plot(data.ranges) if data.ranges is not None else "",
        },
    )
    path.write_text(page, encoding="utf-8")
