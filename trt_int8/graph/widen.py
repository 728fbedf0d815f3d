"""Half precision out of a graph: every float16 or bfloat16 tensor becomes float32."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from trt_int8.graph import qdq

_HALF = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
# Attributes that name the type of a result.
_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "precision")
# Operators that are defined for floating point alone: their result is float32 here.
_FLOAT_ONLY = frozenset(
    {"LayerNormalization", "Softmax", "LogSoftmax", "Erf", "Tanh", "Gelu", "Sigmoid", "Sqrt"}
    | {"DequantizeLinear", "Exp", "Log", "Reciprocal", "BatchNormalization", "Conv"}
)
# Operators whose result has the type of this operand.
_SAME_AS_FIRST = frozenset(
    {"Add", "Sub", "Mul", "Div", "MatMul", "Gemm", "Relu", "Neg", "Abs", "Clip", "Max", "Min"}
    | {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Gather", "Slice"}
    | {"Concat", "Split", "Expand", "Pow", "ReduceMean", "ReduceSum", "Dropout"}
)
_SAME_AS = dict.fromkeys(_SAME_AS_FIRST, 0) | {"Where": 1}


def widen(model: ir.Model) -> None:
    """Make float32 of all half-precision tensors, in place; inputs and outputs too."""
    graph = model.graph
    for value in list(graph.initializers.values()):
        if value.dtype in _HALF and value.const_value is not None:
            array = value.const_value.numpy().astype(np.float32)
            value.const_value = ir.tensor(array, name=value.name)
            value.dtype = ir.DataType.FLOAT
    values = [*graph.inputs, *(value for node in graph for value in node.outputs)]
    for value in values:
        if value.dtype in _HALF:
            value.dtype = ir.DataType.FLOAT
    for node in graph:
        for name in _TYPE_ATTRIBUTES:
            given = node.attributes.get(name)
            named = given is not None and given.type == ir.AttributeType.INT
            if given is not None and named and given.as_int() in [int(half) for half in _HALF]:
                node.attributes[name] = ir.AttrInt64(name, int(ir.DataType.FLOAT))
        fill = node.attributes.get("value") if node.op_type == "ConstantOfShape" else None
        if fill is not None and fill.as_tensor().dtype in _HALF:
            wide = fill.as_tensor().numpy().astype(np.float32)
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(wide))


def drop_idle_casts(graph: ir.Graph) -> None:
    """Let the users of a Cast from float32 to float32 read what it reads; in place."""
    floats = {id(value) for value in graph.inputs if value.dtype == ir.DataType.FLOAT}
    for node in graph:
        if node.op_type == "Cast" and node.attributes["to"].as_int() == int(ir.DataType.FLOAT):
            source = node.inputs[0]
            idle = source is not None and _is_float(source, floats)
            if source is not None and idle and not node.outputs[0].is_graph_output():
                node.outputs[0].replace_all_uses_with(source)
            floats.add(id(node.outputs[0]))
            continue
        place = _SAME_AS.get(node.op_type)
        like = node.inputs[place] if place is not None and place < len(node.inputs) else None
        if node.op_type in _FLOAT_ONLY or (like is not None and _is_float(like, floats)):
            # Further results (a Dropout's mask) may be of another type.
            several = node.outputs if node.op_type == "Split" else node.outputs[:1]
            floats |= {id(value) for value in several}


def _is_float(value: ir.Value, floats: set[int]) -> bool:
    array = qdq.constant(value)
    return id(value) in floats or (array is not None and array.dtype == np.float32)
