from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from tests.support.tiny_int8 import feeds, graph, wanted
from trt_int8.errors import GraphError, UnsafePathError
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


def test_weights_in_a_file_that_nothing_has_checked_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "model.onnx"
    onnx.save(graph(), str(file), save_as_external_data=True, location="w.bin", size_threshold=0)
    monkeypatch.chdir(tmp_path)
    assert Path("w.bin").is_file()
    with pytest.raises(UnsafePathError, match="are in a file of their own"):
        cpu_graph(file.read_bytes())
