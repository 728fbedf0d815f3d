from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from tests.support.tiny_int8 import feeds, graph, wanted
from trt_int8.errors import GraphError
from trt_int8.runtime.cpu.graph import cpu_graph


def test_nothing_in_half_precision_is_left_and_the_quantizers_are() -> None:
    made = onnx.load_model_from_string(cpu_graph(graph().SerializeToString()))
    assert TensorProto.FLOAT16 not in {each.data_type for each in made.graph.initializer}
    targets = [n.attribute[0].i for n in made.graph.node if n.op_type == "Cast"]
    assert TensorProto.FLOAT16 not in targets
    kinds = [node.op_type for node in made.graph.node]
    assert (kinds.count("QuantizeLinear"), kinds.count("DequantizeLinear")) == (1, 2)
    assert next(e for e in made.graph.initializer if e.name == "weight").data_type == (
        TensorProto.INT8
    )


def test_it_computes_the_same() -> None:
    session = onnxruntime.InferenceSession(cpu_graph(graph().SerializeToString()))
    request = feeds(3, 7)
    for name, array in zip(("tokens", "means"), session.run(None, request), strict=True):
        np.testing.assert_allclose(array, wanted(request)[name], rtol=1e-6, atol=1e-6)


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(GraphError, match="cannot be read"):
        cpu_graph(b"\xff\xff no model")
