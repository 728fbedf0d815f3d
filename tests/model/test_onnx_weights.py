from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from trt_int8.model.onnx_weights import onnx_weights


def test_initializers_and_constant_nodes_are_summed_by_type(tmp_path: Path) -> None:
    arrays: dict[str, NDArray[Any]] = {
        "a": np.zeros((5, 7), np.int8),
        "b": np.zeros((3,), np.int8),
        "c": np.zeros((11, 2), np.float16),
        "d": np.zeros((), np.float32),
        "e": np.zeros((2,), np.int64),
    }
    constant = numpy_helper.from_array(np.zeros((13,), np.float32), "k")
    nodes = [
        helper.make_node("Constant", [], ["k"], value=constant),
        helper.make_node("Constant", [], ["s"], value_float=1.0),
    ]
    initializers = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "g", [], [], initializers)
    onnx.save(helper.make_model(graph), str(tmp_path / "m.onnx"))
    found = [(w.dtype, w.values, w.size_bytes) for w in onnx_weights(tmp_path / "m.onnx")]
    assert found == [("float", 14, 56), ("half", 22, 44), ("int8", 38, 38), ("int64", 2, 16)]
