"""Cut a packed Linear into its parts: one weight [K, 3H] for Q, K and V becomes three.

Where the result of a Linear is cut into Q, K and V (Split, Slice, Gather, also behind Reshape and
Transpose), TensorRT-RTX dequantizes the packed weight at run time and multiplies in float, whatever
Q/DQ say. Other cuts, as of gated feed-forward blocks, may run INT8 as they are; cutting them costs
nothing, for TensorRT merges the GEMMs that read one tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from trt_int8.graph import qdq
from trt_int8.graph.names import TensorNames
from trt_int8.graph.normalize import normalize
from trt_int8.graph.packed_cuts import Part, View, cuts_of, plain_view
from trt_int8.model.onnx_blocks import MATMULS
from trt_int8.model.onnx_shapes import Dims, infer_dims
from trt_int8.numerics import FloatArray
from trt_int8.spec.rules import MIN_FEATURES

# A part may be packed again (Q, K and V first, then the heads of two groups).
_ROUNDS = 4


def split_packed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Cut each packed Linear of a float graph in normal form.

    The parts compute the same products and sums. A Linear is left whole if anything else reads its
    result, or if a part would be narrower than 16 columns.

    Returns:
        A new graph in normal form; the parts are named after the Linear, with `.0`, `.1`, ….
    """
    for _ in range(_ROUNDS):
        shapes = infer_dims(model)
        cut = ir.from_proto(model)
        if not _Cutter(cut.graph, shapes).run():
            break
        model = normalize(ir.to_proto(cut))
    return model


@dataclass(frozen=True)
class _Linear:
    """A MatMul or Gemm with its constant weight as [K, N] and bias [N]."""

    node: ir.Node
    weight: FloatArray
    bias: FloatArray | None


class _Uncuttable(Exception):  # noqa: N818 - not an error: the Linear just stays whole
    """Something else than a cut reads the result."""


