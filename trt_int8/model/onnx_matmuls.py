"""Where the matmuls of an ONNX graph are: Linear layers and the two BMMs of each attention."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from trt_int8.spec.coverage import Role
from trt_int8.spec.rules import is_too_small

_PASS = frozenset(
    {"Cast", "QuantizeLinear", "DequantizeLinear", "Identity", "Dropout", "Reshape", "Transpose"}
    | {"Squeeze", "Unsqueeze", "Flatten"}
)
# What may stand between the scores and the softmax, and between the softmax and the second BMM.
_SCORE_OPS = _PASS | {"Add", "Sub", "Mul", "Div", "Where", "Max", "Min", "Clip"}
_WEIGHT_OPS = _PASS | {"Where", "Mul"}
# A position bias comes out of a table by number, and may be cut to length.
_BIAS_OPS = _SCORE_OPS | {"Gather", "Slice", "Expand"}
_MAX_STEPS = 24


@dataclass(frozen=True)
class MatMulSite:
    """One MatMul or Gemm.

    Attributes:
        node: its name.
        role: see `trt_int8.spec.coverage.NodeCoverage`.
        attention: index of the attention it belongs to; None for others.
        wanted_int8: both operands come from a DequantizeLinear.
        half_int8: one of them alone does, so the matmul runs in float.
    """

    node: str
    role: Role
    attention: int | None
    wanted_int8: bool
    half_int8: bool = False


@dataclass(frozen=True)
class AttentionSite:
    """The two BMMs around a softmax, as graph nodes."""

    scores: ir.Node
    softmax: ir.Node
    context: ir.Node


def find_matmuls(model: onnx.ModelProto) -> tuple[MatMulSite, ...]:
    """List the MatMul and Gemm nodes of a graph, in its order; shape computations are left out."""
    graph = ir.from_proto(model).graph
    attentions = find_attentions(graph)
    index_of = {id(node): i for i, a in enumerate(attentions) for node in (a.scores, a.context)}
    sites = []
    for node in graph:
        if node.op_type in ("MatMul", "Gemm"):
            int8 = [comes_from_dequantize(value) for value in node.inputs[:2]]
            site = MatMulSite(
                node=str(node.name),
                role=role_of(node, is_attention=id(node) in index_of),
                attention=index_of.get(id(node)),
                wanted_int8=all(int8),
                half_int8=any(int8) and not all(int8),
            )
            sites.append(site)
    return tuple(sites)


def role_of(node: ir.Node, *, is_attention: bool) -> Role:
    """Linear if operand B is constant, attention if around a softmax, else other."""
    if is_attention:
        return "attention"
    shape = weight_shape(node)
    if shape is None:
        return "other"
    return "small" if is_too_small(*shape) else "linear"


def weight_shape(node: ir.Node) -> tuple[int, int] | None:
    """[K, N] (in either order) of a constant 2-D operand B; None if B is computed."""
    value = node.inputs[1]
    for _ in range(_MAX_STEPS):
        if value is None:
            return None
        if value.is_initializer() and value.const_value is not None:
            dims = value.const_value.shape.numpy()
            return (dims[0], dims[1]) if len(dims) == 2 else None
        producer = value.producer()
        if producer is None or producer.op_type not in _PASS:
            return None
        value = producer.inputs[0]
    return None


def comes_from_dequantize(value: ir.Value | None) -> bool:
    """Tell whether only casts and layout operators stand between a DQ and this operand."""
    for _ in range(_MAX_STEPS):
        producer = value.producer() if value is not None else None
        if producer is None:
            return False
        if producer.op_type == "DequantizeLinear":
            return True
        if producer.op_type not in _PASS:
            return False
        value = producer.inputs[0]
    return False


def find_attentions(graph: ir.Graph) -> tuple[AttentionSite, ...]:
    """Find each MatMul -> (scale, mask) -> Softmax -> MatMul, in graph order."""
    found = []
    for softmax in graph:
        if softmax.op_type != "Softmax":
            continue
        scores = next(_matmuls_before(softmax), None)
        context = next(_matmuls_after(softmax), None)
        if scores is not None and context is not None and scores is not context:
            found.append(AttentionSite(scores, softmax, context))
    return tuple(found)


def nodes_of_scores(attention: AttentionSite) -> tuple[ir.Node, ...]:
    """Nodes between the first matmul and the softmax: scaling, mask, position bias and its makers.

    What a mask or bias is made of is among them, as far as its operators could be part of scores.
    """
    found: dict[int, ir.Node] = {}
    queue = [attention.softmax.inputs[0]]
    while queue:
        value = queue.pop()
        node = value.producer() if value is not None else None
        if node is None or id(node) in found or node is attention.scores:
            continue
        if node.op_type in _BIAS_OPS:
            found[id(node)] = node
            queue += node.inputs
    return tuple(found.values())


def _matmuls_before(softmax: ir.Node) -> Iterator[ir.Node]:
    queue: list[tuple[ir.Value | None, int]] = [(softmax.inputs[0], 0)]
    while queue:
        value, steps = queue.pop(0)
        producer = value.producer() if value is not None else None
        if producer is None or steps > _MAX_STEPS:
            continue
        if producer.op_type == "MatMul" and weight_shape(producer) is None:
            yield producer
        elif producer.op_type in _SCORE_OPS:
            queue += [(v, steps + 1) for v in producer.inputs]


def _matmuls_after(softmax: ir.Node) -> Iterator[ir.Node]:
    queue = [(softmax.outputs[0], 0)]
    while queue:
        value, steps = queue.pop(0)
        for user, index in value.uses():
            if user.op_type == "MatMul" and index == 0 and weight_shape(user) is None:
                yield user
            elif user.op_type in _WEIGHT_OPS and steps < _MAX_STEPS:
                queue.append((user.outputs[0], steps + 1))
