"""What is good to know of this package's own plugin nodes."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from trt_int8.graph.lint.check import Check, Hit
from trt_int8.graph.lint.view import GraphView, name_of
from trt_int8.plugins.signatures import NAMESPACE, signatures
from trt_int8.spec.lint import CheckInfo

_NAMES = frozenset(signature.name for signature in signatures())


def is_own_plugin(node: ir.Node) -> bool:
    """A plugin of this package without a body, as TensorRT's parser reads it."""
    return node.domain == NAMESPACE and node.op_type in _NAMES


def _plugin_nodes(view: GraphView) -> Iterator[Hit]:
    for function in view.facts.functions:
        if function.name.startswith(f"{NAMESPACE}::"):
            yield Hit(function.name, "with its reference as body, judged here in its place")
    for node in view.nodes:
        if is_own_plugin(node):
            yield Hit(name_of(node), f"{node.op_type} without a body", "warning")


CHECKS = (
    Check(
        CheckInfo(
            id="plugin-node",
            severity="info",
            what="nodes of this package's plugins (build --plugins)",
            reason="TensorRT 10.9 and newer runs them; ONNX Runtime and TensorRT-RTX run the "
            "operators in their bodies, and refuse a node without a body",
            mend="nothing; build with --plugins off for a file of standard operators",
        ),
        _plugin_nodes,
    ),
)
