"""What `trt-int8 inspect` prints."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from trt_int8.spec.inspection import (
    EngineInspection,
    InspectedMatMul,
    Inspection,
    KernelGroup,
    WeightBytes,
    bytes_per_weight,
)

_LAYER_NUMBER = re.compile(r"(?<=[./_])\d+(?=[./_])")
_NAMED = 6
_SUMMARY_NUMBERS = ("matmuls INT8", "attentions fused", "as INT8", "kernels", "engine MB")
_DTYPES = ("int8", "half", "float")
_STYLES = {"int8": "green", "half": "blue", "float": "yellow"}


def print_inspection(
    console: Console,
    inspection: Inspection,
    chosen: Sequence[EngineInspection],
    *,
    show_all: bool,
) -> None:
    """Tables for people.

    Args:
        console: where to print.
        inspection: everything that was found; the FP16 twin to compare with is in it.
        chosen: the engines to show.
        show_all: list each kernel by itself.
    """
    _print_summary(console, inspection, chosen)
    for engine in chosen:
        _print_kernels(console, engine, show_all=show_all)
        _print_findings(console, inspection, engine)
    if len(chosen) > 0:
        _print_weights(console, inspection, chosen)
    for note in inspection.notes:
        console.print(Text(f"note: {note}", style="dim"), soft_wrap=True)


def _print_summary(
    console: Console, inspection: Inspection, chosen: Sequence[EngineInspection]
) -> None:
    title = f"{inspection.model or inspection.path}: what runs INT8"
    table = _table(title, "engine", "built for", right=_SUMMARY_NUMBERS)
    for engine in chosen:
        total = "?" if engine.attentions is None else str(engine.attentions)
        table.add_row(
            Text(engine.name),
            Text(_target(engine)),
            f"{engine.int8_count} of {len(engine.counted)}",
            f"{engine.attentions_fused} of {total}",
            f"{engine.attentions_int8} of {total}",
            "?" if engine.kernels is None else str(_per_profile(engine)),
            _megabytes(engine.size_bytes),
        )
    console.print(table)
    facts = dict.fromkeys(f"TensorRT {e.tensorrt_version}; {e.evidence}" for e in chosen)
    for fact in facts:
        console.print(Text(fact, style="dim"), soft_wrap=True)


def _target(engine: EngineInspection) -> str:
    """As the plan's header says."""
    if engine.plan_sms is None:
        return "not known" if engine.precision is None else "local card"
    return "SM " + ", ".join(map(str, engine.plan_sms))


def _per_profile(engine: EngineInspection) -> int:
    """Kernels of the first profile: each of them has its own copy."""
    return sum(kernel.profile <= 0 for kernel in engine.kernels or ())


def _print_kernels(console: Console, engine: EngineInspection, *, show_all: bool) -> None:
    if engine.kernels is None:
        return
    if show_all:
        table = _table(f"{engine.name}: every kernel", "kernel", "multiplies or reads", "writes")
        table.add_column("ONNX nodes", overflow="fold")
        for kernel in engine.kernels:
            joint = " x " if kernel.kind != "other" else ", "
            row = (kernel.name, joint.join(kernel.operands) or "unknown", ", ".join(kernel.outputs))
            style = _STYLES.get(kernel.dtype, "") if kernel.kind != "other" else "dim"
            nodes = Text("\n".join(kernel.nodes))
            table.add_row(Text(row[0], style=style), *map(Text, row[1:]), nodes)
        console.print(table)
        return
    table = _table(
        f"{engine.name}: matrix kernels", "kernel", "multiplies", "writes", right=("count",)
    )
    table.add_column("ONNX nodes", overflow="fold")
    matrix = [group for group in engine.groups if group.kind != "other"]
    for group in matrix:
        profile = f" (profile {group.profile})" if group.profile > 0 else ""
        style = _STYLES["int8"] if group.int8 else ""
        table.add_row(
            Text(f"{group.family}{profile}", style=style),
            Text(_types(group.operands)),
            Text(", ".join(group.outputs)),
            str(group.count),
            Text(_first(_patterns(engine, group), 4)),
        )
    console.print(table)
    others = sum(group.count for group in engine.groups if group.kind == "other")
    more = f"and {others} kernels without a matmul (--all lists them)"
    console.print(Text(more, style="dim"), soft_wrap=True)


