"""Names of new tensors and of nodes."""

from __future__ import annotations

import onnx_ir as ir

from tests.support.onnx_tiny import Tiny
from trt_int8.graph.names import TensorNames, name_nodes


def graph_of(tiny: Tiny) -> ir.Graph:
    return ir.from_proto(tiny.build({"x": [3]}, {"y": [3]})).graph


def test_a_free_name_is_given_as_asked_and_then_taken() -> None:
    tiny = Tiny()
    tiny.op("Add", "x", tiny.const("w", 1.0), out="y")
    names = TensorNames(graph_of(tiny))
    assert [names.fresh("z"), names.fresh("z"), names.fresh("z")] == ["z", "z_1", "z_2"]


def test_names_of_inputs_constants_and_results_are_taken() -> None:
    tiny = Tiny()
    tiny.op("Add", "x", tiny.const("w", 1.0), out="y")
    names = TensorNames(graph_of(tiny))
    assert [names.fresh(n) for n in ("x", "w", "y")] == ["x_1", "w_1", "y_1"]


def test_a_node_that_has_its_name_alone_keeps_it() -> None:
    tiny = Tiny()
    value = "x"
    for name in ("same", "same", "same_1", ""):
        value = tiny.op("Neg", value, name=name or "later")
    tiny.nodes[-1].output[0] = "y"
    tiny.nodes[-1].name = ""
    graph = graph_of(tiny)
    name_nodes(graph)
    assert [node.name for node in graph] == ["same", "same_2", "same_1", "Neg_y"]
