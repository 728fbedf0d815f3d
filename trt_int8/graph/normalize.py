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

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import PassManager
from onnx_ir.passes import common as passes

from trt_int8.errors import GraphError
from trt_int8.graph import qdq
from trt_int8.graph.foreign import adopt
from trt_int8.graph.names import TensorNames, name_nodes
from trt_int8.graph.opset import raise_opset
from trt_int8.numerics import FloatArray, dequantize

MATMUL_OPS = ("MatMul", "Gemm")
LAYOUT_OPS = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity")


def normalize(model: onnx.ModelProto) -> onnx.ModelProto:
    """Bring a float or Q/DQ graph to the normal form.

    Args:
        model: any ONNX graph; one of opset 12 or older is converted to 13.

    Returns:
        A new float32 graph that computes the same values (a Q/DQ'd weight is stored as its codes).

    Raises:
        GraphError: something in it can never run as symmetric INT8; the message names the nodes.
    """
    try:
        graph_model = ir.from_proto(raise_opset(model))
    except ir.serde.SerdeError as error:
        raise GraphError(
            f"the ONNX graph is inconsistent ({error.__cause__ or error})",
            wanted="a graph in which every tensor is made once",
            todo="export the model again",
        ) from error
    graph = graph_model.graph
    passes.RemoveInitializersFromInputsPass()(graph_model)
    tidy(graph_model)
    name_nodes(graph)
    _refuse_control_flow(graph)
    fold_constants(graph)
    adopt(graph_model)
    tidy(graph_model)
    name_nodes(graph)
    qdq.refuse_unsupported(graph)
    fold_constants(graph)
    fold_weights(graph)
    drop_repeated_pairs(graph)
    merge_transposes(graph)
    tidy(graph_model)
    name_nodes(graph)
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


def _refuse_control_flow(graph: ir.Graph) -> None:
    kinds = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    for node in graph:
        if any(attribute.type in kinds for attribute in node.attributes.values()):
            raise GraphError(
                f"node {node.name!r} ({node.op_type}) has sub-graphs",
                wanted="a graph without control flow",
                todo="export the model with fixed control flow",
            )


def fold_constants(graph: ir.Graph) -> None:
    """Store what is made of one constant as a constant, so that weights are seen; in place.

    Transpose and Reshape; Cast to float32 (of weights stored as float16); DequantizeLinear of
    int32 (of biases: TensorRT wants them in float).
    """
    names = TensorNames(graph)
    for node in list(graph):
        array = _folded(node)
        if array is not None and not node.outputs[0].is_graph_output():
            name = names.fresh(f"{node.outputs[0].name}_constant")
            node.outputs[0].replace_all_uses_with(qdq.add_initializer(graph, name, array))


def _folded(node: ir.Node) -> NDArray[Any] | None:
    array = qdq.constant(node.inputs[0]) if node.inputs else None
    if array is None:
        return None
    attributes = node.attributes
    if node.op_type == "Transpose":
        perm = attributes["perm"].as_ints() if "perm" in attributes else None
        return np.ascontiguousarray(array.transpose(perm))
    if node.op_type == "Cast" and attributes["to"].as_int() == int(ir.DataType.FLOAT):
        return array.astype(np.float32)
    if node.op_type == "Reshape":
        shape = qdq.constant(node.inputs[1])
        # With allowzero = 0 (the default), 0 means "as in the input" (ONNX specification).
        if shape is not None and (shape != 0).all():
            return array.reshape(shape.tolist())
    if node.op_type == "DequantizeLinear" and array.dtype == np.int32:
        scale = qdq.scale_of_node(node)
        if scale is not None:
            axis = qdq.axis_of_node(node) if scale.size > 1 else None
            return dequantize(array, scale, axis)
    return None


