"""The ONNX operator `Attention` (opset 23) as MatMul, scale, mask, Softmax and MatMul."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from trt_int8.graph import qdq
from trt_int8.graph.names import TensorNames

# Inputs: Q, K, V, attn_mask, past_key, past_value (ONNX specification, Attention-23).
_MASK, _AFTER_MASK = 3, 4
_HEAD_AXES = 4


def expand_attention(graph: ir.Graph) -> None:
    """Replace each `Attention` that can be; others stay: grouped heads, a cache, a soft cap.

    Q is multiplied by the scale (1 / sqrt(D) unless the operator names one), K is transposed, and
    the mask is added, or where it is bool put in the place of the scores it is False for.
    """
    names = TensorNames(graph)
    for node in list(graph):
        if node.op_type == "Attention" and not node.domain:
            found = _Heads.of(node)
            if found is not None:
                _Expansion(graph, names, node, found).run()


@dataclass(frozen=True)
class _Heads:
    """How an operator's heads lie: [B, N, S, D], or [B, S, N * D] if `count` is not 0."""

    count: int
    scale: float

    @classmethod
    def of(cls, node: ir.Node) -> _Heads | None:
        """None if the operator does more than plain attention, or its scale is not known."""
        numbers = {
            name: attribute.as_float() if name in ("scale", "softcap") else attribute.as_int()
            for name, attribute in node.attributes.items()
        }
        others = any(value is not None for value in node.inputs[_AFTER_MASK:])
        mask = node.inputs[_MASK] if len(node.inputs) > _MASK else None
        if mask is not None and mask.dtype not in (ir.DataType.BOOL, ir.DataType.FLOAT):
            return None
        if any(value is None or value.dtype != ir.DataType.FLOAT for value in node.inputs[:3]):
            return None
        more = any(value.uses() or value.is_graph_output() for value in node.outputs[1:])
        if others or more or numbers.get("softcap") or numbers.get("is_causal"):
            return None
        count = int(numbers.get("q_num_heads", 0))
        if int(numbers.get("kv_num_heads", 0)) != count:
            return None
        query, key = (_sizes(value) for value in node.inputs[:2])
        if count == 0 and (query is None or key is None or query[1] is None or query[1] != key[1]):
            return None  # grouped heads, perhaps
        width = query[-1] if query else None
        scale = numbers.get("scale")
        if scale is None and width is None:
            return None
        size = (width or 1) // count if count else width
        return cls(count, float(scale) if scale is not None else float(size or 1) ** -0.5)


def _sizes(value: ir.Value | None) -> tuple[int | None, ...] | None:
    shape = value.shape if value is not None else None
    return None if shape is None else tuple(d if isinstance(d, int) else None for d in shape)


class _Expansion:
    def __init__(self, graph: ir.Graph, names: TensorNames, node: ir.Node, heads: _Heads) -> None:
        self._graph, self._names, self._node, self._heads = graph, names, node, heads

    def run(self) -> None:
        query, key, value = (self._split(v) for v in self._node.inputs[:3] if v is not None)
        scaled = self._op("Mul", query, self._constant(np.float32(self._heads.scale)))
        keys = self._op("Transpose", key, perm=(0, 1, 3, 2))
        scores = self._masked(self._op("MatMul", scaled, keys))
        weights = self._op("Softmax", scores)
        result = self._merged(self._op("MatMul", weights, value))
        old = self._node.outputs[0]
        result.type, result.shape = old.type, old.shape
        result.name, old.name = old.name, None
        old.replace_all_uses_with(result, replace_graph_outputs=True)
        self._graph.remove(self._node, safe=True)

    def _split(self, value: ir.Value) -> ir.Value:
        if not self._heads.count:
            return value
        shape = self._constant(np.asarray([0, 0, self._heads.count, -1], np.int64))
        return self._op("Transpose", self._op("Reshape", value, shape), perm=(0, 2, 1, 3))

    def _merged(self, value: ir.Value) -> ir.Value:
        if not self._heads.count:
            return value
        rows = self._op("Transpose", value, perm=(0, 2, 1, 3))
        return self._op("Reshape", rows, self._constant(np.asarray([0, 0, -1], np.int64)))

    def _masked(self, scores: ir.Value) -> ir.Value:
        given = self._node.inputs[_MASK] if len(self._node.inputs) > _MASK else None
        if given is None:
            return scores
        if given.dtype == ir.DataType.BOOL:
            lowest = self._constant(np.finfo(np.float32).min)
            return self._op("Where", given, scores, lowest)
        return self._op("Add", scores, given)

    def _op(self, kind: str, *inputs: ir.Value, perm: tuple[int, ...] = ()) -> ir.Value:
        attributes: list[ir.Attr] = [ir.AttrInt64s("perm", perm)] if perm else []
        if kind == "Softmax":
            attributes = [ir.AttrInt64("axis", -1)]
        name = self._names.fresh(f"{self._node.name}/{kind}")
        made = ir.Node("", kind, inputs, attributes, name=name)
        made.outputs[0].name = self._names.fresh(f"{name}_output")
        self._graph.insert_before(self._node, made)
        return made.outputs[0]

    def _constant(self, array: np.ndarray | np.generic) -> ir.Value:
        name = self._names.fresh(f"{self._node.name}/constant")
        return qdq.add_initializer(self._graph, name, np.asarray(array))
