"""The same model as other exporters would write it: each takes a graph and returns another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

Nodes = list[NodeProto]


def _rewritten(
    model: onnx.ModelProto, make: Callable[[NodeProto, dict[str, NDArray[Any]]], Nodes | None]
) -> onnx.ModelProto:
    """Put what `make` gives in the place of each node; None leaves it. It may add constants."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    known = set(constants)
    nodes: Nodes = []
    for node in model.graph.node:
        found = make(node, constants)
        nodes += [node] if found is None else found
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    added = [numpy_helper.from_array(constants[n], n) for n in constants if n not in known]
    result.graph.initializer.extend(added)
    onnx.checker.check_model(result)
    return result


def _is_linear(node: NodeProto, constants: dict[str, NDArray[Any]]) -> bool:
    return node.op_type == "MatMul" and constants.get(node.input[1], np.zeros(0)).ndim == 2


def transposed_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights stored as [N, K] behind a Transpose, as from frameworks that keep them so."""

    def make(node: NodeProto, constants: dict[str, NDArray[Any]]) -> Nodes | None:
        if not _is_linear(node, constants):
            return None
        stored, turned = f"{node.output[0]}_stored", f"{node.output[0]}_turned"
        constants[stored] = np.ascontiguousarray(constants[node.input[1]].T)
        transpose = helper.make_node("Transpose", [stored], [turned], perm=[1, 0])
        matmul = helper.make_node("MatMul", [node.input[0], turned], node.output, name=node.name)
        return [transpose, matmul]

    return _rewritten(model, make)


def flat_gemms(model: onnx.ModelProto) -> onnx.ModelProto:
    """Linears as Reshape to [B * S, K], Gemm, Reshape back, as TensorFlow's exporter has them."""

    def make(node: NodeProto, constants: dict[str, NDArray[Any]]) -> Nodes | None:
        if not _is_linear(node, constants):
            return None
        out, weight = node.output[0], constants[node.input[1]]
        constants[f"{out}_flat"] = np.asarray([-1, weight.shape[0]], np.int64)
        constants[f"{out}_rest"] = np.asarray([weight.shape[1]], np.int64)
        constants[f"{out}_zero"], constants[f"{out}_last"] = (
            np.asarray([0], np.int64),
            np.asarray([-1], np.int64),
        )
        constants[f"{out}_weight"] = np.ascontiguousarray(weight.T)
        return [
            helper.make_node("Reshape", [node.input[0], f"{out}_flat"], [f"{out}_2d"]),
            helper.make_node("Gemm", [f"{out}_2d", f"{out}_weight"], [f"{out}_gemm"], transB=1),
            helper.make_node("Shape", [node.input[0]], [f"{out}_shape"]),
            helper.make_node(
                "Slice", [f"{out}_shape", f"{out}_zero", f"{out}_last"], [f"{out}_outer"]
            ),
            helper.make_node("Concat", [f"{out}_outer", f"{out}_rest"], [f"{out}_sizes"], axis=0),
            helper.make_node("Reshape", [f"{out}_gemm", f"{out}_sizes"], [out]),
        ]

    return _rewritten(model, make)


def split_softmax(model: onnx.ModelProto, *, shifted: bool = True) -> onnx.ModelProto:
    """Softmax as Exp, ReduceSum, Div; `shifted`: of x - max(x), which no exponential overflows."""

    def make(node: NodeProto, constants: dict[str, NDArray[Any]]) -> Nodes | None:
        if node.op_type != "Softmax":
            return None
        x, out = node.input[0], node.output[0]
        constants[f"{out}_axes"] = np.asarray([-1], np.int64)
        before = [
            helper.make_node("ReduceMax", [x], [f"{out}_max"], axes=[-1], keepdims=1),
            helper.make_node("Sub", [x, f"{out}_max"], [f"{out}_shifted"]),
        ]
        source = f"{out}_shifted" if shifted else x
        return [
            *(before if shifted else []),
            helper.make_node("Exp", [source], [f"{out}_exp"]),
            helper.make_node("ReduceSum", [f"{out}_exp", f"{out}_axes"], [f"{out}_sum"]),
            helper.make_node("Div", [f"{out}_exp", f"{out}_sum"], [out]),
        ]

    return _rewritten(model, make)


def guarded_softmax(model: onnx.ModelProto) -> onnx.ModelProto:
    """NaN of a softmax replaced by 0, as PyTorch exports `scaled_dot_product_attention`."""

    def make(node: NodeProto, constants: dict[str, NDArray[Any]]) -> Nodes | None:
        if node.op_type != "Softmax":
            return None
        out = node.output[0]
        constants[f"{out}_nothing"] = np.asarray(0.0, np.float32)
        softmax = helper.make_node("Softmax", node.input, [f"{out}_raw"], name=node.name, axis=-1)
        return [
            softmax,
            helper.make_node("IsNaN", [f"{out}_raw"], [f"{out}_nan"]),
            helper.make_node("Where", [f"{out}_nan", f"{out}_nothing", f"{out}_raw"], [out]),
        ]

    return _rewritten(model, make)


def tensorflow_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """Tensors `StatefulPartitionedCall/bert/x:0`, nodes without the number; inputs keep theirs."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    kept = {value.name for value in (*model.graph.input, *model.graph.output)} | {""}

    def name(old: str) -> str:
        return old if old in kept else f"StatefulPartitionedCall/bert{old}:0"

    for node in result.graph.node:
        node.name = f"StatefulPartitionedCall/bert{node.name}"
        node.input[:] = [name(each) for each in node.input]
        node.output[:] = [name(each) for each in node.output]
    for tensor in result.graph.initializer:
        tensor.name = name(tensor.name)
    del result.graph.value_info[:]
    onnx.checker.check_model(result)
    return result