class _Cutter:
    def __init__(self, graph: ir.Graph, shapes: dict[str, Dims]) -> None:
        self._graph, self._shapes = graph, shapes
        self._names = TensorNames(graph)

    def run(self) -> bool:
        """Cut what can be cut; tells whether anything was."""
        done = False
        for node in list(self._graph):
            linear = _linear(node) if node.op_type in MATMULS else None
            parts = self._parts(linear) if linear is not None else []
            if linear is not None and _is_worth_it(parts):
                parts.sort(key=lambda part: int(part.columns[0]))
                for number, part in enumerate(parts):
                    self._build(linear, part, number)
                self._keep_shapes(linear)
                done = True
        return done

    def _parts(self, linear: _Linear) -> list[Part]:
        result = linear.node.outputs[0]
        rank = len(self._shapes.get(str(result.name), ()))
        if rank < 2:
            return []
        view = View(rank - 1, (linear.weight.shape[1],), tuple(range(rank)))
        try:
            return list(self._follow(result, view))
        except _Uncuttable:
            return []

    def _follow(self, value: ir.Value, view: View) -> Iterator[Part]:
        if value.is_graph_output():
            raise _Uncuttable
        for node, index in value.uses():
            cut = list(cuts_of(node, view, self._shapes)) if index == 0 else []
            if cut:
                yield from cut
                continue
            if node.op_type == "Shape" and not node.attributes and view.is_unmoved:
                continue  # of the same batch and sequence as the input has, see _keep_shape
            onward = self._pass(node, value, view)
            if onward is None:
                raise _Uncuttable
            yield from self._follow(node.outputs[0], onward)

    def _pass(self, node: ir.Node, value: ir.Value, view: View) -> View | None:
        """The view behind a bias, a Reshape or a Transpose; None behind anything else."""
        steps = (*view.steps, node)
        if node.op_type == "Add" and view.is_plain and len(view.features) == 1:
            return replace(view, steps=steps) if _bias(node, view.features[0]) is not None else None
        if node.op_type == "Transpose" and "perm" in node.attributes:
            perm = node.attributes["perm"].as_ints()
            return replace(view, order=tuple(view.order[axis] for axis in perm), steps=steps)
        if node.op_type == "Reshape" and node.inputs[0] is value and view.is_plain:
            laid_out = self._laid_out(node, view)
            # The steps are rebuilt with the part's sizes, which only the last Reshape tells.
            if laid_out is not None and len(view.features) == 1:
                return replace(laid_out, steps=steps)
        return None

    def _laid_out(self, node: ir.Node, view: View) -> View | None:
        """The view behind a Reshape whose last axes hold exactly the columns."""
        dims = self._shapes.get(str(node.outputs[0].name), ())
        width, product = int(np.prod(view.features)), 1
        for count, dim in enumerate(reversed(dims), 1):
            if dim is None:
                break
            product *= dim
            if product == width:
                return plain_view(dims[-count:], len(dims) - count)
        # One size may be left to ONNX, if the axes in front of it are passed on as they are.
        front, back = dims[: view.outer], dims[view.outer :]
        known = int(np.prod([dim for dim in back if dim is not None]))
        if back.count(None) != 1 or any(dim is not None for dim in front) or width % known:
            return None
        return plain_view(tuple(width // known if d is None else d for d in back), view.outer)

    def _build(self, linear: _Linear, part: Part, number: int) -> None:
        """Put a Linear of the part's columns, and the same steps, in the place of a cut."""
        columns, nodes = part.columns, []
        inputs = [linear.node.inputs[0], self._constant(linear.node, linear.weight[:, columns])]
        if linear.bias is not None:
            inputs.append(self._constant(linear.node, linear.bias[columns]))
        name = f"{linear.node.name}.{number}"
        nodes.append(ir.Node("", linear.node.op_type, inputs, name=name))
        for step in part.view.steps:
            value = nodes[-1].outputs[0]
            nodes += self._step(step, value, part, name)
        if part.drops_axis:
            axis = part.view.order.index(part.view.outer + part.feature)
            axes = self._constant(linear.node, np.array([axis]))
            nodes.append(ir.Node("", "Squeeze", [nodes[-1].outputs[0], axes]))
        for node in nodes:
            node.name = node.name or f"{name}/{node.op_type}"
            node.outputs[0].name = self._names.fresh(f"{name}/{node.op_type}_output")
        cut = part.result.producer()
        assert cut is not None
        self._graph.insert_before(cut, nodes)
        new, old = nodes[-1].outputs[0], part.result
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        old.name, new.name = self._names.fresh(f"{old.name}_packed"), old.name
        new.type, new.shape = old.type, old.shape

    def _keep_shapes(self, linear: _Linear) -> None:
        """Let who asks for the shape of the packed result have it without the result."""
        result, rows = linear.node.outputs[0], linear.node.inputs[0]
        rank, width = len(self._shapes[str(result.name)]), linear.weight.shape[1]
        reached = [result]
        while reached:
            value = reached.pop()
            for node, _ in tuple(value.uses()):
                if node.op_type == "Add":
                    reached.append(node.outputs[0])
                if node.op_type != "Shape" or not node.outputs[0].uses():
                    continue
                whole = ir.Node("", "Shape", [rows])
                ends = [self._constant(node, np.array([n], np.int64)) for n in (0, rank - 1, width)]
                front = ir.Node("", "Slice", [whole.outputs[0], *ends[:2]])
                shape = ir.Node(
                    "", "Concat", [front.outputs[0], ends[2]], [ir.AttrInt64("axis", 0)]
                )
                for number, made in enumerate((whole, front, shape)):
                    made.name = f"{node.name}.{number}"
                    made.outputs[0].name = self._names.fresh(f"{node.name}.{number}_output")
                self._graph.insert_before(node, [whole, front, shape])
                node.outputs[0].replace_all_uses_with(shape.outputs[0], replace_graph_outputs=True)

    def _step(self, step: ir.Node, value: ir.Value, part: Part, name: str) -> list[ir.Node]:
        if step.op_type == "Transpose":
            return [ir.Node("", "Transpose", [value], list(step.attributes.values()))]
        if step.op_type == "Add":
            bias = _bias(step, int(np.prod(part.view.features)))
            assert bias is not None
            cut = self._constant(step, bias[part.columns] if bias.ndim else bias)
            return [ir.Node("", "Add", [value, cut], name=f"{name}/bias")]
        is_last = step is [s for s in part.view.steps if s.op_type == "Reshape"][-1]
        sizes = part.features if is_last else (len(part.columns),)
        rank = len(self._shapes[str(step.outputs[0].name)])
        return self._reshape(step, value, rank - len(sizes), sizes)

    def _reshape(
        self, step: ir.Node, value: ir.Value, outer: int, sizes: tuple[int, ...]
    ) -> list[ir.Node]:
        """The first `outer` sizes as they were, then the part's."""
        stored = qdq.constant(step.inputs[1])
        if stored is not None:
            shape = np.array([*stored[:outer], *sizes], np.int64)
            return [ir.Node("", "Reshape", [value, self._constant(step, shape)])]
        first = [self._constant(step, np.array([number])) for number in (0, outer)]
        front = ir.Node("", "Slice", [step.inputs[1], *first])
        back = self._constant(step, np.array(sizes, np.int64))
        shape_node = ir.Node("", "Concat", [front.outputs[0], back], [ir.AttrInt64("axis", 0)])
        return [front, shape_node, ir.Node("", "Reshape", [value, shape_node.outputs[0]])]

    def _constant(self, owner: ir.Node, array: NDArray[np.generic]) -> ir.Value:
        name = self._names.fresh(f"{owner.name}_part")
        return qdq.add_initializer(self._graph, name, np.ascontiguousarray(array))


def _is_worth_it(parts: list[Part]) -> bool:
    sets = {part.columns.tobytes() for part in parts}
    return len(sets) > 1 and all(part.columns.size >= MIN_FEATURES for part in parts)


def _linear(node: ir.Node) -> _Linear | None:
    weight = qdq.constant(node.inputs[1])
    if weight is None or weight.ndim != 2 or weight.dtype != np.float32:
        return None
    if node.op_type == "MatMul":
        return _Linear(node, weight, None)
    plain = {"alpha": 1.0, "beta": 1.0}
    if any(k in node.attributes and node.attributes[k].as_float() != v for k, v in plain.items()):
        return None
    if "transA" in node.attributes and node.attributes["transA"].as_int():
        return None
    if "transB" in node.attributes and node.attributes["transB"].as_int():
        weight = weight.T
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return _Linear(node, weight, None)
    bias = qdq.constant(node.inputs[2])
    if bias is None or bias.size != weight.shape[1]:
        return None
    return _Linear(node, weight, bias.reshape(-1))


def _bias(node: ir.Node, width: int) -> FloatArray | None:
    """The constant of an Add as [N] or []; None if it is no bias."""
    found = [array for value in node.inputs if (array := qdq.constant(value)) is not None]
    if len(found) != 1 or found[0].dtype != np.float32 or found[0].size not in (1, width):
        return None
    array = found[0]
    if array.size == 1:
        return array.reshape(()) if array.ndim <= 1 else None
    return array.reshape(-1) if array.shape[-1] == width and array.ndim <= 2 else None
