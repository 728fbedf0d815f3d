"""Where the normalizations of an ONNX graph are: LayerNorm and RMSNorm, as operator or in parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

NormKind = Literal["layer", "rms"]
_OPERATORS: dict[str, NormKind] = {
    "LayerNormalization": "layer",
    "SimplifiedLayerNormalization": "rms",
    "RMSNormalization": "rms",
}


@dataclass(frozen=True)
class NormSite:
    """One normalization.

    Attributes:
        kind: `layer` takes the mean off, `rms` does not.
        source: the tensor it normalizes.
        result: its output, behind scale and shift.
        is_operator: one node; else primitive operators.
    """

    kind: NormKind
    source: ir.Value
    result: ir.Value
    is_operator: bool


def find_norms(graph: ir.Graph) -> tuple[NormSite, ...]:
    """Find them, in graph order of the node (or its square root) they are known by."""
    return tuple(_norms(graph))


def _norms(graph: ir.Graph) -> Iterator[NormSite]:
    for node in graph:
        if node.op_type in _OPERATORS and node.inputs[0] is not None:
            result = node.outputs[0]
            yield NormSite(_OPERATORS[node.op_type], node.inputs[0], result, is_operator=True)
        elif node.op_type == "Sqrt":
            found = _primitive(node)
            if found is not None:
                yield found


def _primitive(root: ir.Node) -> NormSite | None:
    """X or x - mean(x), times or over sqrt(mean of its squares + epsilon)."""
    mean = _variable(_made_by(root.inputs[0], "Add"))
    reduced = _made_by(mean, "ReduceMean")
    square = _past_casts(reduced.inputs[0]) if reduced is not None else None
    maker = square.producer() if square is not None else None
    if maker is None or maker.op_type not in ("Pow", "Mul"):
        return None
    centred = _past_casts(maker.inputs[0])
    result = _scaled(root.outputs[0], centred)
    if centred is None or result is None:
        return None
    minus = centred.producer()
    if minus is not None and minus.op_type == "Sub" and _made_by(minus.inputs[1], "ReduceMean"):
        source = _past_casts(minus.inputs[0])
        return None if source is None else NormSite("layer", source, result, is_operator=False)
    return NormSite("rms", centred, result, is_operator=False)


def _scaled(root: ir.Value, centred: ir.Value | None) -> ir.Value | None:
    """From the square root on: division, then casts, scale and shift by constants."""
    users = [node for node, _ in root.uses()]
    if len(users) == 1 and users[0].op_type in ("Reciprocal", "Div"):
        divided = users[0].op_type == "Div" and not _is_constant(users[0].inputs[0])
        if not divided:
            users = [node for node, _ in users[0].outputs[0].uses()]
    if len(users) != 1 or users[0].op_type not in ("Div", "Mul"):
        return None
    if not any(_past_casts(value) is centred for value in users[0].inputs):
        return None
    value = users[0].outputs[0]
    while len(value.uses()) == 1 and not value.is_graph_output():
        (node, _) = next(iter(value.uses()))
        constant = any(_is_constant(v) for v in node.inputs)
        if node.op_type != "Cast" and not (node.op_type in ("Mul", "Add") and constant):
            break
        value = node.outputs[0]
    return value


def _is_constant(value: ir.Value | None) -> bool:
    return value is not None and value.is_initializer()


def _variable(node: ir.Node | None) -> ir.Value | None:
    """The operand that is no constant, if exactly one is."""
    if node is None:
        return None
    found = [value for value in node.inputs if not _is_constant(value)]
    return found[0] if len(found) == 1 else None


def _made_by(value: ir.Value | None, kind: str) -> ir.Node | None:
    value = _past_casts(value)
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == kind else None


def _past_casts(value: ir.Value | None) -> ir.Value | None:
    node = value.producer() if value is not None else None
    while node is not None and node.op_type in ("Cast", "Identity"):
        value = node.inputs[0]
        node = value.producer() if value is not None else None
    return value
