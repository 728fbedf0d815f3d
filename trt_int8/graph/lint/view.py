"""A sound graph as the checks see it: inlined, constants lifted, shapes and types inferred.

Nothing here raises on an odd attribute or a damaged tensor: it answers None instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trt_int8.model.onnx_matmuls import AttentionSite, find_attentions
from trt_int8.spec.lint import Goal

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
QDQ = (QUANTIZE, DEQUANTIZE)
MATMULS = ("MatMul", "Gemm")
LAYOUT = frozenset(
    {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Dropout", "Expand"}
)
PASS = LAYOUT | {"Cast"}
STANDARD_DOMAINS = ("", "ai.onnx")
_MAX_STEPS = 32


@dataclass(frozen=True)
class CalledFunction:
    """A local function before inlining.

    Attributes:
        name: domain and name.
        overload: "" for none.
        calls: how often a node calls it.
        has_qdq: Q or DQ stand in its body, or in one that it calls.
    """

    name: str
    overload: str
    calls: int
    has_qdq: bool


@dataclass(frozen=True)
class FileFacts:
    """What is known of the file beside its graph.

    Attributes:
        opset: version of the standard operators; 0 if the file names none.
        total_bytes: of the file and its external data.
        functions: local functions, as stored.
        node_names: (name, operator, first output) of all stored nodes.
    """

    opset: int
    total_bytes: int
    functions: tuple[CalledFunction, ...] = ()
    node_names: tuple[tuple[str, str, str], ...] = ()


class GraphView:
    """The main graph with everything inlined; nodes of sub-graphs are listed too."""

    def __init__(self, model: ir.Model, facts: FileFacts, goal: Goal) -> None:
        """Take a model whose functions are inlined and constants lifted."""
        self.graph, self.facts, self.goal = model.graph, facts, goal
        self.nodes: tuple[ir.Node, ...] = tuple(model.graph.all_nodes())

    def of(self, *kinds: str) -> tuple[ir.Node, ...]:
        """Nodes of these operators of the standard domain."""
        return tuple(n for n in self.nodes if n.op_type in kinds and n.domain in STANDARD_DOMAINS)

    @cached_property
    def has_qdq(self) -> bool:
        """Some Q or DQ is there."""
        return bool(self.of(*QDQ))

    @cached_property
    def attentions(self) -> tuple[AttentionSite, ...]:
        """MatMul, Softmax, MatMul of each attention of the main graph."""
        return find_attentions(self.graph)

    @cached_property
    def attention_matmuls(self) -> frozenset[int]:
        """Ids of the two matmuls of each attention."""
        return frozenset(id(n) for a in self.attentions for n in (a.scores, a.context))


def name_of(node: ir.Node) -> str:
    """Its name; the name TensorRT's parser would give it if it has none."""
    return node.name or f"node_of_{node.outputs[0].name if node.outputs else '?'}"


def source(node: ir.Node, index: int) -> ir.Value | None:
    """An input; None if it is left out."""
    return node.inputs[index] if index < len(node.inputs) else None


def array_of(value: ir.Value | None) -> NDArray[Any] | None:
    """The array of a constant; None if it is computed, left out or damaged."""
    # TensorRT folds these two, as exporters put them behind scales.
    while is_kind(producer := maker(value), "Identity") and producer is not None:
        value = source(producer, 0)
    if producer is not None and is_kind(producer, "Cast"):
        inner = array_of(source(producer, 0))
        kind = dtype_of(value)
        return inner if inner is None or kind is None else inner.astype(kind.numpy())
    if value is None or not value.is_initializer() or value.const_value is None:
        return None
    try:
        return np.asarray(value.const_value.numpy())
    except Exception:  # noqa: BLE001 - any damage of a tensor, of many kinds; reported elsewhere
        return None


def dtype_of(value: ir.Value | None) -> ir.DataType | None:
    """The element type of a tensor, stored or inferred."""
    if value is None:
        return None
    return value.const_value.dtype if value.const_value is not None else value.dtype


def shape_of(value: ir.Value | None) -> tuple[int | str | None, ...] | None:
    """Sizes or names of the axes of a tensor; None if the rank is not known."""
    if value is None:
        return None
    shape = value.const_value.shape if value.const_value is not None else value.shape
    if shape is None:
        return None
    return tuple(dim if isinstance(dim, int) else dim.value for dim in shape)


