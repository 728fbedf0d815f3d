"""The normal form of an explicit Q/DQ graph: what TensorRT can run INT8, and nothing else.

After `normalize`:

* weights are int8 initializers `[K, N]` behind one DequantizeLinear on axis 1;
* activations have one float32 scale per tensor, zero point 0 (int8, never uint8);
* equal Q/DQ pairs on one tensor are shared, and a pair is never applied twice in a row;
* every node has its own name and constants are initializers.

Weights that stay `float -> Q -> DQ -> Transpose -> MatMul`, as PyTorch exports them, are not
folded by TensorRT-RTX: a kernel would quantize them again at every inference.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import PassManager
from onnx_ir.passes import common as passes

from trt_int8.errors import GraphError
from trt_int8.graph import qdq
from trt_int8.numerics import FloatArray, Int8Array

MATMUL_OPS = ("MatMul", "Gemm")
LAYOUT_OPS = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity")


def normalize(model: onnx.ModelProto) -> onnx.ModelProto:
    """Bring a float or Q/DQ graph to the normal form.

    Args:
        model: any ONNX graph; opset 13 or newer.

    Returns:
        A new graph that computes the same values (a Q/DQ'd weight is stored as its codes).

    Raises:
        GraphError: something in it can never run as symmetric INT8; the message names the nodes.
    """
    try:
        graph_model = ir.from_proto(model)
    except ir.serde.SerdeError as error:
        raise GraphError(
            f"the ONNX graph is inconsistent ({error.__cause__ or error})",
            wanted="a graph in which every tensor is made once",
            todo="export the model again",
        ) from error
    tidy(graph_model)
    qdq.refuse_unsupported(graph_model.graph)
    fold_transposed_constants(graph_model.graph)
    fold_weights(graph_model.graph)
    drop_repeated_pairs(graph_model.graph)
    tidy(graph_model)
    name_nodes(graph_model.graph)
    return ir.to_proto(graph_model)


def tidy(model: ir.Model) -> None:
    """Inline functions, lift constants, share equal nodes, drop unused ones; in place."""
    PassManager(
        [
            passes.InlinePass(),
            passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
            passes.DeduplicateInitializersPass(),
            passes.CommonSubexpressionEliminationPass(),
            passes.IdentityEliminationPass(),
            passes.RemoveUnusedNodesPass(),
            passes.TopologicalSortPass(),
        ]
    )(model)


def name_nodes(graph: ir.Graph) -> None:
    """Give every node a name that no other node has; in place."""
    seen: set[str] = set()
    for node in graph:
        base = node.name or f"{node.op_type}_{node.outputs[0].name}"
        name, number = base, 1
        while name in seen:
            name, number = f"{base}_{number}", number + 1
        node.name = name
        seen.add(name)


def fold_transposed_constants(graph: ir.Graph) -> None:
    """Store `initializer -> Transpose` as one initializer, so that weights are seen; in place."""
    for node in list(graph):
        array = qdq.constant(node.inputs[0]) if node.op_type == "Transpose" else None
        if array is not None and not node.outputs[0].is_graph_output():
            perm = node.attributes["perm"].as_ints() if "perm" in node.attributes else None
            name = f"{node.outputs[0].name}_constant"
            moved = np.ascontiguousarray(array.transpose(perm))
            node.outputs[0].replace_all_uses_with(qdq.add_initializer(graph, name, moved))


def fold_weights(graph: ir.Graph) -> None:
    """Store each Q/DQ'd constant operand B of a MatMul or Gemm as int8 [K, N]; in place."""
    for node in list(graph):
        if node.op_type in MATMUL_OPS and len(node.inputs) > 1:
            weight = qdq.quantized_constant(node.inputs[1])
            if weight is not None:
                _replace_weight(graph, node, weight)


def _replace_weight(graph: ir.Graph, node: ir.Node, weight: qdq.QuantizedConstant) -> None:
    codes, axis = weight.codes, weight.axis
    if codes.ndim != 2:
        raise GraphError(
            f"node {node.name!r} multiplies by a quantized constant of shape {list(codes.shape)}",
            wanted="a weight matrix [K, N]",
            todo="leave this node out of the quantization",
        )
    if node.op_type == "Gemm" and "transB" in node.attributes:
        if node.attributes["transB"].as_int():
            codes, axis = codes.T, None if axis is None else 1 - axis
        node.attributes["transB"] = ir.AttrInt64("transB", 0)
    if axis == 0:
        raise GraphError(
            f"the weight of node {node.name!r} has its scales along K (the summed axis)",
            wanted="one scale per output channel (axis N) or one for the tensor",
            todo="quantize the weight per output channel",
        )
    dequantized = _add_weight(graph, node, codes, weight)
    node.replace_input_with(1, dequantized)


def _add_weight(
    graph: ir.Graph, node: ir.Node, codes: Int8Array, weight: qdq.QuantizedConstant
) -> ir.Value:
    base = weight.name
    name, number = f"{base}_int8", 1
    while name in graph.initializers:
        name, number = f"{base}_int8_{number}", number + 1
    n_channels = codes.shape[1]
    scale: FloatArray = np.broadcast_to(weight.scale.reshape(-1), (n_channels,)).copy()
    values = [
        qdq.add_initializer(graph, name, np.ascontiguousarray(codes)),
        qdq.add_initializer(graph, f"{name}_scale", scale),
        qdq.add_initializer(graph, f"{name}_zero_point", np.zeros(n_channels, np.int8)),
    ]
    dequantize = ir.Node(
        "",
        "DequantizeLinear",
        values,
        [ir.AttrInt64("axis", 1)],
        name=f"{node.name}/weight/DequantizeLinear",
    )
    dequantize.outputs[0].name = f"{name}_dequantized"
    graph.insert_before(node, dequantize)
    return dequantize.outputs[0]


def drop_repeated_pairs(graph: ir.Graph) -> None:
    """Remove the first of two equal Q/DQ pairs with only layout operators between; in place.

    Quantizing codes times scale once more by the same scale gives the same codes, so nothing
    changes but the kernel count.
    """
    for node in list(graph):
        if node.op_type != "DequantizeLinear":
            continue
        first = qdq.activation_pair(node)
        if first is None:
            continue
        value: ir.Value = node.outputs[0]
        while len(value.uses()) == 1 and not value.is_graph_output():
            (user, index) = next(iter(value.uses()))
            if user.op_type in LAYOUT_OPS and index == 0:
                value = user.outputs[0]
                continue
            if user.op_type == "QuantizeLinear" and index == 0:
                second = qdq.scale_of_node(user)
                if second is not None and np.array_equal(second, first.scale):
                    node.outputs[0].replace_all_uses_with(first.source)
            break
