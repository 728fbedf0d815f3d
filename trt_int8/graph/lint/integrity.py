"""Is the graph sound at all? Checks on the stored graph, before anything is read from it.

They walk the protobuf message itself: what they look for is what no graph library accepts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx
from google.protobuf.message import Message
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto
from onnx.external_data_helper import ExternalDataInfo

from trt_int8.graph.lint.check import Hit
from trt_int8.graph.opset import opset_of
from trt_int8.spec.lint import CheckInfo

BROKEN_GRAPH = CheckInfo(
    id="broken-graph",
    severity="error",
    what="tensors made twice or by nobody, loops, operators without their inputs, damaged tensors",
    reason="ONNX wants every tensor made once, in front of its readers; the parser rejects others",
    mend="export the model again, or undo the edit that removed the node or tensor",
)
MISSING_DATA = CheckInfo(
    id="missing-data",
    severity="error",
    what="external weight files that are missing or too short, or lie outside the model's folder",
    reason="TensorRT's parser reads external data from beside the .onnx file",
    mend="copy the data files beside the .onnx file, under the names it gives",
)
INVALID_ONNX = CheckInfo(
    id="invalid-onnx",
    severity="error",
    what="what onnx.checker refuses: wrong attributes, unsorted nodes, an IR version too new",
    reason="the file breaks the ONNX specification, so readers differ in what they make of it",
    mend="export the model again",
)
CHECKS = (BROKEN_GRAPH, MISSING_DATA, INVALID_ONNX)
_STANDARD = ("", "ai.onnx")
_MOST_HITS = 200


def stored_tensors(model: ModelProto) -> Iterator[TensorProto]:
    """All tensors: initializers and those in attributes, of the graph and all inside it."""
    for graph in graphs_of(model):
        yield from graph.initializer
        yield from (part for s in graph.sparse_initializer for part in (s.values, s.indices))
    for node in nodes_of(model):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def graphs_of(model: ModelProto) -> Iterator[GraphProto]:
    """The main graph and the sub-graphs of its nodes and of functions."""
    yield from _graphs_under([model.graph], model.graph.node)
    for function in model.functions:
        yield from _graphs_under([], function.node)


def _graphs_under(graphs: Sequence[GraphProto], nodes: Sequence[NodeProto]) -> Iterator[GraphProto]:
    yield from graphs
    for node in nodes:
        for graph in _inner(node):
            yield from _graphs_under([graph], graph.node)


def _inner(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def nodes_of(model: ModelProto) -> Iterator[NodeProto]:
    """All nodes: of the graph, of sub-graphs and of functions."""
    for graph in graphs_of(model):
        yield from graph.node
    for function in model.functions:
        yield from function.node


def broken(model: ModelProto) -> tuple[Hit, ...]:
    """Everything that makes the graph unreadable (at most 200 places)."""
    hits: list[Hit] = []
    for hit in _all_broken(model):
        hits.append(hit)
        if len(hits) >= _MOST_HITS:
            break
    return tuple(hits)


def _all_broken(model: ModelProto) -> Iterator[Hit]:
    text = next(_undecodable(model), None)
    if text is not None:
        yield Hit("", f"the text {text!r} is not UTF-8")
        return
    if not model.HasField("graph") or not (model.graph.node or model.graph.output):
        yield Hit("", "there is no graph in the file")
        return
    yield from _main_graph(model.graph)
    yield from _scope(model.graph.node, _given(model.graph), (*model.graph.output,))
    for function in model.functions:
        yield from _scope(function.node, list(function.input), ())
    yield from _recursion(model)
    opset = opset_of(model)
    functions = {function.name for function in model.functions}
    for node in nodes_of(model):
        if node.op_type not in functions:
            yield from _arity(node, opset)
    for tensor in stored_tensors(model):
        yield from _damage(tensor)


def _undecodable(message: Message) -> Iterator[bytes]:
    """Text fields that protobuf gives as bytes, for they are damaged."""
    for field, value in message.ListFields():
        single = isinstance(value, str | bytes | Message)
        many = [value] if single else value
        if field.message_type is not None:
            for inner in many:
                yield from _undecodable(inner)
        elif field.type == field.TYPE_STRING:
            yield from (text for text in many if isinstance(text, bytes))


def _main_graph(graph: GraphProto) -> Iterator[Hit]:
    if not graph.output:
        yield Hit("", "the graph has no outputs")
    for name, times in Counter(v.name for v in graph.input).items():
        if times > 1 or not name:
            yield Hit(name, f"{times} graph inputs are called {name!r}")
    for name, times in Counter(v.name for v in graph.output).items():
        if times > 1 or not name:
            yield Hit(name, f"{times} graph outputs are called {name!r}")
    for name, times in Counter(t.name for t in graph.initializer).items():
        if times > 1 or not name:
            yield Hit(name, f"{times} initializers are called {name!r}")


def _given(graph: GraphProto) -> list[str]:
    """Tensors that a graph starts with."""
    sparse = [s.values.name for s in graph.sparse_initializer]
    return [v.name for v in graph.input] + [t.name for t in graph.initializer] + sparse


def _scope(
    nodes: Sequence[NodeProto],
    given: Sequence[str],
    outputs: Sequence[onnx.ValueInfoProto],
    outer: frozenset[str] = frozenset(),
) -> Iterator[Hit]:
    made: dict[str, int] = {}
    start = set(given)
    yield from _made(nodes, start, made)
    known = frozenset(start | set(made)) | outer
    for node in nodes:
        for name in filter(None, node.input):
            if name not in known:
                yield Hit(_label(node), f"reads the tensor {name!r}, which nothing makes")
    for value in outputs:
        if value.name not in known:
            yield Hit(value.name, f"nothing makes the graph output {value.name!r}")
    yield from _loops(nodes, made)
    for node in nodes:
        for graph in _inner(node):
            yield from _scope(graph.node, _given(graph), (*graph.output,), known)


def _made(nodes: Sequence[NodeProto], start: set[str], made: dict[str, int]) -> Iterator[Hit]:
    """Fill `made` with the node that makes each tensor; hits are tensors made twice."""
    for index, node in enumerate(nodes):
        for name in filter(None, node.output):
            if name in made or name in start:
                yield Hit(_label(node), f"the tensor {name!r} is made a second time")
            made.setdefault(name, index)


def _loops(nodes: Sequence[NodeProto], made: dict[str, int]) -> Iterator[Hit]:
    """Nodes that no order can run: sort topologically (Kahn 1962), report what is left over."""
    waits = [{made[name] for name in _reads(node) if name in made} for node in nodes]
    readers: list[list[int]] = [[] for _ in nodes]
    for index, needed in enumerate(waits):
        for other in needed:
            readers[other].append(index)
    open_inputs = [len(needed) for needed in waits]
    ready = [index for index, count in enumerate(open_inputs) if count == 0]
    left = set(range(len(nodes)))
    while ready:
        index = ready.pop()
        left.discard(index)
        for reader in readers[index]:
            open_inputs[reader] -= 1
            if open_inputs[reader] == 0:
                ready.append(reader)
    if left:
        first = nodes[min(left)]
        yield Hit(
            _label(first), f"{len(left)} nodes can never run: they wait in a loop, or behind one"
        )


def _reads(node: NodeProto) -> Iterator[str]:
    """What a node reads, its sub-graphs included."""
    yield from node.input
    for graph in _graphs_under([], [node]):
        yield from (value.name for value in graph.output)
        for inner in graph.node:
            yield from inner.input


def _recursion(model: ModelProto) -> Iterator[Hit]:
    """Functions that call themselves, also by way of others."""
    calls = {f.name: {n.op_type for n in _nodes_in(f.node)} for f in model.functions}
    for name in calls:
        seen: set[str] = set()
        queue = [name]
        while queue:
            queue += [c for c in calls.get(queue.pop(), ()) if c in calls and c not in seen]
            seen.update(queue)
        if name in seen:
            yield Hit(name, f"the function {name!r} calls itself")


def _nodes_in(nodes: Sequence[NodeProto]) -> Iterator[NodeProto]:
    yield from nodes
    for graph in _graphs_under([], nodes):
        yield from graph.node


def _arity(node: NodeProto, opset: int) -> Iterator[Hit]:
    """Too few or empty inputs or outputs for a standard operator."""
    if not node.op_type:
        yield Hit(_label(node), "a node without an operator")
        return
    if node.domain not in _STANDARD:
        return
    try:
        schema = onnx.defs.get_schema(node.op_type, opset or 1, "")
    except onnx.defs.SchemaError:
        return
    needed = list(node.input[: schema.min_input])
    if len(needed) < schema.min_input or not all(needed):
        yield Hit(_label(node), f"{node.op_type} lacks one of its {schema.min_input} inputs")
    if len(node.output) < schema.min_output or not any(node.output):
        yield Hit(_label(node), f"{node.op_type} has no output")
    for required in (a.name for a in schema.attributes.values() if a.required):
        if required not in {a.name for a in node.attribute}:
            yield Hit(_label(node), f"{node.op_type} lacks its attribute {required!r}")


def _damage(tensor: TensorProto) -> Iterator[Hit]:
    if tensor.data_location == TensorProto.EXTERNAL:
        return
    try:
        onnx.numpy_helper.to_array(tensor)
    except Exception as error:  # noqa: BLE001 - NumPy and ONNX raise many kinds
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        dims = list(tensor.dims)
        yield Hit(tensor.name, f"the stored tensor of shape {dims} is damaged ({text})")


def missing_data(model: ModelProto, folder: Path) -> Iterator[Hit]:
    """External tensors whose bytes are not there; `folder` is that of the file."""
    for tensor in stored_tensors(model):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        try:
            info = ExternalDataInfo(tensor)
            offset, length = int(info.offset or 0), int(info.length or 0)
        except (ValueError, TypeError, AttributeError):
            yield Hit(tensor.name, "its external data has no readable place, offset or length")
            continue
        path = folder / str(info.location)
        inside = path.resolve().is_relative_to(folder.resolve())
        if not info.location or not inside:
            yield Hit(tensor.name, f"its external data is at {info.location!r}")
        elif not path.is_file():
            yield Hit(tensor.name, f"its external data file {info.location!r} is missing")
        elif offset < 0 or length < 0 or offset + length > path.stat().st_size:
            size = path.stat().st_size
            text = f"bytes {offset} to {offset + length} of a file of {size}"
            yield Hit(tensor.name, f"its external data in {info.location!r} are {text}")


def _label(node: NodeProto) -> str:
    return node.name or (f"node_of_{node.output[0]}" if node.output else node.op_type)
