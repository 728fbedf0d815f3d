"""Where the blocks of a Transformer are in an ONNX graph, by structure alone: no name is read.

A residual sum is an Add one of whose operands depends on the other through a Linear. What lies
between the two is its branch; a Linear in there is a projection of an attention or belongs to a
feed-forward block. So post-LN, pre-LN and parallel branches added at once are one case. Of parallel
branches added one by one, the second depends on the skip arm of the first sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from trt_int8.model.onnx_matmuls import (
    AttentionSite,
    find_attentions,
    nodes_of_scores,
    weight_shape,
)
from trt_int8.spec.rules import MIN_FEATURES

LinearRole = Literal["projection", "ffn", "other"]
MATMULS = ("MatMul", "Gemm")
LAYOUT = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Cast"})


@dataclass(frozen=True)
class Residual:
    """A residual sum.

    Attributes:
        add: its node.
        skip: index of the operand that is the skip arm; None in a second sum of parallel branches,
            which adds to the first one.
        linears: Linear nodes in its branch.
    """

    add: ir.Node
    skip: int | None
    linears: tuple[ir.Node, ...]

    @property
    def source(self) -> ir.Value | None:
        """The tensor the skip arm carries."""
        return None if self.skip is None else self.add.inputs[self.skip]


@dataclass(frozen=True)
class Projections:
    """The Linears of one attention: in front of its two matmuls, and behind them."""

    before: tuple[ir.Node, ...]
    after: tuple[ir.Node, ...]


@dataclass(frozen=True)
class Blocks:
    """What a Transformer graph is made of.

    Attributes:
        attentions: in graph order.
        projections: of each attention.
        residuals: in graph order.
        embeddings: Gather nodes over a table [V, H] of the file, with computed row numbers.
    """

    attentions: tuple[AttentionSite, ...]
    projections: tuple[Projections, ...]
    residuals: tuple[Residual, ...]
    embeddings: tuple[ir.Node, ...]

    def role_of(self, node: ir.Node) -> LinearRole:
        """What a Linear is for."""
        for found in self.projections:
            if any(node is other for other in found.before + found.after):
                return "projection"
        inside = any(node is other for sum_ in self.residuals for other in sum_.linears)
        return "ffn" if inside else "other"


def find_blocks(graph: ir.Graph) -> Blocks:
    """Find the blocks of a graph in normal form (sorted, constants are initializers)."""
    attentions = find_attentions(graph)
    scores = {id(node) for each in attentions for node in nodes_of_scores(each)}
    residuals = tuple(_residuals(graph, scores))
    sums = {id(found.add) for found in residuals}
    projections = tuple(
        Projections(tuple(_before(each, sums)), tuple(_after(each, sums))) for each in attentions
    )
    tables = tuple(node for node in graph if _is_embedding(node) and id(node) not in scores)
    return Blocks(attentions, projections, residuals, tables)


def is_linear(node: ir.Node) -> bool:
    """A MatMul or Gemm with a constant matrix as its second operand."""
    return node.op_type in MATMULS and weight_shape(node) is not None


def behind_layout(value: ir.Value) -> tuple[ir.Value, ir.Node | None]:
    """The tensor that layout operators only pass on, and the first of those operators."""
    first: ir.Node | None = None
    while True:
        producer = value.producer()
        if producer is None or producer.op_type not in LAYOUT or producer.inputs[0] is None:
            return value, first
        value, first = producer.inputs[0], producer


def _residuals(graph: ir.Graph, scores: set[int]) -> Iterator[Residual]:
    nodes = list(graph)
    place = {id(node): number for number, node in enumerate(nodes)}
    carried: dict[int, ir.Value] = {}
    for add in nodes:
        # A mask or position bias of all layers looks like a skip arm: later scores depend on it.
        if add.op_type != "Add" or id(add) in scores:
            continue
        if any(value is None or value.is_initializer() for value in add.inputs):
            continue
        for skip, main in ((0, 1), (1, 0)):
            arm, other = add.inputs[skip], add.inputs[main]
            linears = _branch(nodes, place, (arm, other))
            if linears and arm is not None:
                carried[id(add.outputs[0])] = arm
                yield Residual(add, skip, linears)
                break
            linears = _branch(nodes, place, (carried.get(id(arm)), other))
            if linears:
                yield Residual(add, None, linears)
                break


def _branch(
    nodes: list[ir.Node],
    place: dict[int, int],
    arms: tuple[ir.Value | None, ir.Value | None],
) -> tuple[ir.Node, ...]:
    """Linears that lead from the skip arm to the other one; none if it depends on none."""
    skip, main = arms
    start, end = _maker(place, skip), _maker(place, main)
    if skip is None or end <= start:
        return ()
    depends = {id(skip)}
    for node in nodes[start + 1 : end + 1]:
        if node.op_type != "Shape" and any(
            value is not None and id(value) in depends for value in node.inputs
        ):
            depends.update(id(value) for value in node.outputs)
    if id(main) not in depends:
        return ()
    needed, linears = {id(main)}, []
    for node in reversed(nodes[start + 1 : end + 1]):
        if any(id(value) in needed and id(value) in depends for value in node.outputs):
            needed.update(id(value) for value in node.inputs if value is not None)
            if is_linear(node):
                linears.append(node)
    return tuple(reversed(linears))


def _maker(place: dict[int, int], value: ir.Value | None) -> int:
    producer = value.producer() if value is not None else None
    return -1 if producer is None else place[id(producer)]


def _before(attention: AttentionSite, sums: set[int]) -> Iterator[ir.Node]:
    """Linears that make Q, K and V; norms and rotations may stand between."""
    operands = [attention.scores.inputs[0], attention.scores.inputs[1], attention.context.inputs[1]]
    seen: set[int] = set()
    while operands:
        value = operands.pop(0)
        node = value.producer() if value is not None else None
        if node is None or id(node) in seen or id(node) in sums:
            continue
        seen.add(id(node))
        if is_linear(node):
            yield node
        elif node.op_type not in (*MATMULS, "Softmax", "Shape"):
            operands += node.inputs


def _after(attention: AttentionSite, sums: set[int]) -> Iterator[ir.Node]:
    """Linears that the attention output goes through first."""
    values = list(attention.context.outputs)
    seen: set[int] = set()
    while values:
        for node, _ in values.pop(0).uses():
            if id(node) in seen or id(node) in sums:
                continue
            seen.add(id(node))
            if is_linear(node):
                yield node
            elif node.op_type not in (*MATMULS, "Softmax", "Shape"):
                values += node.outputs


def _is_embedding(node: ir.Node) -> bool:
    if node.op_type != "Gather" or len(node.inputs) != 2:
        return False
    table, rows = node.inputs
    if table is None or rows is None or rows.is_initializer() or not table.is_initializer():
        return False
    stored = table.const_value
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    if stored is None or stored.dtype != ir.DataType.FLOAT or axis != 0:
        return False
    dims = stored.shape.numpy()
    return len(dims) == 2 and dims[1] >= MIN_FEATURES
