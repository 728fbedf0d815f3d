"""Which matmuls run INT8 in a built engine. Fails closed: no proof means not INT8."""

from __future__ import annotations

from collections.abc import Iterable
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
        return _verdict(site, "unmapped", None, "no kernel of the engine names this node")
    layer = layers[0]
    runs: Runs = "int8" if all(_is_int8(entry) for entry in layers) else "float"
    if evidence.operators is not None:
        plan_runs = _plan_verdict(evidence.operators_of(site.node))
        if plan_runs != runs:
            reason = f"the builder's log says {runs}, the plan says {plan_runs or 'nothing'}"
            return _verdict(site, "disputed", layer, reason)
    reason = "" if runs == "int8" else _why_float(site, layer)
    return _verdict(site, runs, layer, reason)


def _is_int8(layer: EngineLayer) -> bool:
    if layer.kind == "attention":
        # Q, K and V; a mask or position bias may come in another type.
        codes = sum(tensor.dtype == "int8" for tensor in layer.inputs)
        return codes == 3 and {tensor.dtype for tensor in layer.outputs} == {"int8"}
    return [t.dtype for t in layer.operands] == ["int8", "int8"]


def _plan_verdict(operators: list[PlanOperator]) -> Runs | None:
    if not operators:
        return None
    return "int8" if all(_operator_is_int8(o) for o in operators) else "float"


def _operator_is_int8(operator: PlanOperator) -> bool:
    if operator.kind == "attention":
        return operator.int8_bmms and operator.operands.count("int8") == 3
    return operator.operands == ("int8", "int8")


def _why_float(site: MatMulSite, layer: EngineLayer) -> str:
    types = " x ".join(t.dtype for t in layer.operands)
    if not site.wanted_int8:
        return f"no Q/DQ on both operands in the ONNX file (runs {types})"
    return f"Q/DQ is there, but TensorRT chose a {types} kernel"


def _verdict(site: MatMulSite, runs: Runs, layer: EngineLayer | None, reason: str) -> NodeCoverage:
    constant = None
    if layer is not None and site.role in ("linear", "small"):
        names = {t.name for t in layer.constants}
        constant = any(t.name in names for t in layer.operands)
    return NodeCoverage(
        node=site.node,
        role=site.role,
        wanted_int8=site.wanted_int8,
        runs=runs,
        operands=tuple(t.dtype for t in layer.operands) if layer else (),
        output=layer.outputs[0].dtype if layer and layer.outputs else "unknown",
        constant_weight=constant,
        kernel=layer.name if layer else "",
        fused_attention=layer is not None and layer.kind == "attention",
        reason=reason,
    )
