"""Three tiny ONNX twins whose differences are known by hand: y = x + offset per twin."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from trt_int8.evaluate.compare import TwinFiles

FloatArray = NDArray[np.float32]


def save_adder(path: Path, offset: FloatArray, op: str = "Add") -> None:
    """One node: output `y` = float(ids) + offset; `ids` is int64 [B, S, ...]."""
    axes = [f"axis{i}" for i in range(max(offset.ndim, 2))]
    nodes = [
        helper.make_node("Cast", ["ids"], ["x"], to=TensorProto.FLOAT),
        helper.make_node(op, ["x", "offset"], ["y"]),
    ]
    inputs = [
        helper.make_tensor_value_info("ids", TensorProto.INT64, axes),
        helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["b", "s"]),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, axes)]
    initializers = [numpy_helper.from_array(offset, "offset")]
    graph = helper.make_graph(nodes, "adder", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))


def save_twins(folder: Path, offsets: Mapping[str, FloatArray]) -> TwinFiles:
    """Twins by precision name: fp32, fp16, int8."""
    for name, offset in offsets.items():
        save_adder(folder / f"{name}.onnx", np.asarray(offset, np.float32))
    return TwinFiles(*(folder / f"{name}.onnx" for name in ("fp32", "fp16", "int8")))
