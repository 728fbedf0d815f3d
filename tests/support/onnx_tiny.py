"""A few lines to build a small ONNX graph, run it in ONNX Runtime and look inside."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]
Value = Array | np.generic | float | list[int]
Shape = list[int | str]


class Tiny:
    """Collects nodes and constants; `op` returns the name of the tensor it makes."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}

    def const(self, name: str, value: Value) -> str:
        """Add an initializer (Python floats become float32)."""
        dtype = (
            np.float32 if isinstance(value, float) and not isinstance(value, np.generic) else None
        )
        self.constants[name] = np.asarray(value, dtype)
        return name

    def op(self, kind: str, *inputs: str, name: str = "", out: str = "", **attrs: Any) -> str:
        """Add a node with one output."""
        out = out or f"{kind.lower()}_{len(self.nodes)}"
        node = helper.make_node(kind, inputs, [out], name=name or f"node_{out}", **attrs)
        self.nodes.append(node)
        return out

    def pair(self, source: str, scale: Value, **attrs: Any) -> str:
        """Add int8 Q -> DQ behind `source`, each with constants of its own."""
        steps = np.asarray(scale, np.float32)
        tag = f"{source}_{len(self.nodes)}"
        params = [self.const(f"{tag}_s", steps), self.const(f"{tag}_z", np.zeros_like(steps, "i1"))]
        return self.op(
            "DequantizeLinear",
            self.op("QuantizeLinear", source, *params, **attrs),
            *params,
            **attrs,
        )

    def build(
        self,
        inputs: dict[str, Shape],
        outputs: dict[str, Shape],
        *,
        opset: int = 17,
        dtype: int = TensorProto.FLOAT,
    ) -> onnx.ModelProto:
        """Close the graph; all inputs and outputs have `dtype`."""
        graph = helper.make_graph(
            self.nodes,
            "tiny",
            [helper.make_tensor_value_info(n, dtype, s) for n, s in inputs.items()],
            [helper.make_tensor_value_info(n, dtype, s) for n, s in outputs.items()],
            [numpy_helper.from_array(a, name=n) for n, a in self.constants.items()],
        )
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9
        )


def run_ort(model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    """Run without any rewriting of Q/DQ, so that each node computes what its name says."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    results: list[Array] = session.run(None, feeds)
    return results


def constants_of(model: onnx.ModelProto) -> dict[str, Array]:
    """Initializers by name."""
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def count(model: onnx.ModelProto, kind: str) -> int:
    """Nodes of one operator."""
    return sum(node.op_type == kind for node in model.graph.node)


def maker_of(model: onnx.ModelProto, tensor: str) -> onnx.NodeProto:
    """The node that makes a tensor."""
    found: list[onnx.NodeProto] = [n for n in model.graph.node if tensor in n.output]
    assert len(found) == 1
    return found[0]


def attribute(node: onnx.NodeProto, name: str) -> Any:
    """The value of an attribute; None if it is not there."""
    found = [helper.get_attribute_value(a) for a in node.attribute if a.name == name]
    return found[0] if found else None


def f32(values: ArrayLike) -> NDArray[np.float32]:
    """As a float32 array."""
    return np.asarray(values, np.float32)


def noise(*shape: int, seed: int = 0, scale: float = 1.0) -> NDArray[np.float32]:
    """Seeded normal float32 values."""
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)
