"""The way of Q, K and V from their pairs to the matmuls of an attention.

Plugins read and write codes as [B, S, N, D], the matmuls as [B, N, S, D]. So codes pass two layout
operators that undo each other, one outside the plugin node and one inside its reference body:
whatever is float stays where it was, and so does every rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trt_int8.graph import qdq
from trt_int8.graph.names import TensorNames
from trt_int8.graph.plugins.walk import NoPluginError, Shapes, is_gone, number, scale_of

# From [B, S, N, D] to what the matmuls read: [B, N, S, D], and K as [B, N, D, S].
HEADS_FIRST = (0, 2, 1, 3)
KEY_TURNED = (0, 2, 3, 1)
_SAME = (0, 1, 2, 3)
# Part of the name of a layout operator between a plugin node and its neighbours.
ADAPTER = "plugin_layout"
_FLOATS = (int(ir.DataType.FLOAT), int(ir.DataType.FLOAT16))


@dataclass(frozen=True)
class OperandPath:
    """What stands between the codes of a tensor and the operand of a matmul.

    Attributes:
        quantize: Q.
        behind: every node from Q to the operand, in order: Transposes, DQ, Casts, products with a
            number, and the Reshape that splits the heads if Q is in front of it.
        perm: the Transposes among `behind` as one.
        split: N and D, if the codes are [B, S, N * D].
        scale: of Q and DQ.
        factor: product of the numbers.
    """

    quantize: ir.Node
    behind: tuple[ir.Node, ...]
    perm: tuple[int, ...]
    scale: float
    factor: float
    split: tuple[int, int] | None = None


def read_operand(value: ir.Value | None, name: str, shapes: Shapes) -> OperandPath:
    """Follow an operand back to its Q.

    Args:
        value: operand of rank 4.
        name: for messages.
        shapes: of the graph.

    Raises:
        NoPluginError: it does not come from a symmetric INT8 pair with one scale.
    """
    behind: list[ir.Node] = []
    perm, factor = list(_SAME), 1.0
    dequantize: ir.Node | None = None
    split: tuple[int, int] | None = None
    while value is not None:
        node = value.producer()
        if node is None or node.domain:
            break
        place, multiplied = passed_on(node)
        if node.op_type == "QuantizeLinear" and dequantize is not None:
            scale = scale_of(node)
            if scale is None or scale != scale_of(dequantize):
                break
            path = tuple(reversed(behind))
            return OperandPath(node, path, tuple(perm), scale, factor, split)
        if node.op_type == "Reshape" and split is None and dequantize is None:
            split = _split(node, shapes)
            if split is None:
                break
        elif node.op_type == "Transpose" and split is None:
            perm = [perm_of(node)[axis] for axis in perm]
        elif node.op_type == "DequantizeLinear" and dequantize is None:
            dequantize = node
        elif place is None or dequantize is not None:
            break
        behind.append(node)
        factor *= multiplied
        value = node.inputs[place or 0]
    raise NoPluginError(f"{name} has no symmetric INT8 pair with one scale in front of its matmul")


def check_order(path: OperandPath, last: tuple[int, ...], name: str) -> None:
    """Refuse heads that are split in another order than [B, S, N, D].

    Raises:
        NoPluginError: they are.
    """
    if path.split is not None and _first(path.perm, last) != _SAME:
        raise NoPluginError(f"the heads of {name} lie in another order than [B, S, N, D]")


def _split(node: ir.Node, shapes: Shapes) -> tuple[int, int] | None:
    """N and D of a Reshape from [B, S, N * D] to [B, S, N, D]."""
    before, after = shapes.trials(node.inputs[0]), shapes.trials(node.outputs[0])
    heads, head_dim = (shapes.fixed(node.outputs[0], axis) for axis in (-2, -1))
    if before is None or after is None or heads is None or head_dim is None:
        return None
    wanted = tuple((*dims[:2], heads * head_dim) for dims in after if len(dims) == len(_SAME))
    return (heads, head_dim) if before == wanted else None


def perm_of(node: ir.Node) -> tuple[int, ...]:
    """The axes of a Transpose of rank 4; without the attribute it reverses them."""
    given = node.attributes.get("perm")
    return tuple(given.as_ints()) if given is not None else _SAME[::-1]


def passed_on(node: ir.Node) -> tuple[int | None, float]:
    """Which operand a Cast or a product with a number passes on, and the number."""
    if node.op_type == "Cast" and node.inputs[0] is not None:
        source = node.inputs[0].dtype
        are_floats = source is not None and int(source) in _FLOATS
        return (0 if are_floats and node.attributes["to"].as_int() in _FLOATS else None), 1.0
    if node.op_type not in ("Mul", "Div"):
        return None, 1.0
    first, second = (number(value) for value in node.inputs)
    if second is not None and second > 0:
        return 0, second if node.op_type == "Mul" else 1.0 / second
    if first is not None and first > 0 and node.op_type == "Mul":
        return 1, first
    return None, 1.0


class LayoutWriter:
    """Puts layout operators into a graph."""

    def __init__(self, graph: ir.Graph, names: TensorNames) -> None:
        """For one graph; remembers the codes it turned, which several attentions may share."""
        self._graph, self._names = graph, names
        self._turned: dict[tuple[ir.Value, tuple[int, ...]], ir.Value] = {}

    def codes(self, path: OperandPath, last: tuple[int, ...]) -> ir.Value:
        """The codes as [B, S, N, D], behind Q.

        Args:
            path: of the operand.
            last: `HEADS_FIRST` or `KEY_TURNED`, from [B, S, N, D] to the operand.
        """
        perm, codes = _first(path.perm, last), path.quantize.outputs[0]
        if path.split is None and perm == _SAME:
            return codes
        if is_gone(self._turned.get((codes, perm))):
            node = transpose(codes, perm)
            if path.split is not None:
                node = self.reshape(codes, (0, 0, *path.split))
            self._turned[codes, perm] = self.insert(node, path.quantize, codes.dtype)
        return self._turned[codes, perm]

    def operand(
        self, path: OperandPath, codes: ir.Value, last: tuple[int, ...], matmul: ir.Node
    ) -> ir.Value:
        """The operand made of the codes [B, S, N, D], by the nodes of its path; in front of it."""
        perm = _first(path.perm, last)
        value, node = codes, None
        if path.split is not None:
            node = self.reshape(value, (0, 0, path.split[0] * path.split[1]))
        elif perm != _SAME:
            back = sorted(range(len(perm)), key=perm.__getitem__)
            node = transpose(value, tuple(back))
        if node is not None:
            self._graph.insert_before(matmul, node)
            value = self.named(node, f"{matmul.name}/{ADAPTER}", codes.dtype)
        for node in path.behind:
            place, _ = passed_on(node)
            copy = again(node, value, place or 0)
            if node.op_type == "Reshape" and path.split is not None:
                # The same shape without the nodes that compute it, which the body has not.
                copy.replace_input_with(1, self.shape((0, 0, *path.split)))
            self._graph.insert_before(matmul, copy)
            value = self.named(copy, str(node.outputs[0].name), node.outputs[0].dtype)
        return value

    def reshape(self, value: ir.Value, dims: tuple[int, ...]) -> ir.Node:
        """A new Reshape, in no graph yet; 0 keeps a size."""
        return ir.Node("", "Reshape", [value, self.shape(dims)])

    def shape(self, dims: tuple[int, ...]) -> ir.Value:
        """A constant for a Reshape."""
        return self.constant("shape", np.asarray(dims, np.int64))

    def constant(self, name: str, array: NDArray[Any]) -> ir.Value:
        """A new constant of the graph."""
        return qdq.add_initializer(self._graph, self._names.fresh(f"{ADAPTER}_{name}"), array)

    def insert(self, node: ir.Node, behind: ir.Node, dtype: ir.DataType | None) -> ir.Value:
        """Put a layout operator behind a node."""
        self._graph.insert_after(behind, node)
        return self.named(node, f"{behind.name}/{ADAPTER}", dtype)

    def named(self, node: ir.Node, name: str, dtype: ir.DataType | None) -> ir.Value:
        """The result of a new node, with a new name and a type."""
        made = node.outputs[0]
        made.name = self._names.fresh(name)
        if dtype is not None:
            made.dtype = dtype
        if ADAPTER in name:
            node.name = made.name
        return made


def _first(perm: tuple[int, ...], last: tuple[int, ...]) -> tuple[int, ...]:
    """The Transpose `first` with which `first` and then `last` is `perm`."""
    first = [0] * len(perm)
    for axis, source in zip(last, perm, strict=True):
        first[axis] = source
    return tuple(first)


def transpose(value: ir.Value, perm: tuple[int, ...]) -> ir.Node:
    """A new Transpose, in no graph yet."""
    return ir.Node("", "Transpose", [value], [ir.AttrInt64s("perm", perm)])


def again(node: ir.Node, value: ir.Value, place: int = 0) -> ir.Node:
    """A copy of a node over `value` in the place of one operand; in no graph yet."""
    inputs = list(node.inputs)
    inputs[place] = value
    kept = [ir.Attr(a.name, a.type, a.value) for a in node.attributes.values()]
    return ir.Node(node.domain, node.op_type, inputs, kept, name=node.name)
