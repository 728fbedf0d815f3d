"""Every kernel and constant of a TensorRT-RTX plan, from the graph text inside it.

`plan_text` reads the matrix operators, to confirm the builder's log; this reads the whole graph,
for an engine whose log is gone. The form is undocumented, and was checked for the versions in
`plan_text.KNOWN_VERSIONS`. A plan has an outer graph for each profile; each fused GEMM
(`runtime_fusion`) brings a small graph of its own, which tells what it multiplies.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from trt_int8.engine.evidence import (
    EngineLayer,
    EngineTensor,
    LayerKind,
    onnx_nodes,
)
from trt_int8.engine.plan_blocks import PlanBlock, PlanTensor, read_blocks
from trt_int8.engine.plan_text import PlanText, read_plan
from trt_int8.errors import CoverageError
from trt_int8.spec.inspection import WeightBytes

_OPERATOR = re.compile(r"^\s*(\w+)=\{ name=(?:\"([^\"]+)\"|(\S+))")
_NOT_KERNELS = frozenset({"copy", "memset", "assert", "label", "shape_call"})
# Names may hold braces, so only quoted names end a list.
_LISTS = re.compile(r'\b(input|input_args|output|output_args)=\{((?:\s*"[^"]*")*)\s*\}')
_QUOTED = re.compile(r'"([^"]*)"')
# Names of kernels: of the copy for another profile, and made unlike those of other kernels.
_PROFILE, _UNIQUE = re.compile(r" \[profile \d+\]"), re.compile(r"_U\d+$")
_LAYERS = re.compile(r'layers="([^"]*)"')


@dataclass(frozen=True)
class PlanKernel:
    """A kernel, as the layer of a listing, with what only the plan knows.

    Attributes:
        layer: name, kind, tensors, ONNX nodes.
        matmuls: ONNX names of the matmuls it computes, where its own name tells them.
        multiplied: the two tensors that a GEMM multiplies; empty if they are not known.
        weight_dims: sizes of the second one; None if they are not known before run time.
    """

    layer: EngineLayer
    matmuls: tuple[str, ...]
    multiplied: tuple[EngineTensor, ...]
    weight_dims: tuple[int, ...] | None

    @property
    def constant_weight(self) -> bool:
        """One of the two is stored in the plan."""
        stored = {tensor.name for tensor in self.layer.constants}
        return any(tensor.name in stored for tensor in self.multiplied)


@dataclass(frozen=True)
class PlanGraph:
    """A plan: `text` (header and matrix operators), all kernels in order, constants by type."""

    text: PlanText
    kernels: tuple[PlanKernel, ...]
    weights: tuple[WeightBytes, ...]


def read_graph(path: Path) -> PlanGraph:
    """Read header, kernels and constants of a plan file.

    Raises:
        CoverageError: it is not a TensorRT-RTX plan, is cut short, of an unchecked version, or
            lists no kernel.
    """
    text = read_plan(path)
    graphs = read_blocks(path)
    inner = [kernel for g in graphs if g.inner for kernel in _kernels(g) if _is_gemm(kernel)]
    outer = [g for g in graphs if not g.inner]
    kernels = tuple(_with_inner(k, inner) for g in outer for k in _kernels(g))
    if not kernels:
        raise CoverageError(
            f"plan {path.name!r} lists no kernel",
            wanted="the graph text of a TensorRT-RTX plan",
            todo="build the engine again",
        )
    return PlanGraph(text, kernels, _weights(outer))


def _kernels(graph: PlanBlock) -> list[PlanKernel]:
    kernels = []
    for line in graph.operators:
        match = _OPERATOR.match(line)
        if match is None or match[1] in _NOT_KERNELS:
            continue
        nodes = _LAYERS.search(line)
        if nodes is None and match[1] not in ("fully_connected", "runtime_fusion", "function"):
            continue  # arithmetic on shapes
        name = match[2] or match[3]
        listed = onnx_nodes(nodes[1]) if nodes else ()
        kernels.append(_kernel(graph, line, (match[1], name), listed))
    return kernels


def _kernel(
    graph: PlanBlock, line: str, operator: tuple[str, str], nodes: tuple[str, ...]
) -> PlanKernel:
    kind = _kind(*operator)
    lists = {name: _QUOTED.findall(body) for name, body in _LISTS.findall(line)}
    read = lists.get("input_args") or lists.get("input") or []
    written = lists.get("output_args") or lists.get("output") or []
    constant = {name for name in read if graph.is_stored(name)}
    layer = EngineLayer(
        name=operator[1],
        kind=kind,
        inputs=graph.typed([name for name in read if name not in constant]),
        constants=graph.typed([name for name in read if name in constant]),
        outputs=graph.typed(written),
        onnx_nodes=nodes,
        profile=graph.profile,
    )
    if operator[0] != "fully_connected":
        return PlanKernel(layer, (), (), None)
    weight = graph.tensors.get(read[1]) if len(read) > 1 else None
    return PlanKernel(
        layer=layer,
        matmuls=merged_matmuls(operator[1], nodes),
        multiplied=graph.typed(read[:2]),
        weight_dims=weight.dims if weight else None,
    )


def _kind(operator: str, name: str) -> LayerKind:
    if operator == "function":
        return "attention" if name.startswith("_gemm_mha") else "other"
    if operator == "fully_connected":
        return "gemm"
    return "gemm" if operator == "runtime_fusion" and "Fc" in name else "other"


def merged_matmuls(name: str, nodes: tuple[str, ...]) -> tuple[str, ...]:
    """ONNX names of the matmuls of a GEMM kernel, which is named `a+b+c` after those it merges.

    Args:
        name: of the kernel.
        nodes: ONNX nodes of the kernel; a part of the name that is none of them proves nothing.
    """
    plain = _PROFILE.sub("", name)
    for parts in (plain.split("+"), [plain]):
        found = [p if p in nodes else _UNIQUE.sub("", p) for p in parts]
        if all(part in nodes for part in found):
            return tuple(found)
    return ()


def _is_gemm(kernel: PlanKernel) -> bool:
    return kernel.layer.kind == "gemm" and bool(kernel.multiplied)


def _with_inner(kernel: PlanKernel, inner: list[PlanKernel]) -> PlanKernel:
    """A fused GEMM with the matmuls and types of the graph inside it; unknown without one."""
    if kernel.layer.kind != "gemm" or kernel.multiplied:
        return kernel
    nodes = set(kernel.layer.onnx_nodes)
    own = [i for i in inner if i.matmuls and nodes.issuperset(i.matmuls)]
    if len({tuple(t.dtype for t in i.multiplied) for i in own}) != 1:
        return kernel
    return replace(
        kernel,
        matmuls=tuple(dict.fromkeys(matmul for i in own for matmul in i.matmuls)),
        # Inside, the weight is an input of the same name; outside it is stored in the plan.
        multiplied=own[0].multiplied,
        weight_dims=own[0].weight_dims,
    )


def _weights(graphs: list[PlanBlock]) -> tuple[WeightBytes, ...]:
    """Constants of the profile with the most: profiles describe them anew but store them once."""
    sums = []
    for profile in {graph.profile for graph in graphs}:
        stored = {
            (number, tensor.place): tensor
            for number, graph in enumerate(graphs)
            for tensor in graph.tensors.values()
            if graph.profile == profile and tensor.payload_bytes is not None
        }
        sums.append(_by_type(stored.values()))
    return max(sums, key=lambda listed: sum(each.size_bytes for each in listed), default=())


def _by_type(tensors: Iterable[PlanTensor]) -> tuple[WeightBytes, ...]:
    found: dict[str, list[PlanTensor]] = {}
    for tensor in tensors:
        found.setdefault(tensor.dtype, []).append(tensor)
    listed = [
        WeightBytes(
            dtype=dtype,
            values=sum(math.prod(t.dims or ()) for t in same),
            size_bytes=sum(t.payload_bytes or 0 for t in same),
        )
        for dtype, same in found.items()
    ]
    return tuple(sorted(listed, key=lambda each: (-each.size_bytes, each.dtype)))
