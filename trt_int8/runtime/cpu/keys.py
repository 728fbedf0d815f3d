"""K^T = W^T X^T: the keys of INT8 attentions made in the layout that their scores need.

Exporters make K = X W + b, [B, S, H], split it into heads and turn it to [B, N, D, S] for Q K^T.
OpenVINO runs this Transpose of INT8 with a slow reference kernel. The transposed product needs
none: OpenVINO reads X transposed inside its matmul. Each element is the same sum of the same
numbers and has the same operations behind it; a pair behind the split into heads is put in front
of it, where it is one kernel with the bias. But OpenVINO multiplies by the scales elsewhere in
it, so that now and then a key is rounded to the next INT8 step; neither form is the more exact.

This pays with fixed shapes; with dynamic ones such a matmul is no faster than what it replaces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common as passes

from trt_int8.graph import qdq
from trt_int8.graph.names import TensorNames, name_nodes
from trt_int8.runtime.cpu.sizes import FixedSizes, Sizes
from trt_int8.runtime.tensors import Shape

# [B, S, N, D] to [B, N, D, S]; the normal form has one Transpose for it (`merge_transposes`).
_TURN = (0, 2, 3, 1)
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
_ARITHMETIC = ("Add", "Mul", "Div")
_TOKENS_RANK = 3


def transpose_keys(model: bytes, shapes: Sequence[Mapping[str, Shape]]) -> bytes:
    """Compute the keys of INT8 attentions transposed, wherever that is sure to be the same.

    Rewritten is MatMul with an int8 weight -> Reshape [B, S, N, D] -> Transpose [B, N, D, S] ->
    operand 1 of a MatMul. On the way are at least one Q/DQ pair of one scale, and maybe sums,
    products and quotients with a constant: a scalar, or [H] in front of the Reshape (the bias).
    Nothing else reads it up to the Transpose, but for its sizes. All other attentions stay.

    Args:
        model: an ONNX file in float32 whose Q/DQ are in the normal form.
        shapes: of every input by name, one mapping for each shape that will be run; in all of them
            the sizes of the Reshape must be those above.

    Returns:
        An ONNX file with as many Q/DQ pairs and the same inputs and outputs, dynamic where they
        were; `model` itself if nothing is rewritten.
    """
    opened = ir.from_proto(onnx.load_model_from_string(model))
    # Nodes that lead to no output would look like further readers.
    passes.RemoveUnusedNodesPass()(opened)
    found = _find_keys(opened.graph)
    reader = FixedSizes(model) if found else None
    sized = [reader.of(each) for each in shapes] if reader is not None else []
    heads = [(keys, split) for keys in found if (split := _heads(keys, sized)) is not None]
    if not heads:
        return model
    writer = _Writer(opened.graph)
    for keys, split in heads:
        writer.rewrite(keys, split)
    passes.RemoveUnusedNodesPass()(opened)
    name_nodes(opened.graph)
    return bytes(ir.to_proto(opened).SerializeToString())


@dataclass(frozen=True)
class _Keys:
    """K of one attention, or of several that share it.

    Attributes:
        tokens: X, [B, S, K].
        operand: W as the matmul reads it, dequantized.
        weight: its codes [K, H], of zero point 0.
        product: X W.
        chain: the nodes behind it in their order, the last is the Transpose.
    """

    tokens: ir.Value
    operand: ir.Value
    weight: qdq.QuantizedConstant
    product: ir.Node
    chain: tuple[ir.Node, ...]

    @property
    def n_channels(self) -> int:
        """H."""
        return int(self.weight.codes.shape[1])


def _find_keys(graph: ir.Graph) -> list[_Keys]:
    found: dict[ir.Node, _Keys] = {}
    for node in graph:
        keys = _keys_of(node) if node.op_type == "MatMul" else None
        if keys is not None and _is_alone(keys) and _has_known_constants(keys):
            found.setdefault(keys.chain[-1], keys)
    return list(found.values())


def _keys_of(scores: ir.Node) -> _Keys | None:
    """What makes operand 1 of a MatMul, if these nodes are of the kinds that keys are made of."""
    upward: list[ir.Node] = []
    value = scores.inputs[1]
    node = value.producer() if value is not None else None
    while node is not None and node.op_type != "MatMul":
        upward.append(node)
        value = _changed(node)
        node = value.producer() if value is not None else None
    nodes = upward[::-1]
    layout = [each for each in nodes if each.op_type in ("Reshape", "Transpose")]
    if node is None or [each.op_type for each in layout] != ["Reshape", "Transpose"]:
        return None
    tokens, operand = node.inputs
    weight = _weight_behind(operand)
    if tokens is None or operand is None or weight is None or not _turns(layout[1]):
        return None
    if not any(each.op_type == "QuantizeLinear" for each in nodes):
        return None
    return _Keys(tokens, operand, weight, node, tuple(nodes[: nodes.index(layout[1]) + 1]))


def _changed(node: ir.Node) -> ir.Value | None:
    """What a node changes one by one, or in layout; None if it may do anything else."""
    if node.op_type in ("Reshape", "Transpose"):
        return node.inputs[0]
    if node.op_type in _QUANTIZERS:
        scale = qdq.scale_of_node(node)
        return node.inputs[0] if scale is not None and scale.size == 1 else None
    if node.op_type in _ARITHMETIC and qdq.constant(node.inputs[1]) is not None:
        return node.inputs[0]
    if node.op_type in ("Add", "Mul") and qdq.constant(node.inputs[0]) is not None:
        return node.inputs[1]
    return None


def _turns(transpose: ir.Node) -> bool:
    given = transpose.attributes.get("perm")
    return given is not None and tuple(given.as_ints()) == _TURN


def _weight_behind(operand: ir.Value | None) -> qdq.QuantizedConstant | None:
    """An int8 constant [K, H] with one scale, or one for each of H, and zero point 0."""
    node = operand.producer() if operand is not None else None
    if node is None or node.op_type != "DequantizeLinear" or qdq.constant(node.inputs[0]) is None:
        return None
    found = qdq.codes_behind(node)
    if found is None or found.codes.ndim != 2 or found.axis not in (None, 1):
        return None
    # Blocks along K have scales of two axes.
    if found.scale.size > 1 and found.scale.shape != found.codes.shape[1:]:
        return None
    given = node.inputs[2] if len(node.inputs) > 2 else None
    zero_point = qdq.constant(given)
    is_symmetric = given is None or (zero_point is not None and not zero_point.any())
    return found if is_symmetric else None


def _is_alone(keys: _Keys) -> bool:
    """Whether nothing but the chain needs what is in it."""
    if keys.chain[-1].outputs[0].is_graph_output():
        return False
    made = (keys.product, *keys.chain[:-1])
    return all(_only_sizes(node, reader) for node, reader in zip(made, keys.chain, strict=True))


def _only_sizes(node: ir.Node, reader: ir.Node | None = None) -> bool:
    """Whether only `reader` needs more of a result than its sizes, constants of a fixed shape."""
    value = node.outputs[0]
    others = [user for user, _ in value.uses() if user is not reader]
    return not value.is_graph_output() and all(
        user.op_type == "Shape" or (user.op_type == "Transpose" and _only_sizes(user))
        for user in others
    )


def _has_known_constants(keys: _Keys) -> bool:
    """Whether sums, products and quotients are with one number, or with [H]."""
    constants = [_constant_of(node) for node in keys.chain if node.op_type in _ARITHMETIC]
    # One number of a higher rank would make the result one of that rank.
    return all(
        each.shape == (keys.n_channels,) or (each.size == 1 and each.ndim <= _TOKENS_RANK)
        for each in constants
    )


def _constant_of(node: ir.Node) -> NDArray[Any]:
    """The constant of a sum, product or quotient."""
    arrays = (qdq.constant(value) for value in node.inputs)
    return next(array for array in arrays if array is not None)


def _heads(keys: _Keys, sized: Sequence[Mapping[str, Sizes]]) -> tuple[int, int] | None:
    """N and D, if the Reshape splits heads off the last axis and does no more in every shape."""
    made = next(node for node in keys.chain if node.op_type == "Reshape").outputs[0]
    found: set[tuple[int, int]] = set()
    for sizes in sized:
        tokens = sizes.get(str(keys.tokens.name), ())
        split = sizes.get(str(made.name), ())
        if len(tokens) != _TOKENS_RANK or len(split) != _TOKENS_RANK + 1:
            return None
        if tokens[:2] != split[:2] or None in tokens[:2]:
            return None
        # N is often what is left, and so the one that is not known.
        n_heads, size = split[2], split[3]
        if isinstance(size, int) and size > 0:
            found.add((keys.n_channels // size, size))
        elif isinstance(n_heads, int) and n_heads > 0:
            found.add((n_heads, keys.n_channels // n_heads))
        else:
            return None
    return found.pop() if len(found) == 1 else None


def _only_reader(node: ir.Node) -> ir.Node | None:
    readers = [user for user, _ in node.outputs[0].uses()]
    return readers[0] if len(readers) == 1 and not node.outputs[0].is_graph_output() else None


class _Writer:
    """Rewrites the keys of one graph."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph, self._names = graph, TensorNames(graph)
        # Layers may share their weights.
        self._turned: dict[ir.Value, ir.Value] = {}

    def rewrite(self, keys: _Keys, heads: tuple[int, int]) -> None:
        """Make K^T by new nodes; the old ones are left without a reader."""
        end, name = keys.chain[-1], str(keys.product.outputs[0].name)
        turn = ir.Node("", "Transpose", [keys.tokens], [ir.AttrInt64s("perm", [0, 2, 1])])
        tokens = self._insert(turn, end, f"{name}_tokens")
        product = ir.Node("", "MatMul", [self._weight(keys), tokens])
        old, new = keys.product.outputs[0], self._insert(product, end, f"{name}_turned")
        reshape: ir.Node | None = None
        for node in keys.chain[:-1]:
            inputs = [new if value is old else self._column(value) for value in node.inputs]
            attributes = list(node.attributes.values())
            if node.op_type == "Reshape":
                # 0: as in the input, which is so without attributes.
                sizes = np.array([0, *heads, -1], np.int64)
                inputs, attributes = [new, self._constant(f"{name}_heads", sizes)], []
            copied = ir.Node("", node.op_type, inputs, attributes)
            reshape = copied if node.op_type == "Reshape" else reshape
            old, new = node.outputs[0], self._insert(copied, end, f"{node.outputs[0].name}_turned")
        end.outputs[0].replace_all_uses_with(new)
        if reshape is not None:
            self._quantize_first(reshape)

    def _quantize_first(self, reshape: ir.Node) -> None:
        """Bring a pair, one scale for all, in front of the Reshape: it is fused with the bias."""
        quantize = _only_reader(reshape)
        dequantize = _only_reader(quantize) if quantize is not None else None
        kinds = tuple(each.op_type for each in (quantize, dequantize) if each is not None)
        if quantize is None or dequantize is None or kinds != _QUANTIZERS:
            return
        behind = list(dequantize.outputs[0].uses())
        quantize.replace_input_with(0, reshape.inputs[0])
        self._graph.remove(reshape)
        self._graph.insert_after(dequantize, reshape)
        reshape.replace_input_with(0, dequantize.outputs[0])
        for moved in (quantize, dequantize):
            moved.outputs[0].shape = None  # was that of the heads
        for reader, index in behind:
            reader.replace_input_with(index, reshape.outputs[0])

    def _insert(self, node: ir.Node, before: ir.Node, name: str) -> ir.Value:
        node.outputs[0].name = self._names.fresh(name)
        self._graph.insert_before(before, node)
        return node.outputs[0]

    def _constant(self, name: str, array: NDArray[Any]) -> ir.Value:
        return qdq.add_initializer(self._graph, self._names.fresh(name), array)

    def _weight(self, keys: _Keys) -> ir.Value:
        """W^T [H, K], dequantized: its scales run along axis 0."""
        read = keys.operand.producer()
        if keys.operand not in self._turned and read is not None:
            name, scale = f"{keys.weight.name}_turned", keys.weight.scale
            values = [
                self._constant(name, np.ascontiguousarray(keys.weight.codes.T)),
                self._constant(f"{name}_scale", scale),
                self._constant(f"{name}_zero_point", np.zeros(scale.shape, np.int8)),
            ]
            node = ir.Node("", "DequantizeLinear", values, [ir.AttrInt64("axis", 0)])
            # Beside the other one it is in front of all that may read it.
            self._turned[keys.operand] = self._insert(node, read, f"{name}_dequantized")
        return self._turned[keys.operand]

    def _column(self, value: ir.Value | None) -> ir.Value | None:
        """A constant [H] as [H, 1]; anything else as it is."""
        array = qdq.constant(value)
        if value is None or array is None or array.ndim != 1 or array.size == 1:
            return value
        return self._constant(f"{value.name}_column", array.reshape(-1, 1))