def _patterns(engine: EngineInspection, group: KernelGroup) -> list[str]:
    """The matmuls of a group, or all its nodes if none is known; layers that repeat become `*`."""
    own = set(group.nodes)
    known = [m.node for m in engine.matmuls if m.node in own] or list(group.nodes)
    return list(dict.fromkeys(_LAYER_NUMBER.sub("*", name) for name in known))


def _print_findings(console: Console, inspection: Inspection, engine: EngineInspection) -> None:
    reasons: dict[str, list[str]] = {}
    for matmul in engine.fallbacks if engine.precision != "fp16" else ():
        reasons.setdefault(matmul.reason, []).append(matmul.node)
    for reason, nodes in reasons.items():
        text = f"{engine.name}: {len(nodes)} not INT8: {reason}: {_first(nodes, _NAMED)}"
        console.print(Text(text, style="red"), soft_wrap=True)
    _warn(
        console,
        engine,
        engine.requantized,
        "weights are computed at every inference instead of stored in INT8",
    )
    _warn(
        console,
        engine,
        engine.overflow_hazards,
        "INT8 matmuls write float16, which their raw accumulator may overflow (65504)",
    )
    twin = inspection.twin_of(engine)
    if twin is not None:
        console.print(Text(f"{engine.name} against its FP16 twin: {compared(engine, twin)}"))


def _warn(
    console: Console, engine: EngineInspection, matmuls: Sequence[InspectedMatMul], what: str
) -> None:
    if matmuls:
        names = _first([m.node for m in matmuls], _NAMED)
        text = f"{engine.name}: {len(matmuls)} {what}: {names}"
        console.print(Text(text, style="yellow"), soft_wrap=True)


def compared(engine: EngineInspection, twin: EngineInspection) -> str:
    """Kernels and bytes of an INT8 engine beside those of its FP16 twin, in words."""
    parts = []
    if engine.kernels is not None and twin.kernels is not None:
        parts.append(f"{_per_profile(engine)} kernels / {_per_profile(twin)}")
    if engine.weights is not None and twin.weights is not None:
        parts.append(
            f"{_megabytes(_sum(engine.weights))} MB of weights / {_megabytes(_sum(twin.weights))}"
        )
    if engine.size_bytes is not None and twin.size_bytes:
        share = engine.size_bytes / twin.size_bytes
        parts.append(
            f"{_megabytes(engine.size_bytes)} MB / {_megabytes(twin.size_bytes)}"
            f" in all ({share:.0%})"
        )
    return ", ".join(parts)


def _print_weights(
    console: Console, inspection: Inspection, chosen: Sequence[EngineInspection]
) -> None:
    columns = (
        *(f"{name} MB" for name in ("int8", "float16", "float32", "other")),
        "bytes per weight",
        "file MB",
    )
    table = _table("weights by data type", "file", right=columns)
    rows: list[tuple[str, tuple[WeightBytes, ...], int | None]] = [
        (graph.file, graph.weights, graph.size_bytes)
        for graph in inspection.onnx
        if any(engine.precision == graph.precision for engine in chosen)
    ]
    rows += [(e.file, e.weights, e.size_bytes) for e in chosen if e.weights is not None]
    for name, weights, size in rows:
        known = {each.dtype: each.size_bytes for each in weights}
        rest = sum(size for dtype, size in known.items() if dtype not in _DTYPES)
        ratio = bytes_per_weight(weights)
        table.add_row(
            Text(name),
            *(_megabytes(known.get(dtype, 0)) for dtype in _DTYPES),
            _megabytes(rest),
            "-" if ratio is None else f"{ratio:.2f}",
            _megabytes(size),
        )
    if rows:
        console.print(table)


def _sum(weights: Iterable[WeightBytes]) -> int:
    return sum(each.size_bytes for each in weights)


def _types(types: Sequence[str]) -> str:
    return " x ".join(types) or "unknown"


def _first(names: Sequence[str], count: int) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def _megabytes(size: int | None) -> str:
    return "?" if size is None else f"{size / 1e6:.4g}"


def _table(title: str, *columns: str, right: Iterable[str] = ()) -> Table:
    table = Table(title=Text(title), title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for column in right:
        table.add_column(column, justify="right")
    return table
