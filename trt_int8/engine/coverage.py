"""Which matmuls run INT8 in a built engine. Fails closed: no proof means not INT8."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from trt_int8.engine.evidence import UNKNOWN_PROFILE, EngineLayer
from trt_int8.engine.plan_text import PlanOperator
from trt_int8.model.onnx_matmuls import MatMulSite
from trt_int8.spec.build import Precision
from trt_int8.spec.coverage import (
    COUNTED_ROLES,
    EngineCoverage,
    NodeCoverage,
    ProfileCoverage,
    Runs,
)


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

    def layers_of(self, node: str, profile: int = 0) -> list[EngineLayer]:
        """GEMM and attention kernels that implement an ONNX node in a profile.

        None if one of them may be of any profile: then nothing is proven.
        """
        found = self._layers_by_node.get(node, [])
        if any(layer.profile == UNKNOWN_PROFILE for layer in found):
            return []
        return [layer for layer in found if layer.profile == profile]

    def operators_of(self, node: str, profile: int = 0) -> list[PlanOperator]:
        """The same from the plan's text."""
        found = [operator for operator in self.operators or () if node in operator.onnx_nodes]
        if any(operator.profile == UNKNOWN_PROFILE for operator in found):
            return []
        return [operator for operator in found if operator.profile == profile]


def cover(
    sites: Iterable[MatMulSite],
    evidence: Evidence,
    precision: Precision,
    sm: int | None,
    profiles: Sequence[str] = ("",),
) -> EngineCoverage:
    """Judge every matmul of an ONNX file by the evidence of the engine built from it.

    Args:
        sites: the matmuls of the file.
        evidence: of the engine.
        precision: which twin it is.
        sm: its target.
        profiles: names of its optimization profiles, in order. A matmul is INT8 only if it is in
            every one of them.
    """
    listed = tuple(sites)
    attentions: dict[int, list[int]] = {}
    for index, site in enumerate(listed):
        if site.attention is not None:
            attentions.setdefault(site.attention, []).append(index)
    judged = [
        [_judge(site, evidence, number) for site in listed] for number in range(len(profiles))
    ]
    facts = [
        _ProfileFacts.of(name, nodes, tuple(attentions.values()))
        for name, nodes in zip(profiles, judged, strict=True)
    ]
    return EngineCoverage(
        sm=sm,
        precision=precision,
        evidence=evidence.source,
        tensorrt_version=evidence.version,
        nodes=tuple(_in_all(each, profiles) for each in zip(*judged, strict=True)),
        attentions=len(attentions),
        attentions_fused=sum(all(column) for column in zip(*(f.fused for f in facts), strict=True)),
        attentions_int8=sum(all(column) for column in zip(*(f.int8 for f in facts), strict=True)),
        profiles=tuple(f.figures() for f in facts) if len(facts) > 1 else (),
    )


@dataclass(frozen=True)
class _ProfileFacts:
    """One profile: its matmuls, and per attention whether it is one kernel, and one in INT8."""

    name: str
    nodes: Sequence[NodeCoverage]
    fused: tuple[bool, ...]
    int8: tuple[bool, ...]

    @classmethod
    def of(
        cls, name: str, nodes: Sequence[NodeCoverage], attentions: Iterable[list[int]]
    ) -> _ProfileFacts:
        groups = [[nodes[index] for index in members] for members in attentions]
        fused = tuple(_is_one_kernel(group) for group in groups)
        int8 = tuple(
            one and all(node.runs == "int8" for node in group)
            for one, group in zip(fused, groups, strict=True)
        )
        return cls(name, nodes, fused, int8)

    def figures(self) -> ProfileCoverage:
        return ProfileCoverage(
            profile=self.name,
            int8=sum(node.runs == "int8" for node in self.nodes if node.role in COUNTED_ROLES),
            attentions_fused=sum(self.fused),
            attentions_int8=sum(self.int8),
        )


def _in_all(by_profile: Sequence[NodeCoverage], profiles: Sequence[str]) -> NodeCoverage:
    """What holds for a matmul in every profile: its worst verdict, which names the profile."""
    worst = min(range(len(by_profile)), key=lambda number: _merit(by_profile[number]))
    node = by_profile[worst]
    reason = node.reason
    if reason and any(other.runs != node.runs for other in by_profile):
        reason = f"profile {profiles[worst]}: {reason}"
    fused = all(each.fused_attention for each in by_profile)
    return node.model_copy(update={"reason": reason, "fused_attention": fused})


def _merit(node: NodeCoverage) -> tuple[bool, bool, bool]:
    """Orders verdicts, the worst first: not INT8, then what costs speed or risks an overflow."""
    is_risky = node.output == "half" and not node.fused_attention
    return node.runs == "int8", node.constant_weight is not False, not is_risky


def _is_one_kernel(nodes: list[NodeCoverage]) -> bool:
    return (
        len(nodes) == 2
        and all(n.fused_attention for n in nodes)
        and len({n.kernel for n in nodes}) == 1
    )


def _judge(site: MatMulSite, evidence: Evidence, profile: int) -> NodeCoverage:
    layers = evidence.layers_of(site.node, profile)
    if not layers:
        return _verdict(site, "unmapped", None, (), _why_unmapped(evidence))
    operators = evidence.operators_of(site.node, profile)
    layer, types = layers[0], _multiplied_types(layers[0], operators)
    runs: Runs = "int8" if all(layer_is_int8(entry) for entry in layers) else "float"
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


def layer_is_int8(layer: EngineLayer) -> bool:
    """Tell whether a listing proves that a GEMM or fused attention multiplies INT8 by INT8."""
    if layer.kind == "attention":
        inputs = [tensor.dtype for tensor in layer.inputs]
        outputs = {tensor.dtype for tensor in layer.outputs}
        return has_int8_qkv(inputs) and outputs == {"int8"}
    return not layer.casts_first and [t.dtype for t in layer.operands] == ["int8", "int8"]


def has_int8_qkv(types: Sequence[str]) -> bool:
    """Q, K and V; shapes, a mask or position bias may come in another type, but a known one."""
    return types.count("int8") == 3 and "unknown" not in types


def _plan_verdict(operators: list[PlanOperator]) -> Runs | None:
    if not operators:
        return None
    return "int8" if all(operator_is_int8(o) for o in operators) else "float"


def operator_is_int8(operator: PlanOperator) -> bool:
    """The same for an operator in the plan's text."""
    if operator.kind == "attention":
        return operator.int8_bmms and has_int8_qkv(operator.operands)
    return operator.operands == ("int8", "int8")


def _why_unmapped(evidence: Evidence) -> str:
    if any(layer.is_opaque for layer in evidence.layers):
        return f"TensorRT {evidence.version} does not list the kernels inside its fused layers"
    return "no kernel of the engine names this node"


def _why_float(site: MatMulSite, layer: EngineLayer, types: tuple[str, ...]) -> str:
    text = " x ".join(types)
    if site.half_int8:
        return f"Q/DQ on one operand alone in the ONNX file (runs {text})"
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
