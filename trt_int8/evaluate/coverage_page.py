"""The page of an inspection: every kernel as a block, per Transformer block, and bytes as bars."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trt_int8.evaluate.page import render
from trt_int8.evaluate.report import short_name
from trt_int8.files import write_whole
from trt_int8.spec.inspection import (
    EngineInspection,
    InspectedMatMul,
    Inspection,
    Kernel,
    WeightBytes,
    bytes_per_weight,
)

BEFORE, AFTER, NO_BLOCKS = "before the blocks", "after the blocks", "all kernels"
# A block is a module path up to its number: "encoder/layer.3". Where stages hold numbered blocks
# ("layers.0/blocks.1", as in Swin), both numbers tell them apart; "block.0/layer.1" (T5) are the
# parts of one block.
_BLOCK = re.compile(
    r"^(?P<path>.*?)(?P<block>(?:layers?|stages?)[._]\d+[/.](?:blocks?|layers?)[._]\d+"
    r"|[A-Za-z]\w*?[._]\d+)(?=[/.])"
)
# What a Myelin kernel does, by the steps in its name; the first that fits.
_STEPS = (
    ("Gath", "embed"),
    ("Mean", "norm"),
    ("Erf|Tanh", "GELU"),
    ("Sigm", "SiLU"),
    ("Relu", "ReLU"),
    ("Exp|Soft", "softmax"),
    ("Roun", "quantize"),
    ("Sum|Max", "reduce"),
    ("Tran|Resh|Move|Slic|Conc", "layout"),
    ("Cast", "cast"),
)
_TYPE_CLASS = {"int8": "i8", "half": "f16", "bfloat16": "f16", "float": "f32", "unknown": "no"}
_TYPE_WORDS = {"half": "FP16", "float": "FP32", "int8": "INT8", "bfloat16": "BF16"}
_MAX_NODES = 10


@dataclass(frozen=True)
class Cell:
    """One kernel in the picture.

    Attributes:
        label: short text inside.
        css: classes: its kind and its data type.
        marks: signs of what costs speed or accuracy.
        hover: everything that is known, one fact per line.
    """

    label: str
    css: str
    marks: str
    hover: str


@dataclass(frozen=True)
class Row:
    """One Transformer block: the kernels of the engine, and those of its FP16 twin."""

    title: str
    cells: tuple[Cell, ...]
    twin: tuple[Cell, ...]


@dataclass(frozen=True)
class Bar:
    """Bytes of one file: (class, title, percent of the longest bar) for each part."""

    name: str
    size_bytes: int
    ratio: float | None
    parts: tuple[tuple[str, str, float], ...]


def write_coverage_page(
    path: Path, inspection: Inspection, chosen: Sequence[EngineInspection]
) -> None:
    """Render the page to `path`; it needs no network, no other file and no JavaScript to be read.

    Args:
        path: file to write.
        inspection: everything that was found.
        chosen: the engines to show; the FP16 twin of one of them is shown below it.

    Raises:
        OSError: the file cannot be written.
    """
    twins = [inspection.twin_of(engine) for engine in chosen]
    sections = [engine for engine in chosen if engine not in twins]
    shown = [e for e in inspection.engines if e in chosen or e in twins]
    page = render(
        "coverage.html.j2",
        {
            "title": inspection.model or Path(inspection.path).name,
            "inspection": inspection,
            "sections": sections,
            "twin_of": inspection.twin_of,
            "rows": rows,
            "bars": bars(inspection, shown),
            "profiles": profiles_of,
            "weights_of": lambda e: _sum(e.weights),
            "ratio": lambda e: bytes_per_weight(e.weights or ()),
            "kernels_of": lambda e: sum(k.profile <= 0 for k in e.kernels or ()),
        },
    )
    write_whole(path, page.encode())


def profiles_of(engine: EngineInspection) -> tuple[int, ...]:
    """Its optimization profiles; each has kernels of its own."""
    return tuple(sorted({kernel.profile for kernel in engine.kernels or ()})) or (0,)


def rows(engine: EngineInspection, twin: EngineInspection | None, profile: int) -> tuple[Row, ...]:
    """The kernels of one profile by Transformer block, in the order they run."""
    own = _by_block(_kernels(engine), profile)
    other = _by_block(_kernels(twin), profile) if twin is not None else {}
    matmuls = {m.node: m for m in engine.matmuls}
    float_matmuls = {m.node: m for m in twin.matmuls} if twin is not None else {}
    titles = list(dict.fromkeys([*own, *other]))
    order = [t for t in titles if t == BEFORE] + [t for t in titles if t not in (BEFORE, AFTER)]
    order += [t for t in titles if t == AFTER]
    return tuple(
        Row(
            title=title,
            cells=tuple(_cell(kernel, matmuls) for kernel in own.get(title, ())),
            twin=tuple(_cell(kernel, float_matmuls) for kernel in other.get(title, ())),
        )
        for title in order
    )


def bars(inspection: Inspection, chosen: Sequence[EngineInspection]) -> tuple[Bar, ...]:
    """Bytes of the graphs and engines: weights by data type, then all else in the file."""
    shown = {engine.precision for engine in chosen}
    files: list[tuple[str, tuple[WeightBytes, ...] | None, int | None]] = [
        (graph.file, graph.weights, graph.size_bytes)
        for graph in inspection.onnx
        if graph.precision in shown
    ]
    files += [(engine.file, engine.weights, engine.size_bytes) for engine in chosen]
    known = [(name, weights, size) for name, weights, size in files if size]
    # A plan may share or pack its constants, so that they add up to more than the file.
    longest = max((max(size, _sum(weights)) for _, weights, size in known), default=1)
    return tuple(_bar(name, weights, (size, longest)) for name, weights, size in known)


def _bar(name: str, weights: tuple[WeightBytes, ...] | None, sizes: tuple[int, int]) -> Bar:
    size, longest = sizes
    parts = [
        (
            _TYPE_CLASS.get(each.dtype, "no"),
            f"{_TYPE_WORDS.get(each.dtype, each.dtype)} weights: {each.size_bytes / 1e6:.4g} MB,"
            f" {each.values:,} values",
            100 * each.size_bytes / longest,
        )
        for each in weights or ()
    ]
    rest = max(size - _sum(weights), 0)
    what = "kernel code, graph, names" if weights is not None else "not known"
    parts.append(("rest", f"{what}: {rest / 1e6:.4g} MB", 100 * rest / longest))
    return Bar(name, size, bytes_per_weight(weights or ()), tuple(parts))


def _sum(weights: Iterable[WeightBytes] | None) -> int:
    return sum(each.size_bytes for each in weights or ())


def block_of(node: str) -> str | None:
    """The Transformer block that an ONNX node is in, by its module path; None outside of blocks."""
    match = _BLOCK.search(node)
    if match is None:
        return None
    before = [part for part in re.split(r"[/.]", match["path"]) if part]
    return "/".join([*before[-1:], match["block"]])


def step_of(kernel: Kernel) -> str:
    """One word for what a kernel without a matmul does."""
    steps = re.sub(r"^__myl_", "", kernel.family)
    return next((word for form, word in _STEPS if re.search(form, steps)), "other")


def _kernels(engine: EngineInspection) -> tuple[Kernel, ...]:
    """All kernels; where only matmuls are known, what is known of the kernels they name."""
    if engine.kernels is not None:
        return engine.kernels
    named: dict[str, list[InspectedMatMul]] = {}
    for matmul in engine.matmuls:
        named.setdefault(matmul.kernel or matmul.node, []).append(matmul)
    return tuple(
        Kernel(
            name=name,
            family=name,
            kind="attention" if same[0].fused_attention else "gemm",
            operands=same[0].operands,
            outputs=(same[0].output,),
            nodes=tuple(matmul.node for matmul in same),
            int8=all(matmul.runs == "int8" for matmul in same),
        )
        for name, same in named.items()
    )


def _by_block(kernels: Iterable[Kernel], profile: int) -> dict[str, list[Kernel]]:
    found: dict[str, list[Kernel]] = {}
    listed = [kernel for kernel in kernels if kernel.profile == profile]
    blocks = [_block_of_kernel(kernel) for kernel in listed]
    last = max((i for i, block in enumerate(blocks) if block is not None), default=-1)
    current = BEFORE if last >= 0 else NO_BLOCKS
    for index, (kernel, block) in enumerate(zip(listed, blocks, strict=True)):
        # What names no block, a mask for example, is shown where it runs.
        current = AFTER if index > last >= 0 else block or current
        found.setdefault(current, []).append(kernel)
    return found


def _block_of_kernel(kernel: Kernel) -> str | None:
    """The block of most of its nodes: a norm may quantize for the next block already."""
    blocks = Counter(block_of(node) for node in kernel.nodes)
    return blocks.most_common(1)[0][0] if blocks else None


def _cell(kernel: Kernel, matmuls: Mapping[str, InspectedMatMul]) -> Cell:
    own = [matmuls[n] for n in kernel.nodes if n in matmuls] if kernel.kind != "other" else []
    is_disputed = any(m.runs in ("disputed", "unmapped") for m in own)
    dtype = "unknown" if is_disputed else kernel.dtype
    marks = "".join(
        mark
        for mark, seen in (
            ("⚠", kernel.kind == "gemm" and kernel.int8 and "half" in kernel.outputs),
            ("↻", any(m.constant_weight is False for m in own)),
            ("?", is_disputed),
        )
        if seen
    )
    return Cell(
        label=_label(kernel, own),
        css=f"{kernel.kind} {_TYPE_CLASS.get(dtype, 'no')}",
        marks=marks,
        hover=_hover(kernel, own),
    )


def _label(kernel: Kernel, own: Sequence[InspectedMatMul]) -> str:
    if kernel.kind == "attention":
        return "Q·Kᵀ → softmax → P·V"
    if kernel.kind == "other":
        return step_of(kernel)
    names = [m.node for m in own] or list(kernel.nodes[:1]) or [kernel.name]
    return " + ".join(_tail(name, 2 if len(names) == 1 else 1) for name in names)


def _tail(node: str, parts: int) -> str:
    """The last parts of a name inside its block."""
    match = _BLOCK.search(node)
    inside = node[match.end() :] if match else node
    label = short_name(inside, parts)
    return short_name(inside, parts + 1) if label.isdigit() else label


def _hover(kernel: Kernel, own: Sequence[InspectedMatMul]) -> str:
    reads = "multiplies" if kernel.kind != "other" else "reads"
    words = [_TYPE_WORDS.get(t, t) for t in kernel.operands]
    written = [_TYPE_WORDS.get(t, t) for t in kernel.outputs]
    nodes = [m.node for m in own] or list(kernel.nodes)
    more = [f"and {len(nodes) - _MAX_NODES} more nodes"] if len(nodes) > _MAX_NODES else []
    facts = [
        *nodes[:_MAX_NODES],
        *more,
        f"kernel {kernel.name}",
        f"{reads} {' x '.join(words) or 'unknown'}, writes {', '.join(written) or 'unknown'}",
        *dict.fromkeys(m.reason for m in own if m.reason),
    ]
    if any(m.constant_weight is False for m in own):
        facts.append("its weight is computed at every inference")
    if kernel.kind == "gemm" and kernel.int8 and "half" in kernel.outputs:
        facts.append("writes float16: the raw accumulator may overflow")
    return "\n".join(facts)