def integer(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute; the default if it is missing or of another type."""
    attribute = node.attributes.get(name)
    if attribute is None or attribute.type != ir.AttributeType.INT or attribute.is_ref():
        return default
    return int(attribute.value)


def integers(node: ir.Node, name: str) -> tuple[int, ...] | None:
    """A list of integers; None if it is missing or of another type."""
    attribute = node.attributes.get(name)
    if attribute is None or attribute.type != ir.AttributeType.INTS or attribute.is_ref():
        return None
    return tuple(int(item) for item in attribute.value)


def maker(value: ir.Value | None) -> ir.Node | None:
    """The node that makes a tensor."""
    return value.producer() if value is not None else None


def is_kind(node: ir.Node | None, *kinds: str) -> bool:
    """Tell whether it is one of these operators of the standard domain."""
    return node is not None and node.op_type in kinds and node.domain in STANDARD_DOMAINS


def dequantizer_behind(value: ir.Value | None, *, over_scaling: bool = False) -> ir.Node | None:
    """The DQ in front of an operand, past casts and layout operators.

    Args:
        value: the operand.
        over_scaling: past a Mul or Div by one constant number too (1/sqrt(D) of attention).
    """
    for _ in range(_MAX_STEPS):
        node = maker(value)
        if node is None or is_kind(node, DEQUANTIZE):
            return node
        if is_kind(node, *PASS):
            value = source(node, 0)
        elif is_kind(node, "Concat"):
            return _common_dequantizer(node)
        elif over_scaling and is_kind(node, "Mul", "Div"):
            value = _scaled(node)
        else:
            return None
    return None


def _common_dequantizer(concat: ir.Node) -> ir.Node | None:
    """One of the DQs behind a Concat, if all inputs have one and their scales are equal."""
    makers = [maker(value) for value in concat.inputs]
    # Concats of Concats are rare, and could nest without end.
    if any(is_kind(node, "Concat") for node in makers):
        return None
    found = [dequantizer_behind(value) for value in concat.inputs]
    behind = [node for node in found if node is not None]
    whole = len(behind) == len(found) and all(same_scale(behind[0], other) for other in behind)
    return behind[0] if behind and whole else None


def _scaled(node: ir.Node) -> ir.Value | None:
    """What a node multiplies by one constant number; None if it does something else."""
    first, second = source(node, 0), source(node, 1)
    if is_number(second):
        return first
    return second if is_number(first) and node.op_type == "Mul" else None


def is_number(value: ir.Value | None) -> bool:
    """Tell whether it is a constant of one element."""
    array = array_of(value)
    return array is not None and array.size == 1


def users(value: ir.Value | None, *, through: frozenset[str] = PASS) -> Iterator[ir.Node]:
    """Nodes that read a tensor as their first input or otherwise, past operators of `through`."""
    queue, seen = [value], set()
    while queue:
        current = queue.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        for use in current.uses():
            node, index = use
            if is_kind(node, *through) and (index == 0 or node.op_type == "Concat"):
                queue += list(node.outputs)
            else:
                yield node


def scale_of(node: ir.Node) -> NDArray[Any] | None:
    """The constant scale of a Q or DQ; None if it is computed."""
    return array_of(source(node, 1))


def past_layout(value: ir.Value | None) -> ir.Node | None:
    """The maker of a tensor, past casts and layout operators."""
    node = maker(value)
    while node is not None and is_kind(node, *PASS):
        node = maker(source(node, 0))
    return node


def same_scale(first: ir.Node, second: ir.Node) -> bool:
    """Tell whether two Q or DQ have equal constant scales."""
    one, two = scale_of(first), scale_of(second)
    if one is None or two is None:
        return False
    return one.size == two.size and bool(np.array_equal(one.reshape(-1), two.reshape(-1)))


def weight_behind(value: ir.Value | None) -> tuple[ir.Node, tuple[ir.Node, ...]] | None:
    """The DQ of a constant in front of an operand, with the nodes between constant and operand.

    Returns:
        The DQ and all nodes from the operand back to the constant; None for a computed operand.
    """
    path: list[ir.Node] = []
    dequantizer = None
    for _ in range(_MAX_STEPS):
        if value is not None and value.is_initializer():
            return (dequantizer, tuple(path)) if dequantizer is not None else None
        node = maker(value)
        if node is None or not (is_kind(node, *PASS) or is_kind(node, *QDQ)):
            return None
        if is_kind(node, DEQUANTIZE) and dequantizer is None:
            dequantizer = node
        path.append(node)
        value = source(node, 0)
    return None


def activation_source(dequantizer: ir.Node) -> ir.Value | None:
    """What the Q in front of a DQ quantizes, if that is computed at run time."""
    quantizer = maker(source(dequantizer, 0))
    if quantizer is None or not is_kind(quantizer, QUANTIZE):
        return None
    value = source(quantizer, 0)
    return None if value is None or value.is_initializer() else value
