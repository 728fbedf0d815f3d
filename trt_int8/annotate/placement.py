"""Apply a recipe to the blocks of a float ONNX graph, rule by rule (`spec.rules.RULES`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx_ir as ir

from trt_int8.model.onnx_blocks import LAYOUT, Blocks, Projections, behind_layout, is_linear
from trt_int8.model.onnx_matmuls import AttentionSite, weight_shape
from trt_int8.spec.recipe import Recipe
from trt_int8.spec.rules import KEPT, PlacementNote, is_kept, is_too_small

Operand = tuple[str, int, str]
Group = tuple[str, ...]


class Placement:
    """Collects what is to be quantized; each method is one switch of the recipe.

    Attributes:
        operands: (node, operand index, tensor).
        results: tensors whose users all read the pair.
        weights: Linear nodes.
        tables: Gather nodes of embeddings.
        residual: tensors of skip arms.
        notes: what stays float, and why.
    """

    def __init__(self, graph: ir.Graph, recipe: Recipe, blocks: Blocks) -> None:
        """Nothing is planned yet."""
        self._graph, self._recipe, self._blocks = graph, recipe, blocks
        self.operands: list[Operand] = []
        self.results: list[str] = []
        self.weights: list[str] = []
        self.tables: list[str] = []
        self.residual: list[str] = []
        self.notes: list[PlacementNote] = []

    def linears(self) -> None:
        """Input and weight of each Linear that is chosen and large enough."""
        shared = self._skip_sources() if self._recipe.residual else {}
        for node in self._graph:
            shape = weight_shape(node) if is_linear(node) else None
            if shape is None:
                continue
            if self._recipe.linear == "ffn" and self._blocks.role_of(node) != "ffn":
                continue
            if self._kept(node):
                self._note(node, "keep", KEPT)
                continue
            if is_too_small(*shape):
                k, n = shape
                self._note(node, "small", f"its weight is {k} x {n}, an INT8 tile 16 x 16 or more")
                continue
            self.operands.append(_shared_operand(node, shared))
            self.weights.append(str(node.name))

    def attentions(self, refusals: Iterable[str]) -> None:
        """All five tensors of each attention, or none of them.

        Args:
            refusals: for each attention why it stays FP16; empty if it does not.
        """
        for attention, refusal in zip(self._blocks.attentions, refusals, strict=True):
            matmuls = (attention.scores, attention.context)
            kept = any(self._kept(node) for node in (*matmuls, attention.softmax))
            if kept or refusal:
                for node in matmuls:
                    rule, why = ("keep", KEPT) if kept else ("attention-limits", refusal)
                    self._note(node, rule, why)
                continue
            self.operands += _bmm_operands(attention)
            self.results.append(_name(attention.context.outputs[0]))
            if self._recipe.softmax_input:
                masked = _name(attention.softmax.inputs[0])
                self.operands.append((str(attention.softmax.name), 0, masked))

    def residuals(self) -> None:
        """The skip arm of each residual sum, by the pair its source has for Linears."""
        for found in self._blocks.residuals:
            source, skip = found.source, found.skip
            if skip is None or source is None or self._kept(found.add):
                continue
            if _can_be_read(source):
                tensor = _name(source)
                self.operands.append((str(found.add.name), skip, tensor))
                self.residual.append(tensor)

    def gemm_outputs(self) -> None:
        """The result of each quantized Linear of a layer, in front of its bias if it has one."""
        chosen = set(self.weights)
        for node in self._graph:
            inside = str(node.name) in chosen and self._blocks.role_of(node) != "other"
            if inside and node.outputs[0].uses():
                self.results.append(_name(node.outputs[0]))

    def embeddings(self) -> None:
        """The tables of token, position and type embeddings."""
        self.tables += [str(n.name) for n in self._blocks.embeddings if not self._kept(n)]

    def same_weight_scale(self) -> tuple[Group, ...]:
        """Q, K and V of one attention over one tensor: one scale, so that they stay one GEMM."""
        chosen = set(self.weights)
        groups = (_by_input(found, chosen) for found in self._blocks.projections)
        return tuple(dict.fromkeys(group for found in groups for group in found))

    def same_scale(self) -> tuple[Group, ...]:
        """Tensors that share one scale, so that no kernel has to turn codes of one into the other.

        Quantized results that Concat joins; a quantized result and the Linear input that it becomes
        by layout operators alone (attention output); GEMM outputs of one group of weights.
        """
        chosen = set(self.results)
        makers = {str(node.name): node for node in self._graph}
        groups: list[Group] = []
        for node in self._graph:
            if node.op_type == "Concat":
                sources = (behind_layout(value)[0] for value in node.inputs if value is not None)
                groups.append(tuple(n for n in map(_name, sources) if n in chosen))
            elif str(node.name) in self.weights and (value := node.inputs[0]) is not None:
                source = _name(behind_layout(value)[0])
                if source in chosen and _name(value) != source:
                    groups.append((source, _name(value)))
        if self._recipe.gemm_output:
            groups += [
                tuple(_name(makers[name].outputs[0]) for name in group)
                for group in self.same_weight_scale()
            ]
        return tuple(group for group in groups if len(group) > 1)

    def _skip_sources(self) -> dict[int, ir.Value]:
        kept = (found.source for found in self._blocks.residuals if not self._kept(found.add))
        return {id(value): value for value in kept if value is not None}

    def _kept(self, node: ir.Node) -> bool:
        return is_kept(str(node.name), self._recipe.keep)

    def _note(self, node: ir.Node, rule: str, reason: str) -> None:
        self.notes.append(PlacementNote(node=str(node.name), rule=rule, reason=reason))


def _shared_operand(node: ir.Node, shared: dict[int, ir.Value]) -> Operand:
    """The input of a Linear; behind layout operators if a skip arm reads the tensor there.

    Two pairs, one on each side of a Reshape, would be two scales and two kernels.
    """
    value = node.inputs[0]
    if value is not None and id(value) not in shared:
        source, first = behind_layout(value)
        if first is not None and id(source) in shared and first.op_type in LAYOUT - {"Cast"}:
            return str(first.name), 0, _name(source)
    return str(node.name), 0, _name(value)


def _bmm_operands(attention: AttentionSite) -> Iterator[Operand]:
    for node in (attention.scores, attention.context):
        for index in (0, 1):
            yield str(node.name), index, _name(node.inputs[index])


def _by_input(found: Projections, chosen: set[str]) -> Iterator[Group]:
    groups: dict[str, list[str]] = {}
    for node in found.before:
        if str(node.name) in chosen:
            groups.setdefault(_name(node.inputs[0]), []).append(str(node.name))
    yield from (tuple(sorted(group)) for group in groups.values() if len(group) > 1)


def _can_be_read(value: ir.Value) -> bool:
    """A tensor made at run time, in float32 as far as is known."""
    return not value.is_initializer() and value.dtype in (None, ir.DataType.FLOAT)


def _name(value: ir.Value | None) -> str:
    return str(value.name) if value is not None else ""
