"""Names that nothing else in a graph has."""

from __future__ import annotations

from collections.abc import Container

import onnx_ir as ir


class TensorNames:
    """Hands out names for new tensors of a graph."""

    def __init__(self, graph: ir.Graph) -> None:
        """Note the names that are taken."""
        values = [*graph.inputs, *graph.initializers.values()]
        values += [value for node in graph for value in node.outputs]
        self._taken = {str(value.name) for value in values}

    def fresh(self, base: str) -> str:
        """`base`, or `base` with the first number that makes it new; taken from now on."""
        name = _numbered(base, self._taken)
        self._taken.add(name)
        return name


def name_nodes(graph: ir.Graph) -> None:
    """Give every node a name that no other node has; in place. Unique names stay."""
    taken = {node.name for node in graph if node.name}
    seen: set[str] = set()
    for node in graph:
        base = node.name or f"{node.op_type}_{node.outputs[0].name}"
        if not node.name or node.name in seen:
            node.name = _numbered(base, taken)
        seen.add(node.name)
        taken.add(node.name)


def _numbered(base: str, taken: Container[str]) -> str:
    name, number = base, 1
    while name in taken:
        name, number = f"{base}_{number}", number + 1
    return name
