"""A graph as a list that depends on neither names nor the order of its nodes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import onnx
from onnx import helper

from tests.support.onnx_tiny import Array, constants_of


@dataclass(frozen=True)
class Canonical:
    """Nodes in the order in which a walk from the outputs meets them.

    Attributes:
        nodes: operator, attributes and operands of each: number of the node and result, name of a
            graph input, or digest of a constant; `scale` for the scale of an activation.
        scales: those scales, in the order of the nodes.
        codes: int8 constants, in the same order.
    """

    nodes: tuple[tuple[object, ...], ...]
    scales: tuple[float, ...]
    codes: tuple[Array, ...]


def canonical(model: onnx.ModelProto) -> Canonical:
    """Walk a graph from its outputs to its inputs, operands in order."""
    constants = constants_of(model)
    makers = {name: node for node in model.graph.node for name in node.output}
    inputs = {value.name for value in model.graph.input}
    number: dict[str, int] = {}
    nodes: list[tuple[object, ...]] = []
    scales: list[float] = []
    codes: list[Array] = []

    def operand(node: onnx.NodeProto, place: int, name: str) -> object:
        if name in constants:
            array = constants[name]
            if node.op_type.endswith("uantizeLinear") and place == 1 and array.ndim == 0:
                scales.append(float(array))
                return "scale"
            if array.dtype == "i1" and array.ndim == 2:
                codes.append(array)
            return (array.dtype.name, array.shape, hashlib.sha256(array.tobytes()).hexdigest())
        return name if name in inputs or not name else visit(name)

    def visit(name: str) -> object:
        node = makers[name]
        result = list(node.output).index(name)
        key = node.output[0]
        if key not in number:
            given = tuple(operand(node, place, each) for place, each in enumerate(node.input))
            attributes = sorted(
                (a.name, str(helper.get_attribute_value(a))) for a in node.attribute
            )
            number[key] = len(nodes)
            nodes.append((node.op_type, tuple(attributes), given))
        return (number[key], result)

    for value in model.graph.output:
        visit(value.name)
    return Canonical(tuple(nodes), tuple(scales), tuple(codes))
