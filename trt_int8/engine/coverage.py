"""Which matmuls run INT8 in a built engine. Fails closed: no proof means not INT8."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from trt_int8.engine.evidence import EngineLayer
from trt_int8.engine.plan_text import PlanOperator
from trt_int8.model.onnx_matmuls import MatMulSite
from trt_int8.spec.build import Precision
from trt_int8.spec.coverage import EngineCoverage, NodeCoverage, Runs


@dataclass(frozen=True)
class Evidence:
    """What is known about one engine.

    Attributes:
        source: named in the report.
        version: TensorRT version that built it.
        layers: kernels listed by the builder or the engine inspector.
        operators: matrix operators in the plan's own text; None where no second source exists.
    """

    source: str
    version: str
    layers: tuple[EngineLayer, ...]
    operators: tuple[PlanOperator, ...] | None

    @cached_property
    def _layers_by_node(self) -> dict[str, list[EngineLayer]]:
        found: dict[str, list[EngineLayer]] = {}
        for layer in self.layers:
            # A dequantize kernel also carries its MatMul's name: only matrix kernels count.
            for name in layer.onnx_nodes if layer.kind != "other" else ():
                found.setdefault(name, []).append(layer)
        return found

    def layers_of(self, node: str) -> list[EngineLayer]:
        """GEMM and attention kernels that implement an ONNX node."""
        return self._layers_by_node.get(node, [])

    def operators_of(self, node: str) -> list[PlanOperator]:
        """The same from the plan's text."""
        return [o for o in self.operators or () if node in o.onnx_nodes]


def cover(
    sites: Iterable[MatMulSite], evidence: Evidence, precision: Precision, sm: int | None
) -> EngineCoverage:
    """Judge every matmul of an ONNX file by the evidence of the engine built from it."""
    listed = tuple(sites)
    nodes = tuple(_judge(site, evidence) for site in listed)
    groups: dict[int, list[NodeCoverage]] = {}
    for site, node in zip(listed, nodes, strict=True):
        if site.attention is not None:
            groups.setdefault(site.attention, []).append(node)
    fused = [g for g in groups.values() if _is_one_kernel(g)]
    return EngineCoverage(
        sm=sm,
        precision=precision,
        evidence=evidence.source,
        tensorrt_version=evidence.version,
        nodes=nodes,
        attentions=len(groups),
        attentions_fused=len(fused),
        attentions_int8=sum(all(n.runs == "int8" for n in g) for g in fused),
    )


def _is_one_kernel(nodes: list[NodeCoverage]) -> bool:
    return (
        len(nodes) == 2
        and all(n.fused_attention for n in nodes)
        and len({n.kernel for n in nodes}) == 1
    )


def _judge(site: MatMulSite, evidence: Evidence) -> NodeCoverage:
    layers = evidence.layers_of(site.node)
    if not layers:
        return _verdict(site, "unmapped", None, (), _why_unmapped(evidence))
    operators = evidence.operators_of(site.node)
    layer, types = layers[0], _multiplied_types(layers[0], operators)
    runs: Runs = "int8" if all(_is_int8(entry) for entry in layers) else "float"
    if evidence.operators is not None:
        plan_runs = _plan_verdict(operators)
        if plan_runs != runs:
            reason = f"the builder's log says {runs}, the plan says {plan_runs or 'nothing'}"
            return _verdict(site, "disputed", layer, types, reason)
    reason = "" if runs == "int8" else _why_float(site, layer, types)
    return _verdict(site, runs, layer, types, reason)


def _multiplied_types(layer: EngineLayer, operators: list[PlanOperator]) -> tuple[str, ...]:
    """Data types of the two operands where they are multiplied.

    A kernel that casts first reads other types; the plan then has the inner GEMM as an operator
    of its own, beside the fused one. Without a plan the cast type is not known.
    """
    read = tuple(tensor.dtype for tensor in layer.operands)
    if not layer.casts_first:
        return read
    inner = [o.operands for o in operators if o.kind == "gemm" and "int8" not in o.operands]
    return inner[-1] if inner else tuple("unknown" if t == "int8" else t for t in read)


def _is_int8(layer: EngineLayer) -> bool:
    if layer.kind == "attention":
        inputs = [tensor.dtype for tensor in layer.inputs]
        outputs = {tensor.dtype for tensor in layer.outputs}
        return _has_int8_qkv(inputs) and outputs == {"int8"}
    return not layer.casts_first and [t.dtype for t in layer.operands] == ["int8", "int8"]


def _has_int8_qkv(types: Sequence[str]) -> bool:
    """Q, K and V; shapes, a mask or position bias may come in another type, but a known one."""
    return types.count("int8") == 3 and "unknown" not in types


def _plan_verdict(operators: list[PlanOperator]) -> Runs | None:
    if not operators:
        return None
    return "int8" if all(_operator_is_int8(o) for o in operators) else "float"


def _operator_is_int8(operator: PlanOperator) -> bool:
    if operator.kind == "attention":
        return operator.int8_bmms and _has_int8_qkv(operator.operands)
    return operator.operands == ("int8", "int8")


def _why_unmapped(evidence: Evidence) -> str:
    if any(layer.is_opaque for layer in evidence.layers):
        return f"TensorRT {evidence.version} does not list the kernels inside its fused layers"
    return "no kernel of the engine names this node"


def _why_float(site: MatMulSite, layer: EngineLayer, types: tuple[str, ...]) -> str:
    text = " x ".join(types)
    if not site.wanted_int8:
        return f"no Q/DQ on both operands in the ONNX file (runs {text})"
    if layer.casts_first:
        return f"Q/DQ is there, but TensorRT's kernel casts first and multiplies {text}"
    return f"Q/DQ is there, but TensorRT chose a {text} kernel"


def _verdict(
    site: MatMulSite, runs: Runs, layer: EngineLayer | None, types: tuple[str, ...], reason: str
) -> NodeCoverage:
    constant = None
    if layer is not None and site.role in ("linear", "small"):
        names = {t.name for t in layer.constants}
        constant = any(t.name in names for t in layer.operands)
    return NodeCoverage(
        node=site.node,
        role=site.role,
        wanted_int8=site.wanted_int8,
        runs=runs,
        operands=types,
        output=layer.outputs[0].dtype if layer and layer.outputs else "unknown",
        constant_weight=constant,
        kernel=layer.name if layer else "",
        fused_attention=layer is not None and layer.kind == "attention",
        reason=reason,
    )