def fold_weights(graph: ir.Graph) -> None:
    """Store each Q/DQ'd constant operand B of a MatMul or Gemm as int8 [K, N]; in place."""
    names = TensorNames(graph)
    made: dict[tuple[ir.Value, bool], ir.Value] = {}
    for node in list(graph):
        operand = node.inputs[1] if node.op_type in MATMUL_OPS else None
        weight = qdq.quantized_constant(operand)
        if operand is None or weight is None:
            continue
        turned = "transB" in node.attributes and bool(node.attributes["transB"].as_int())
        if turned:
            node.attributes["transB"] = ir.AttrInt64("transB", 0)
            weight = weight.transposed()
        elif weight.in_normal_form:
            continue
        if (operand, turned) not in made:
            made[operand, turned] = _add_weight(graph, names, node, weight)
        node.replace_input_with(1, made[operand, turned])


def _add_weight(
    graph: ir.Graph, names: TensorNames, node: ir.Node, weight: qdq.QuantizedConstant
) -> ir.Value:
    if weight.codes.ndim != 2:
        raise GraphError(
            f"node {node.name!r} multiplies by a quantized constant of shape"
            f" {list(weight.codes.shape)}",
            wanted="a weight matrix [K, N]",
            todo="leave this node out of the quantization",
        )
    if weight.axis == 0:
        raise GraphError(
            f"the weight of node {node.name!r} has its scales along K (the summed axis)",
            wanted="one scale per output channel (axis N) or one for the tensor",
            todo="quantize the weight per output channel",
        )
    n_channels = weight.codes.shape[1]
    scale: FloatArray = np.broadcast_to(weight.scale.reshape(-1), (n_channels,)).copy()
    name = names.fresh(f"{weight.name}_int8")
    arrays: dict[str, NDArray[Any]] = {
        name: np.ascontiguousarray(weight.codes),
        names.fresh(f"{name}_scale"): scale,
        names.fresh(f"{name}_zero_point"): np.zeros(n_channels, np.int8),
    }
    values = [qdq.add_initializer(graph, key, array) for key, array in arrays.items()]
    attributes = [ir.AttrInt64("axis", 1)]
    label = f"{node.name}/weight/DequantizeLinear"
    dequantize = ir.Node("", "DequantizeLinear", values, attributes, name=label)
    dequantize.outputs[0].name = names.fresh(f"{name}_dequantized")
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


def merge_transposes(graph: ir.Graph) -> None:
    """Make one of two Transposes with nothing or one Q/DQ pair between, in front of it; in place.

    An exporter merges the two Transposes of an attention's K by itself, but not across a pair.
    """
    names = TensorNames(graph)
    for node in list(graph):
        if node.op_type != "Transpose" or node.outputs[0].is_graph_output():
            continue
        pair = _pair_above(node)
        top = node if pair is None else pair[0]
        first = top.inputs[0].producer() if top.inputs[0] is not None else None
        if first is None or first.op_type != "Transpose" or not _feeds_one(first):
            continue
        inner, outer = _perm(first), _perm(node)
        if inner is None or outer is None:
            continue
        merged = [ir.AttrInt64s("perm", [inner[axis] for axis in outer])]
        both = ir.Node("", "Transpose", [first.inputs[0]], merged, name=node.name)
        both.outputs[0].name = names.fresh(f"{node.outputs[0].name}_merged")
        graph.insert_after(first, both)
        if pair is None:
            node.outputs[0].replace_all_uses_with(both.outputs[0])
        else:
            pair[0].replace_input_with(0, both.outputs[0])
            node.outputs[0].replace_all_uses_with(pair[1].outputs[0])


def _pair_above(node: ir.Node) -> tuple[ir.Node, ir.Node] | None:
    """The Q and the DQ in front of a node, if nothing else reads them and they have one scale."""
    last = node.inputs[0].producer() if node.inputs[0] is not None else None
    if last is None or last.op_type != "DequantizeLinear" or qdq.activation_pair(last) is None:
        return None
    first = last.inputs[0].producer() if last.inputs[0] is not None else None
    if first is None or not (_feeds_one(first) and _feeds_one(last)):
        return None
    return first, last


def _feeds_one(node: ir.Node) -> bool:
    value = node.outputs[0]
    return len(value.uses()) == 1 and not value.is_graph_output()


def _perm(transpose: ir.Node) -> list[int] | None:
    given = transpose.attributes.get("perm")
    return list(given.as_ints()) if given is not None else None
