"""Parts of a Q/DQ graph as plugin nodes, each with the part itself as its reference body.

A fused file has one ONNX local function per plugin node, so ONNX Runtime runs it as it is and gives
the same bits as without. TensorRT-RTX, which has no plugins, builds the bodies; for TensorRT
`plugin_variants.strip_bodies` leaves the calls alone, which its parser takes for the plugins.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial

import onnx
import onnx_ir as ir
from onnx_ir.passes import common as passes

from trt_int8.annotate.guard import AttentionGuard
from trt_int8.errors import TrtInt8Error
from trt_int8.graph.names import TensorNames, name_nodes
from trt_int8.graph.plugins.attention import AttentionFinder
from trt_int8.graph.plugins.gelu import find_gelus, gelu_site
from trt_int8.graph.plugins.layernorm import find_norms, norm_site
from trt_int8.graph.plugins.operands import LayoutWriter
from trt_int8.graph.plugins.outline import PluginSite, check_site, outline, sweep
from trt_int8.graph.plugins.turns import undo_adapters
from trt_int8.graph.plugins.walk import Shapes
from trt_int8.plugins.signatures import NAMESPACE, PluginSignature, signature_named
from trt_int8.spec.plugins import PLUGIN_FAMILIES, PluginFamily
from trt_int8.spec.rules import PlacementNote

_RULE = "plugin"
# Between the plugin's name and the number of the call, in the name of a function.
_NUMBER = "__"


@dataclass(frozen=True)
class FusedGraph:
    """A graph with plugin nodes.

    Attributes:
        model: with one local function per plugin node.
        calls: names of the plugin nodes with their plugins, in the order they were found.
        notes: parts that a plugin might have computed and does not, with the reason.
    """

    model: onnx.ModelProto
    calls: tuple[tuple[str, PluginSignature], ...] = ()
    notes: tuple[PlacementNote, ...] = ()

    def counts(self) -> dict[str, int]:
        """How many nodes call each plugin, by its name."""
        return dict(Counter(signature.name for _, signature in self.calls))


def fuse_plugins(
    model: onnx.ModelProto,
    families: Collection[PluginFamily],
    native: AttentionGuard | None = None,
) -> FusedGraph:
    """Make plugin nodes of what plugins can compute; the values stay the same bit for bit.

    Args:
        model: an FP16 twin with Q/DQ (`to_half`).
        families: which plugins.
        native: targets and lengths; attentions for which TensorRT has a fused INT8 kernel of its
            own are left to it. None to take every attention.

    Returns:
        A new graph, and what was left alone; `model` itself if nothing was found.
    """
    fuser = _Fuser(model, native)
    for family in PLUGIN_FAMILIES:
        if family in families:
            fuser.fuse(family)
    return fuser.finish(model)


class _Fuser:
    """One graph on its way to plugin nodes."""

    def __init__(self, model: onnx.ModelProto, native: AttentionGuard | None) -> None:
        self._model, self._native = ir.from_proto(model), native
        self._shapes = Shapes.of(model)
        passes.ShapeInferencePass()(self._model)
        self._graph = self._model.graph
        self._names = TensorNames(self._graph)
        self._layouts = LayoutWriter(self._graph, self._names)
        self._functions: list[ir.Function] = []
        self._calls: list[tuple[str, PluginSignature]] = []
        self._notes: list[PlacementNote] = []

    def fuse(self, family: PluginFamily) -> None:
        for name, make in {
            "attention": self._attentions,
            "layernorm": self._norms,
            "gelu": self._gelus,
        }[family]():
            try:
                site = make()
                sweep(self._graph, site.inputs)
                check_site(site)
            except TrtInt8Error as error:
                self._notes.append(PlacementNote(node=name, rule=_RULE, reason=error.came))
                undo_adapters(self._graph)
                sweep(self._graph)
                continue
            self._outline(site)

    def finish(self, model: onnx.ModelProto) -> FusedGraph:
        if not self._functions:
            return FusedGraph(model, (), tuple(self._notes))
        passes.TopologicalSortPass()(self._model)
        name_nodes(self._graph)
        _name_bodies(self._graph, self._functions)
        self._graph.opset_imports[NAMESPACE] = 1
        for function in self._functions:
            self._model.functions[function.identifier()] = function
        return FusedGraph(ir.to_proto(self._model), tuple(self._calls), tuple(self._notes))

    def _outline(self, site: PluginSite) -> None:
        name = f"{site.signature.name}{_NUMBER}{len(self._functions)}"
        self._functions.append(outline(self._graph, site, name))
        self._calls.append((name, site.signature))

    def _attentions(self) -> Iterator[tuple[str, Callable[[], PluginSite]]]:
        finder = AttentionFinder(self._graph, self._names, self._shapes)
        for found in tuple(finder.candidates()):
            if self._native is None or self._native.native_refusal(finder.size_of(found)):
                yield str(found.softmax.name), partial(finder.rewrite, found)

    def _norms(self) -> Iterator[tuple[str, Callable[[], PluginSite]]]:
        for node in tuple(find_norms(self._graph)):
            yield str(node.name), partial(norm_site, node, self._shapes, self._layouts)

    def _gelus(self) -> Iterator[tuple[str, Callable[[], PluginSite]]]:
        for node in tuple(find_gelus(self._graph)):
            yield str(node.name), partial(gelu_site, node, self._shapes, self._layouts)


def _name_bodies(graph: ir.Graph, functions: list[ir.Function]) -> None:
    """Give the nodes of all bodies names that no other node of the file has."""
    taken = {str(node.name) for node in graph}
    for function in functions:
        for node in function:
            if not node.name or node.name in taken:
                node.name = f"{function.name}/{node.name}"
            taken.add(str(node.name))


def plugin_calls(model: onnx.ModelProto) -> dict[str, PluginSignature]:
    """Names of the plugin nodes of a fused file, with their plugins."""
    known = {function.name for function in model.functions if function.domain == NAMESPACE}
    return {
        node.name: signature_named(node.op_type.rpartition(_NUMBER)[0])
        for node in model.graph.node
        if node.domain == NAMESPACE and node.op_type in known
    }
