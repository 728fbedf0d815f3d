"""What runs in one engine: from a plan, from a listing of its layers, or as a bundle recorded it.

Fails closed as `coverage` does: without proof a matmul does not count as INT8.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from trt_int8.engine import inspector
from trt_int8.engine.coverage import operator_is_int8
from trt_int8.engine.inspected_kernels import (
    listed_kernel,
    listed_matmuls,
    plan_kernel,
    plan_matmuls,
)
from trt_int8.engine.plan_graph import read_graph
from trt_int8.engine.plan_text import PlanText
from trt_int8.errors import CoverageError
from trt_int8.spec.coverage import EngineCoverage, NodeCoverage
from trt_int8.spec.inspection import EngineInspection, InspectedMatMul, Kernel


def inspect_plan(path: Path) -> EngineInspection:
    """Read a TensorRT-RTX engine alone, without the ONNX file or the builder's log.

    Raises:
        CoverageError: it is not such a plan, is cut short, of an unchecked version, or lists no
            kernel.
    """
    graph = read_graph(path)
    kernels = tuple(plan_kernel(k, graph.text) for k in graph.kernels)
    pairs = zip(graph.kernels, kernels, strict=True)
    matmuls = [(k.profile, m) for found, k in pairs for m in plan_matmuls(found, k)]
    return _alone(path, kernels, matmuls).model_copy(
        update={
            "sm": graph.text.sms[0] if len(graph.text.sms) == 1 else None,
            "size_bytes": path.stat().st_size,
            "tensorrt_version": _dotted(graph.text),
            "plan_sms": graph.text.sms,
            "evidence": "the plan's own text",
            "weights": graph.weights,
        }
    )


def inspect_listing(path: Path) -> EngineInspection:
    """Read the layers that TensorRT's engine inspector lists as JSON (versions 8.6, 10 and 11).

    Raises:
        CoverageError: it is not such a listing, or shows only opaque layers.
    """
    layers = inspector.parse(path.read_text(encoding="utf-8", errors="replace"))
    if any(layer.is_opaque for layer in layers):
        raise CoverageError(
            f"{path.name!r} lists fused layers as one opaque ForeignNode",
            wanted="every kernel by itself",
            todo="list the layers with TensorRT 10 or later: 8.6 does not show them",
        )
    kernels = tuple(listed_kernel(layer) for layer in layers)
    pairs = zip(layers, kernels, strict=True)
    matmuls = [(k.profile, m) for layer, k in pairs for m in listed_matmuls(layer, k)]
    return _alone(path, kernels, matmuls)


def _alone(
    path: Path, kernels: tuple[Kernel, ...], matmuls: Iterable[tuple[int, InspectedMatMul]]
) -> EngineInspection:
    """What kernels prove without an ONNX file. What does not hold in every profile does not."""
    profiles = {kernel.profile for kernel in kernels}
    worst: dict[str, InspectedMatMul] = {}
    for profile, matmul in matmuls:
        seen = worst.get(matmul.node)
        if seen is None or (seen.runs == "int8" and matmul.runs != "int8"):
            prefix = f"profile {profile}: " if len(profiles) > 1 and matmul.reason else ""
            named = matmul.model_copy(update={"reason": f"{prefix}{matmul.reason}"})
            worst[matmul.node] = named
    attentions = [k for k in kernels if k.kind == "attention"]
    fused = [sum(k.profile == p for k in attentions) for p in profiles]
    int8 = [sum(k.int8 for k in attentions if k.profile == p) for p in profiles]
    return EngineInspection(
        sm=None,
        precision=None,
        file=path.name,
        size_bytes=None,
        tensorrt_version="unknown",
        plan_sms=None,
        evidence="engine inspector",
        matmuls=tuple(worst.values()),
        attentions=None,
        attentions_fused=min(fused, default=0),
        attentions_int8=min(int8, default=0),
        kernels=kernels,
        weights=None,
    )


def inspect_recorded(coverage: EngineCoverage, path: Path, file: str) -> EngineInspection:
    """An engine of a bundle whose plan cannot be read: what the build recorded of its matmuls."""
    return EngineInspection(
        sm=coverage.sm,
        precision=coverage.precision,
        file=file,
        size_bytes=path.stat().st_size,
        tensorrt_version=coverage.tensorrt_version,
        plan_sms=None,
        evidence=coverage.evidence,
        matmuls=tuple(_recorded(node) for node in coverage.nodes),
        attentions=coverage.attentions,
        attentions_fused=coverage.attentions_fused,
        attentions_int8=coverage.attentions_int8,
        kernels=None,
        weights=None,
    )


def inspect_confirmed(coverage: EngineCoverage, path: Path, file: str) -> EngineInspection:
    """An engine of a bundle: what the build recorded, held against the plan once more.

    Raises:
        CoverageError: the plan cannot be read, or is for another target.
    """
    graph = read_graph(path)
    if graph.text.sms != (coverage.sm,):
        raise CoverageError(
            f"engine {file!r} says it is for SM {', '.join(map(str, graph.text.sms)) or 'none'}",
            wanted=f"SM{coverage.sm}, as its bundle says",
            todo="build the bundle again",
        )
    recorded = inspect_recorded(coverage, path, file)
    matmuls = tuple(_confirmed(matmul, graph.text) for matmul in recorded.matmuls)
    disputed = {m.node for m in matmuls if m.runs == "disputed"}
    lost = sum(any(name in disputed for name in pair) for pair in _fused_pairs(recorded.matmuls))
    return recorded.model_copy(
        update={
            "tensorrt_version": _dotted(graph.text),
            "plan_sms": graph.text.sms,
            "matmuls": matmuls,
            "attentions_int8": max(recorded.attentions_int8 - lost, 0),
            "kernels": tuple(plan_kernel(k, graph.text) for k in graph.kernels),
            "weights": graph.weights,
        }
    )


def _dotted(text: PlanText) -> str:
    return ".".join(map(str, text.version))


def _recorded(node: NodeCoverage) -> InspectedMatMul:
    return InspectedMatMul.model_validate(node.model_dump(exclude={"wanted_int8"}))


def _confirmed(matmul: InspectedMatMul, text: PlanText) -> InspectedMatMul:
    """The record's INT8 stands only if the plan says so too."""
    if matmul.runs != "int8":
        return matmul
    own = [o for o in text.operators if matmul.node in o.onnx_nodes]
    if own and all(operator_is_int8(o) for o in own):
        return matmul
    reason = "the bundle's coverage.json says int8, its plan does not"
    return matmul.model_copy(update={"runs": "disputed", "reason": reason})


def _fused_pairs(matmuls: Iterable[InspectedMatMul]) -> list[list[str]]:
    groups: dict[str, list[str]] = {}
    for matmul in matmuls:
        if matmul.fused_attention and matmul.runs == "int8":
            groups.setdefault(matmul.kernel, []).append(matmul.node)
    return list(groups.values())
