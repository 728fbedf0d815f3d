"""The masks of an attention as one float32 tensor that is added to the scores.

One mask: the reference reads the tensor of the plugin, and makes of it what the model has. Several,
a position bias and a padding mask: the plugin reads their sum, and the reference the masks
themselves, because (scores + bias) + mask and scores + (bias + mask) are rounded differently.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trt_int8.graph import qdq
from trt_int8.graph.names import TensorNames
from trt_int8.graph.plugins.mask_proofs import MaskProofs
from trt_int8.graph.plugins.walk import NoPluginError, Shapes, behind_casts, is_gone, maker, number
from trt_int8.model.onnx_shapes import Dims

# What a Where puts in the place of masked scores: so low that the softmax gives 0 beside any score
# that is not masked. exp(x) is 0 in float32 below -104, and scores are far from -10 000.
_LOWEST = -1e4
Trials = tuple[Dims, ...]
_SCORES_RANK = 4
# Part of the name of a node between a mask and the form in which plugins read it.
MASK = "plugin_mask"
# Of the node in a reference that hides later keys again; its operand with the mask itself.
BOUND, BOUND_OPERAND = f"{MASK}_bound", 1


@dataclass(frozen=True)
class Mask:
    """A mask as the graph has it.

    Attributes:
        node: the Add, or the Where.
        place: operand of `node` that is the mask: a tensor to add, or the condition of Where.
        rank: its number of dimensions.
        hides: the Where hides the scores for which the condition is true.
        is_whole: its last axis is known to be S_k, not 1.
        is_one_row: its rows are proven to be equal, but for what `is_causal` says, and many; the
            last one is all that a plugin needs.
        is_causal: key j is hidden from query i besides for j > i.
        low: what an additive mask has there.
    """

    node: ir.Node
    place: int
    rank: int
    hides: bool = False
    is_whole: bool = True
    is_one_row: bool = False
    is_causal: bool = False
    low: float = -np.inf

    @property
    def value(self) -> ir.Value:
        """The tensor."""
        found = self.node.inputs[self.place]
        assert found is not None
        return found


def read_mask(node: ir.Node, scores: ir.Value, shapes: Shapes) -> tuple[Mask, ir.Value | None]:
    """Read an Add or a Where on the way from the scores to the softmax.

    Args:
        node: made of the scores.
        scores: result of the first matmul.
        shapes: of the graph.

    Returns:
        The mask, and the operand that comes from the scores.

    Raises:
        NoPluginError: it is no mask, or its shape is not proven to be [B or 1, N or 1, S or 1, S].
    """
    wanted = shapes.trials(scores)
    if node.op_type == "Where":
        numbers = [number(value) for value in node.inputs]
        low = [place for place in (1, 2) if (numbers[place] or 0.0) <= _LOWEST]
        if len(low) != 1:
            raise NoPluginError("its mask does not put the lowest number in the place of scores")
        place, rest = 0, node.inputs[3 - low[0]]
        hides = low[0] == 1
    else:
        whole = [place for place in (0, 1) if shapes.trials(node.inputs[place]) == wanted]
        chain = [place for place in whole if _comes_from(node.inputs[place], scores)]
        if len(chain) != 1:
            raise NoPluginError("what is added to its scores depends on them")
        place, rest, hides = 1 - chain[0], node.inputs[chain[0]], False
    rank, is_whole = _shape_of(node.inputs[place], wanted, shapes)
    return _proven(Mask(node, place, rank, hides, is_whole), wanted, shapes), rest


def _proven(mask: Mask, wanted: Trials | None, shapes: Shapes) -> Mask:
    """The mask with what is proven of its rows."""
    value, proofs = mask.value, MaskProofs(shapes)
    rows = {trial[-2] for trial in shapes.trials(value) or ((0, 0),)} if mask.rank > 1 else {1}
    if rows == {1}:
        return mask
    if proofs.is_same_for_queries(value):
        return replace(mask, is_one_row=True)
    seen: ir.Value | None = value
    low = -np.inf
    if mask.node.op_type == "Add":
        seen, low = _condition(value)
    # With as many queries as keys the last query sees every key that any query sees.
    is_square = all(trial[-1] == trial[-2] for trial in wanted or ((0, 1),))
    if mask.hides or not is_square or seen is None or not proofs.is_causal(seen):
        return mask
    return replace(mask, is_one_row=True, is_causal=True, low=low)


def _condition(value: ir.Value) -> tuple[ir.Value | None, float]:
    """Of an additive mask that is a Where: which keys count, and the number for the others."""
    node = maker(behind_casts(value), "Where")
    if node is None or number(node.inputs[1]) != 0.0:
        return None, 0.0
    low = number(node.inputs[2])
    return (node.inputs[0], low) if low is not None and low <= _LOWEST else (None, 0.0)


def _comes_from(value: ir.Value | None, scores: ir.Value) -> bool:
    """Tell whether a chain of one-operand steps leads to the scores."""
    while value is not None and value is not scores:
        node = value.producer()
        if node is None or node.op_type not in ("Cast", "Mul", "Div", "Add", "Where"):
            return False
        others = [v for v in node.inputs if v is not None and qdq.constant(v) is None]
        if node.op_type in ("Add", "Where") or len(others) != 1:
            return any(_comes_from(other, scores) for other in others)
        value = others[0]
    return value is scores


def _shape_of(value: ir.Value | None, wanted: Trials | None, shapes: Shapes) -> tuple[int, bool]:
    """The rank of a mask, and whether its last axis is S_k.

    Raises:
        NoPluginError: an axis is neither 1 nor that of the scores, as far as that is known.
    """
    array, name = qdq.constant(value), str(value.name) if value is not None else ""
    given = [shapes.one.get(name), shapes.two.get(name)]
    trials = [array.shape, array.shape] if array is not None else given
    is_whole = True
    for found, whole in zip(trials, wanted or (), strict=False):
        if found is None or len(found) > _SCORES_RANK:
            raise NoPluginError("the shape of its mask is not known")
        full = (1,) * (_SCORES_RANK - len(found)) + tuple(found)
        if any(have not in (1, None, want) for have, want in zip(full, whole, strict=True)):
            raise NoPluginError("its mask is not [B or 1, N or 1, S or 1, S]")
        is_whole = is_whole and full[-1] == whole[-1]
    return len(trials[0] or ()), is_whole


class MaskWriter:
    """Makes the tensor that plugins add; once where several attentions have the same mask."""

    def __init__(self, graph: ir.Graph, names: TensorNames) -> None:
        """For one graph."""
        self._graph, self._names = graph, names
        self._made: dict[tuple[ir.Value, str, bool, bool], ir.Value] = {}
        self._sums: dict[tuple[ir.Value, ...], ir.Value] = {}

    def additive(self, mask: Mask, keys: ir.Value) -> ir.Value:
        """The mask as float32 of rank 4, which the node of `mask` reads from now on.

        Args:
            mask: of an attention.
            keys: its K as [B, S_k, N, D].

        A Where becomes 0 and minus infinity, and its condition is read back from these: so a query
        that sees no key keeps the model's own value in the reference, where the plugin gives 0.
        """
        added = self._shared(mask, keys)
        node = mask.node
        if node.op_type == "Where":
            meant = self._constant("true", np.float32(-np.inf if mask.hides else 0.0))
            read = self._op("Equal", added, meant, before=node, dtype=ir.DataType.BOOL)
        elif mask.value.dtype == ir.DataType.FLOAT16:
            read = self._cast(added, ir.DataType.FLOAT16, node)
        else:
            read = added
        if mask.is_causal:
            read = self._bounded(read, mask, keys)
        node.replace_input_with(mask.place, read)
        return added

    def sum(self, masks: Sequence[Mask], keys: ir.Value) -> ir.Value:
        """Several masks as one of float32 and rank 4; their nodes stay as they are.

        Args:
            masks: of an attention.
            keys: its K as [B, S_k, N, D].
        """
        is_whole = any(mask.is_whole for mask in masks)
        parts = tuple(self._shared(mask, keys, is_part=True) for mask in masks)
        if is_gone(self._sums.get(parts)):
            total, node = parts[0], masks[0].node
            for part in parts[1:]:
                total = self._op("Add", total, part, before=node, dtype=ir.DataType.FLOAT)
            self._sums[parts] = total if is_whole else self._expanded(total, keys, node)
        return self._sums[parts]

    def _shared(self, mask: Mask, keys: ir.Value, *, is_part: bool = False) -> ir.Value:
        """The tensor of a mask; a part of a sum may have one column."""
        key = (mask.value, mask.node.op_type, mask.hides, is_part)
        if is_gone(self._made.get(key)):
            value = self._float(mask)
            whole = is_part or mask.is_whole
            value = value if whole else self._expanded(value, keys, mask.node)
            if mask.is_one_row:
                value.shape = ir.Shape((None, None, 1, None))
            self._made[key] = value
        return self._made[key]

    def _float(self, mask: Mask) -> ir.Value:
        value, node = mask.value, mask.node
        if mask.is_one_row:
            # Not by Slice: with Gather the axis is known to be 1 while an engine is built.
            last = self._constant("last_row", np.array([-1], np.int64))
            gather = ir.Node("", "Gather", [value, last], [ir.AttrInt64("axis", mask.rank - 2)])
            value = self._insert(gather, node, value.dtype)
        if mask.rank < _SCORES_RANK:
            axes = np.arange(_SCORES_RANK - mask.rank, dtype=np.int64)
            places = [self._constant("axes", axes)]
            value = self._op("Unsqueeze", value, *places, before=node, dtype=value.dtype)
        if node.op_type == "Where":
            shown = self._constant("shown", np.float32(0.0))
            hidden = self._constant("hidden", np.float32(-np.inf))
            both = (hidden, shown) if mask.hides else (shown, hidden)
            value = self._op("Where", value, *both, before=node, dtype=ir.DataType.FLOAT)
        elif value.dtype == ir.DataType.FLOAT16:
            value = self._cast(value, ir.DataType.FLOAT, node)
        return value

    def _bounded(self, read: ir.Value, mask: Mask, keys: ir.Value) -> ir.Value:
        """The mask with later keys hidden again: for the reference, so of its inputs alone."""
        node, whole = mask.node, ir.DataType.INT64
        sizes = self._op("Shape", keys, before=node, dtype=whole)
        length = self._op("Gather", sizes, self._number(1), before=node, dtype=whole)
        count = (self._number(0), length, self._number(1))
        numbers = self._op("Range", *count, before=node, dtype=whole)
        column = self._constant("column", np.array([1], np.int64))
        queries = self._op("Unsqueeze", numbers, column, before=node, dtype=whole)
        earlier = self._op("LessOrEqual", numbers, queries, before=node, dtype=ir.DataType.BOOL)
        if node.op_type == "Where":
            made = ir.Node("", "And", (earlier, read))
        else:
            low = np.asarray(mask.low, read.dtype.numpy() if read.dtype else np.float32)
            made = ir.Node("", "Where", (earlier, read, self._constant("later", low)))
        return self._insert(made, node, read.dtype, BOUND)

    def _expanded(self, value: ir.Value, keys: ir.Value, before: ir.Node) -> ir.Value:
        """The last axis as long as there are keys; nothing else changes (Expand broadcasts)."""
        whole = ir.DataType.INT64
        sizes = self._op("Shape", keys, before=before, dtype=whole)
        places = [self._constant(f"from_{at}", np.array([at], np.int64)) for at in (1, 2)]
        length = self._op("Slice", sizes, *places, before=before, dtype=whole)
        ones = self._constant("ones", np.ones(_SCORES_RANK - 1, np.int64))
        node = ir.Node("", "Concat", [ones, length], [ir.AttrInt64("axis", 0)])
        shape = self._insert(node, before, whole)
        return self._op("Expand", value, shape, before=before, dtype=value.dtype)

    def _cast(self, value: ir.Value, dtype: ir.DataType, before: ir.Node) -> ir.Value:
        node = ir.Node("", "Cast", [value], [ir.AttrInt64("to", int(dtype))])
        return self._insert(node, before, dtype)

    def _op(
        self, kind: str, *inputs: ir.Value, before: ir.Node, dtype: ir.DataType | None
    ) -> ir.Value:
        return self._insert(ir.Node("", kind, inputs), before, dtype)

    def _insert(
        self, node: ir.Node, before: ir.Node, dtype: ir.DataType | None, name: str = MASK
    ) -> ir.Value:
        made = node.outputs[0]
        made.name = self._names.fresh(f"{before.name}/{name}")
        if dtype is not None:
            made.dtype = dtype
        node.name = made.name
        self._graph.insert_before(before, node)
        return made

    def _number(self, value: int) -> ir.Value:
        return self._constant(f"number_{value}", np.asarray(value, np.int64))

    def _constant(self, name: str, array: NDArray[Any] | np.float32) -> ir.Value:
        name = self._names.fresh(f"{MASK}_{name}")
        return qdq.add_initializer(self._graph, name, np.asarray(array))
