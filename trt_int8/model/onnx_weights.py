"""How much of an ONNX file is constants, by data type."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from trt_int8.spec.inspection import WeightBytes


def onnx_weights(path: Path) -> tuple[WeightBytes, ...]:
    """The constants of an ONNX graph (initializers and Constant nodes) by data type."""
    graph = onnx.load(str(path), load_external_data=False).graph
    tensors = list(graph.initializer)
    tensors += [
        attribute.t
        for node in graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    ]
    found: dict[str, list[int]] = {}
    for tensor in tensors:
        values = int(np.prod(tensor.dims, dtype=np.int64))
        size = values * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        entry = found.setdefault(_onnx_type(tensor.data_type), [0, 0])
        entry[0] += values
        entry[1] += size
    listed = [WeightBytes(dtype=d, values=v, size_bytes=s) for d, (v, s) in found.items()]
    return tuple(sorted(listed, key=lambda each: (-each.size_bytes, each.dtype)))


def _onnx_type(number: int) -> str:
    name = str(onnx.TensorProto.DataType.Name(number)).lower()
    return {"float16": "half"}.get(name, name)
