"""ONNX Runtime as an oracle for the INT8 contract."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper


class OrtQuantizer:
    """QuantizeLinear and DequantizeLinear in ONNX Runtime, unfused; the scale is an input."""

    def __init__(self, axis: int | None) -> None:
        attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
        nodes = [
            helper.make_node(
                "QuantizeLinear", ["x", "scale"], ["codes"], output_dtype=3, **attributes
            ),
            helper.make_node("DequantizeLinear", ["codes", "scale"], ["real"], **attributes),
        ]
        rank = 1 if axis is None else 2
        shape = [None] * rank
        graph = helper.make_graph(
            nodes,
            "oracle",
            [
                helper.make_tensor_value_info("x", TensorProto.FLOAT, shape),
                helper.make_tensor_value_info(
                    "scale", TensorProto.FLOAT, [] if axis is None else [None]
                ),
            ],
            [
                helper.make_tensor_value_info("codes", TensorProto.INT8, shape),
                helper.make_tensor_value_info("real", TensorProto.FLOAT, shape),
            ],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    @staticmethod
    @cache
    def of(axis: int | None) -> OrtQuantizer:
        """One session per axis."""
        return OrtQuantizer(axis)

    def run(
        self, x: NDArray[np.float32], scale: NDArray[np.float32]
    ) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
        """Codes and real values."""
        codes, real = self._session.run(None, {"x": x, "scale": scale})
        return codes, real


def distance_to_tie(x: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.float64]:
    """How far x/scale is from the nearest half-integer, in steps."""
    steps = x.astype(np.float64) / scale.astype(np.float64)
    return np.abs(np.abs(steps - np.floor(steps)) - 0.5)
