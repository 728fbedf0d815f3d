"""FP16 twin: every float32 tensor becomes float16, except where that would break the numbers.

Q and DQ keep float32 scales: they are wrapped in a pair of Casts ("Cast sandwich"). With
float16 scales TensorRT-RTX emits int8 x int8 -> Half GEMMs whose raw accumulator overflows
65504 on real models; with float32 scales the GEMM output is Float.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common as passes

from trt_int8.errors import GraphError
from trt_int8.graph import qdq
from trt_int8.graph.islands import make_islands
from trt_int8.graph.names import TensorNames, name_nodes
from trt_int8.graph.normalize import tidy

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
HALF_MAX = 65504.0
# Smallest float16 above 0 (subnormal, 2^-24); half of it and less rounds to 0.
SMALLEST_HALF = 2.0**-24

# Kept in float32: Q/DQ for their scales, the rest because their result or an intermediate sum
# leaves the float16 range although the inputs do not.
HELD_OPS = frozenset(
    {
        "QuantizeLinear",
        "DequantizeLinear",
        "Pow",
        "Exp",
        "ReduceSum",
        "ReduceMean",
        "ReduceL2",
        "ReduceSumSquare",
        "CumSum",
        "Range",
        "Resize",
        "RandomUniformLike",
    }
)
# In float32 if they read a result of a held operator (other than Q/DQ): what passes between the
# two may not fit float16 (a variance, an epsilon, a floor). Add and Mul join them if their other
# operand is one constant number, and Mul behind a reciprocal.
FOLLOWERS = frozenset(
    {"Clip", "Div", "Log", "Max", "Reciprocal", "Sqrt"}
    | {"Expand", "Reshape", "Squeeze", "Unsqueeze"}
)
_RECIPROCALS = ("Div", "Reciprocal")
_QDQ = ("QuantizeLinear", "DequantizeLinear")


def to_half(model: onnx.ModelProto, peaks: Mapping[str, float] | None = None) -> onnx.ModelProto:
    """Turn a float32 graph in normal form into its FP16 twin; inputs and outputs keep their type.

    Args:
        model: float32 graph in normal form, with or without Q/DQ.
        peaks: largest |x| by tensor, of this graph; what makes or reads a tensor that float16 may
            not hold computes in float32 (`graph.islands`). None for those of rule alone.

    Returns:
        A new graph. Constants beyond +-65504 (attention masks) are clamped to it; an operator
        with a scalar constant that float16 would flush to 0 (an epsilon) stays in float32.

    Raises:
        GraphError: the types of its tensors cannot be inferred.
    """
    half_model = ir.from_proto(model)
    islands = make_islands(half_model.graph, peaks or {})
    passes.ShapeInferencePass()(half_model)
    _HalfConverter(half_model.graph, islands).run()
    tidy(half_model)
    name_nodes(half_model.graph)
    return ir.to_proto(half_model)


class _HalfConverter:
    """One pass over a graph; remembers which casts and constants it has already made."""

    def __init__(self, graph: ir.Graph, islands: Collection[ir.Node]) -> None:
        self._graph, self._islands = graph, islands
        self._names = TensorNames(graph)
        self._constants: dict[str, ir.Value] = {}
        self._inputs: dict[str, ir.Value] = {}
        self._upcasts: dict[str, ir.Value] = {}
        # Half copies of float32 results, by id, with the float32 value they copy.
        self._copies: dict[int, ir.Value] = {}

    def run(self) -> None:
        nodes = list(self._graph)
        for node in nodes:
            self._check(node)
        floats = {id(v) for node in nodes for v in node.outputs if v.dtype == FLOAT}
        for node in nodes:
            held = self._is_held(node)
            for index, value in enumerate(node.inputs):
                known = id(value) in floats or id(value) in self._copies
                if value is not None and (value.dtype == FLOAT or known):
                    node.replace_input_with(index, self._input(node, value, held=held))
            for value in node.outputs:
                if id(value) in floats:
                    self._output(node, value, held=held)
            if not held:
                _retarget(node)
        self._restore_outputs()

    def _check(self, node: ir.Node) -> None:
        if any(v.dtype is None and v.uses() for v in node.outputs):
            raise GraphError(
                f"the output type of node {node.name!r} ({node.op_type}) cannot be inferred",
                wanted="standard ONNX operators",
                todo="export the model without custom operators, or inline them",
            )

    def _is_held(self, node: ir.Node) -> bool:
        if node.op_type in HELD_OPS or node in self._islands or _leaves_half(node):
            return True
        if any(_vanishes_in_half(v) for v in node.inputs):
            return True
        makers = [self._copies[id(v)].producer() for v in node.inputs if id(v) in self._copies]
        held = [m.op_type for m in makers if m is not None and m.op_type not in _QDQ]
        if not held or node.op_type in FOLLOWERS:
            return bool(held)
        if node.op_type == "Mul" and any(maker in _RECIPROCALS for maker in held):
            return True
        return node.op_type in ("Add", "Mul") and any(_is_number(v) for v in node.inputs)

    def _input(self, node: ir.Node, value: ir.Value, *, held: bool) -> ir.Value:
        if value.is_initializer():
            return value if held else self._half_constant(value)
        if value.is_graph_input():
            return value if held else self._cast(value, HALF, self._inputs, before=node)
        if not held:
            return value
        if id(value) in self._copies:
            return self._copies[id(value)]
        return self._cast(value, FLOAT, self._upcasts, before=node)

    def _half_constant(self, value: ir.Value) -> ir.Value:
        name, array = str(value.name), qdq.constant(value)
        if array is None:
            return value
        if name not in self._constants:
            new = self._names.fresh(f"{name}_half")
            self._constants[name] = qdq.add_initializer(self._graph, new, _clamped(array))
        return self._constants[name]

    def _cast(
        self, value: ir.Value, dtype: ir.DataType, made: dict[str, ir.Value], *, before: ir.Node
    ) -> ir.Value:
        name = str(value.name)
        if name not in made:
            suffix = "half" if dtype == HALF else "float"
            cast = _cast_node(value, dtype, self._names.fresh(f"{name}_{suffix}"))
            self._graph.insert_before(before, cast)
            made[name] = cast.outputs[0]
        return made[name]

    def _output(self, node: ir.Node, value: ir.Value, *, held: bool) -> None:
        if not held:
            value.dtype = HALF
            return
        users = tuple(value.uses())
        cast = _cast_node(value, HALF, self._names.fresh(f"{value.name}_half"))
        self._copies[id(cast.outputs[0])] = value
        self._graph.insert_after(node, cast)
        for user, index in users:
            user.replace_input_with(index, cast.outputs[0])

    def _restore_outputs(self) -> None:
        for index, output in enumerate(self._graph.outputs):
            producer = output.producer()
            if output.dtype != HALF or producer is None:
                continue
            name = str(output.name)
            output.name = self._names.fresh(f"{name}_half")
            cast = _cast_node(output, FLOAT, name)
            cast.outputs[0].shape = output.shape
            self._graph.insert_after(producer, cast)
            self._graph.outputs[index] = cast.outputs[0]


def _leaves_half(node: ir.Node) -> bool:
    """Tell whether it is a square or a tanh GELU (which cubes): Pow by other names.

    TensorRT-RTX 1.7 computes LayerNormalization, InstanceNormalization and Erf (so the erf GELU)
    in float32 whatever their type, and sums a half Softmax in float32; not these two
    (docs/profiles.md has the kernels).
    """
    if node.op_type == "Mul":
        return node.inputs[0] is node.inputs[1]
    approximate = node.attributes.get("approximate")
    return node.op_type == "Gelu" and approximate is not None and approximate.as_string() == "tanh"


def _is_number(value: ir.Value | None) -> bool:
    array = qdq.constant(value)
    return array is not None and array.size == 1


def _vanishes_in_half(value: ir.Value | None) -> bool:
    array = qdq.constant(value)
    if array is None or array.dtype != np.float32 or array.size != 1:
        return False
    return 0.0 < abs(float(array.item())) < SMALLEST_HALF / 2


def _cast_node(value: ir.Value, dtype: ir.DataType, name: str) -> ir.Node:
    cast = ir.Node("", "Cast", [value], [ir.AttrInt64("to", int(dtype))], name=f"{name}/Cast")
    cast.outputs[0].name = name
    cast.outputs[0].dtype = dtype
    return cast


def _retarget(node: ir.Node) -> None:
    """Make operators that carry a type or a float tensor as an attribute produce half."""
    if node.op_type == "Cast" and node.attributes["to"].as_int() == int(FLOAT):
        node.attributes["to"] = ir.AttrInt64("to", int(HALF))
    elif node.op_type == "ConstantOfShape":
        # Without a value it makes float32 zeros (ONNX specification).
        given = node.attributes["value"].as_tensor().numpy() if "value" in node.attributes else None
        fill = np.zeros(1, np.float32) if given is None else given
        if fill.dtype == np.float32:
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(_clamped(fill)))


def _clamped(array: NDArray[np.float32]) -> NDArray[np.float16]:
    return np.clip(array, -HALF_MAX, HALF_MAX).astype(np.float16)
