"""A part of a graph as an ONNX local function, called once: the reference body of a plugin node.

The body is the subgraph itself, so the file computes the same bits with and without the call.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from trt_int8.graph import qdq
from trt_int8.graph.plugins.walk import NoPluginError
from trt_int8.plugins.signatures import NAMESPACE, PluginSignature

# Computed twice where something outside reads them too: they cost little, or nothing at all.
_CHEAP = frozenset(
    {"Cast", "DequantizeLinear", "Transpose", "QuantizeLinear", "Equal", "Unsqueeze"}
)
# Constants beyond this size are inputs of a plugin, or the part is none of its forms.
_MOST_ELEMENTS = 64


@dataclass(frozen=True)
class PluginSite:
    """A part of a graph that one plugin node computes.

    Attributes:
        signature: the plugin.
        label: name of a node of the part, which names the call.
        inputs: tensors of the graph, in the signature's order.
        outputs: tensors of the graph that the part makes, in the signature's order.
        attributes: every attribute of the signature.
        own_inputs: tensors that the reference reads in the place of an input: the masks whose sum
            the plugin reads. The call has them behind the inputs, and TensorRT is not told.
    """

    signature: PluginSignature
    label: str
    inputs: tuple[ir.Value, ...]
    outputs: tuple[ir.Value, ...]
    attributes: Mapping[str, int | float]
    own_inputs: tuple[ir.Value, ...] = ()

    @property
    def given(self) -> tuple[ir.Value, ...]:
        """All that the call reads."""
        return (*self.inputs, *self.own_inputs)

    def body(self) -> tuple[ir.Node, ...]:
        """Every node between inputs and outputs, each behind those that it reads.

        Raises:
            NoPluginError: a path from the outputs misses the inputs.
        """
        given = {id(value) for value in self.given}
        found: dict[int, ir.Node] = {}

        def visit(value: ir.Value | None) -> None:
            if value is None or id(value) in given or qdq.constant(value) is not None:
                return
            node = value.producer()
            if node is None:
                raise _misfit(self, f"reads {value.name!r} too")
            if id(node) not in found:
                for operand in node.inputs:
                    visit(operand)
                found[id(node)] = node

        for value in self.outputs:
            visit(value)
        return tuple(found.values())


def check_site(site: PluginSite) -> None:
    """Refuse a part that is not closed, or does not fit its signature.

    Raises:
        NoPluginError: something outside reads what only the plugin would know, or the number or the
            element type of a tensor is wrong.
    """
    body = site.body()
    inside = {id(node) for node in body}
    made = {id(value) for value in site.outputs}
    for node in body:
        for value in node.outputs:
            outside = [user for user, _ in value.uses() if id(user) not in inside]
            if id(value) in made or (not outside and not value.is_graph_output()):
                continue
            if node.op_type not in _CHEAP or value.is_graph_output():
                raise _misfit(site, f"hides {value.name!r}, which something else reads")
        for operand in node.inputs:
            array = qdq.constant(operand)
            is_input = any(operand is value for value in site.given)
            if array is not None and array.size > _MOST_ELEMENTS and not is_input:
                raise _misfit(site, f"reads the large constant {operand and operand.name!r}")
    signature = site.signature
    _check_types(site, site.inputs, [spec.kinds for spec in signature.inputs])
    _check_types(site, site.outputs, [spec.kinds for spec in signature.outputs])
    if set(site.attributes) != {spec.name for spec in signature.attributes}:
        raise _misfit(site, f"has the attributes {sorted(site.attributes)}")


def _check_types(
    site: PluginSite, values: tuple[ir.Value, ...], allowed: list[tuple[str, ...]]
) -> None:
    if len(values) != len(allowed):
        raise _misfit(site, f"has {len(values)} tensors where the plugin has {len(allowed)}")
    for value, kinds in zip(values, allowed, strict=True):
        kind = str(value.dtype.numpy()) if value.dtype is not None else "unknown"
        if kind not in kinds:
            raise _misfit(site, f"has {value.name!r} as {kind}, the plugin {' or '.join(kinds)}")


def _misfit(site: PluginSite, what: str) -> NoPluginError:
    return NoPluginError(f"as {site.signature.name} it {what}")


def outline(graph: ir.Graph, site: PluginSite, name: str) -> ir.Function:
    """Move a part of a graph into a function, and call it there; in place.

    Args:
        graph: changed; nodes that nothing reads any more are gone.
        site: the part, checked.
        name: of the function and of the call; new.

    Returns:
        The function; its tensors keep their names but for inputs and outputs.
    """
    body = site.body()
    function = _function(graph, site, body, name)
    attributes = [
        ir.AttrInt64(spec.name, int(site.attributes[spec.name]))
        if spec.kind is int
        else ir.AttrFloat32(spec.name, float(site.attributes[spec.name]))
        for spec in site.signature.attributes
    ]
    call = ir.Node(
        NAMESPACE,
        function.name,
        site.given,
        attributes,
        num_outputs=len(site.outputs),
        name=f"{site.label}/{site.signature.name}",
    )
    graph.insert_after(body[-1], call)
    for old, new in zip(site.outputs, call.outputs, strict=True):
        new.type, new.shape = old.type, old.shape
        new.name, old.name = old.name, f"{old.name}/old"
        old.replace_all_uses_with(new, replace_graph_outputs=True)
    sweep(graph)
    return function


def copy_node(node: ir.Node, known: dict[ir.Value, ir.Value | None]) -> ir.Node:
    """A node that reads and gives what stands for the values of another.

    Args:
        node: the other one, left as it is.
        known: what stands for each value; the results are added.
    """
    copy = ir.Node(
        node.domain,
        node.op_type,
        [None if value is None else known[value] for value in node.inputs],
        [ir.Attr(a.name, a.type, a.value) for a in node.attributes.values()],
        num_outputs=len(node.outputs),
        name=node.name,
    )
    for old, new in zip(node.outputs, copy.outputs, strict=True):
        new.name, new.type, new.shape = old.name, old.type, old.shape
        known[old] = new
    return copy


def sweep(graph: ir.Graph, kept: Collection[ir.Value] = ()) -> None:
    """Remove the nodes whose results nothing reads, and the constants that only they read.

    Args:
        graph: changed in place.
        kept: results that a call will read.
    """
    for node in reversed(list(graph)):
        read = (value.uses() or value.is_graph_output() or value in kept for value in node.outputs)
        if not any(read):
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
            del graph.initializers[name]


def _function(
    graph: ir.Graph, site: PluginSite, body: tuple[ir.Node, ...], name: str
) -> ir.Function:
    known: dict[ir.Value, ir.Value | None] = {}
    formal: list[ir.Value] = []
    labels = [spec.name for spec in site.signature.inputs]
    labels += [f"own_{number}" for number in range(len(site.own_inputs))]
    for label, value in zip(labels, site.given, strict=True):
        formal.append(ir.Value(name=f"{name}/{label}", type=value.type, shape=value.shape))
        known[value] = formal[-1]
    nodes: list[ir.Node] = []
    for node in body:
        for operand in node.inputs:
            if operand is not None and operand not in known:
                constant = _constant(name, operand)
                nodes.append(constant)
                known[operand] = constant.outputs[0]
        nodes.append(copy_node(node, known))
    results = [made for made in map(known.get, site.outputs) if made is not None]
    for spec, value in zip(site.signature.outputs, results, strict=True):
        value.name = f"{name}/{spec.name}"
    opsets = {"": graph.opset_imports.get("", 17)}
    inner = ir.Graph(formal, results, nodes=nodes, opset_imports=opsets, name=name)
    declared = [
        ir.Attr(s.name, ir.AttributeType.INT if s.kind is int else ir.AttributeType.FLOAT, None)
        for s in site.signature.attributes
    ]
    return ir.Function(NAMESPACE, name, graph=inner, attributes=declared)


def _constant(name: str, value: ir.Value) -> ir.Node:
    assert value.const_value is not None
    label = f"{name}/{value.name}"
    node = ir.Node(
        "",
        "Constant",
        [],
        [ir.AttrTensor("value", ir.tensor(value.const_value.numpy(), name=label))],
        name=f"{label}/Constant",
    )
    made = node.outputs[0]
    made.name, made.type, made.shape = label, value.type, value.shape
    return node
