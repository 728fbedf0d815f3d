"""FP16 twins with Q/DQ that plugins can compute, and graphs that only look so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tests.support.onnx_tiny import Shape, Tiny, f32, noise
from trt_int8.graph.half import to_half
from trt_int8.graph.normalize import normalize

HEADS, HEAD_DIM = 3, 16
HIDDEN = HEADS * HEAD_DIM
LOWEST = float(np.finfo(np.float32).min)
LOWEST_HALF = float(np.finfo(np.float16).min)


@dataclass(frozen=True)
class Block:
    """One attention over x [B, S, H], from its Q, K and V on.

    Attributes:
        mask: `where` and `hide` take a bool condition of what is seen or hidden, `add` a tensor.
        mask_shape: of the graph's input `mask`.
        rows: a bool mask gets a row per query: "same" for all, or "causal" and other conditions on
            the numbers of key and query, see `_ROWS`.
        bias: the input `bias` [1, N, S, S] is added in front of the mask.
        scale: of the scores: in front of Q's pair, behind that of Q, K or V, on the scores, none.
        pair_at: pairs on Q, K, V in front of the head split, or of the matmuls.
        result: what the pair of the output is on: [B, N, S, D], [B, S, N, D] or [B, S, H].
        scales: of Q, K, V, softmax and output; 0 for no pair.
        head_dim: D.
        one_source: K and V are one tensor with one pair.
    """

    mask: Literal["none", "where", "hide", "add"] = "none"
    mask_shape: tuple[int | str, ...] = ("batch", 1, 1, "sequence")
    rows: str = ""
    bias: bool = False
    scale: Literal["before", "q", "k", "v", "scores", "none"] = "before"
    pair_at: Literal["split", "matmul"] = "matmul"
    result: Literal["heads", "rows", "merged"] = "merged"
    scales: tuple[float, float, float, float, float] = (0.02, 0.03, 0.04, 1 / 127, 0.05)
    head_dim: int = HEAD_DIM
    one_source: bool = False

    @property
    def hidden(self) -> int:
        """H."""
        return HEADS * self.head_dim

    def twin(self) -> onnx.ModelProto:
        """The graph, from x and perhaps mask to y."""
        tiny = _Attention(self)
        axes: Shape = ["batch", "sequence", self.hidden]
        model = tiny.tiny.build({"x": axes}, {"y": axes})
        if self.mask != "none":
            is_float = self.mask == "add" and not self.rows
            kind = TensorProto.FLOAT if is_float else TensorProto.BOOL
            shape = list(self.mask_shape)
            model.graph.input.append(helper.make_tensor_value_info("mask", kind, shape))
        if self.bias:
            sizes: list[int | str | None] = [1, HEADS, "sequence", "sequence"]
            model.graph.input.append(
                helper.make_tensor_value_info("bias", TensorProto.FLOAT, sizes)
            )
        return to_half(normalize(model))

    def feeds(self, batch: int = 2, sequence: int = 7) -> dict[str, NDArray[Any]]:
        """Seeded inputs; the last keys of each row are hidden, the first never."""
        sizes = {"batch": batch, "sequence": sequence}
        found: dict[str, NDArray[Any]] = {"x": noise(batch, sequence, self.hidden, seed=3)}
        if self.mask != "none":
            shape = [size if isinstance(size, int) else sizes[size] for size in self.mask_shape]
            seen = np.random.default_rng(4).random(shape) < 0.7
            seen[..., 0] = True
            forms = {"where": seen, "hide": ~seen, "add": f32(np.where(seen, 0.0, LOWEST_HALF))}
            found["mask"] = seen if self.rows else forms[self.mask]
        if self.bias:
            # Float16 numbers: ONNX Runtime leaves out a Cast there and back where it can.
            found["bias"] = f32(np.float16(noise(1, HEADS, sequence, sequence, seed=5)))
        return found


class _Attention:
    """Writes a block's nodes."""

    def __init__(self, block: Block) -> None:
        self.tiny, self._block = Tiny(), block
        q, k, v, p, out = block.scales
        query = self._head("q", q, [0, 2, 1, 3])
        v = k if block.one_source else v
        key, value = self._head("k", k, [0, 2, 3, 1]), self._head("v", v, [0, 2, 1, 3])
        scores = self.tiny.op("MatMul", query, key, name="scores")
        if block.scale == "scores":
            scores = self._mul(scores)
        weights = self.tiny.op("Softmax", self._masked(scores), axis=-1, name="softmax")
        context = self.tiny.op("MatMul", self._pair(weights, p), value, name="context")
        self._finish(context, out)

    def _pair(self, value: str, scale: float) -> str:
        return self.tiny.pair(value, scale) if scale else value

    def _mul(self, value: str) -> str:
        name = self.tiny.const(f"scale_{len(self.tiny.nodes)}", float(self._block.head_dim**-0.5))
        return self.tiny.op("Mul", value, name)

    def _head(self, name: str, scale: float, perm: list[int]) -> str:
        block = self._block
        weight = self.tiny.const(f"{name}_w", noise(block.hidden, block.hidden, seed=ord(name)) / 7)
        if name == "v" and block.one_source:
            made = "k_linear"
        else:
            made = self.tiny.op("MatMul", "x", weight, name=name, out=f"{name}_linear")
        shape = self.tiny.const(f"{name}_shape", np.array([0, 0, HEADS, block.head_dim]))
        if block.pair_at == "split":
            made = self._pair(made, scale)
        made = self.tiny.op("Transpose", self.tiny.op("Reshape", made, shape), perm=perm)
        if name == "q" and block.scale == "before":
            made = self._mul(made)
        if block.pair_at == "matmul":
            made = self._pair(made, scale)
        return self._mul(made) if name == block.scale else made

    def _masked(self, scores: str) -> str:
        kind, mask = self._block.mask, "mask"
        if self._block.bias:
            scores = self.tiny.op("Add", scores, "bias", name="biased")
        if self._block.rows:
            mask = _Rows(self.tiny).condition(self._block.rows)
        if kind == "add":
            if self._block.rows:
                ends = (self.tiny.const("zero", 0.0), self.tiny.const("low", LOWEST))
                mask = self.tiny.op("Where", mask, *ends, name="values")
            return self.tiny.op("Add", scores, mask, name="masked")
        if kind == "none":
            return scores
        low = self.tiny.const("low", LOWEST)
        both = (scores, low) if kind == "where" else (low, scores)
        return self.tiny.op("Where", mask, *both, name="masked")

    def _finish(self, context: str, scale: float) -> None:
        tiny, result = self.tiny, self._block.result
        flat = tiny.const("flat", np.array([0, 0, self._block.hidden]))
        value = self._pair(context, scale) if result == "heads" else context
        value = tiny.op("Transpose", value, perm=[0, 2, 1, 3])
        value = self._pair(value, scale) if result == "rows" else value
        value = tiny.op("Reshape", value, flat)
        value = self._pair(value, scale) if result == "merged" else value
        weight = tiny.const("out_w", noise(self._block.hidden, self._block.hidden, seed=9) / 7)
        tiny.op("MatMul", value, weight, name="out", out="y")


def stacked(
    first: onnx.ModelProto, second: onnx.ModelProto, shared: tuple[str, ...] = ("mask",)
) -> onnx.ModelProto:
    """Two blocks, one behind the other, with the same inputs `shared` or tensors made of them."""
    renamed = onnx.compose.add_prefix(second, "two/")
    known = {f"two/{name}": name for name in shared} | {"two/x": "y"}
    for node in renamed.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = known.get(name, name)
    both = onnx.ModelProto()
    both.CopyFrom(first)
    both.graph.node.extend(renamed.graph.node)
    both.graph.initializer.extend(renamed.graph.initializer)
    del both.graph.output[:]
    both.graph.output.extend(renamed.graph.output)
    return both


# Operator on the numbers of key and query, and the number that these start from.
_ROWS = {
    "causal": ("LessOrEqual", (0, 0)),
    "later": ("GreaterOrEqual", (0, 0)),
    "strict": ("Less", (0, 0)),
    "shifted": ("LessOrEqual", (1, 0)),
}
_LONGEST = 64


class _Rows:
    """Makes [B, 1, S, S] of the bool input `mask`, as exporters do."""

    def __init__(self, tiny: Tiny) -> None:
        self._tiny = tiny

    def condition(self, kind: str) -> str:
        """And of the mask and a condition, by Expand to its full shape.

        Args:
            kind: "same": query number >= 0; "late": query number >= 2; "triangle", "corner":
                a constant triangle from its first row on, or from its second; else see `_ROWS`.
        """
        tiny = self._tiny
        if kind in ("same", "late"):
            bound = tiny.const("bound", np.array({"same": 0, "late": 2}[kind]))
            extra = tiny.op("GreaterOrEqual", self._numbers([0, 1, 3], 0), bound)
        elif kind in ("triangle", "corner"):
            extra = self._triangle(int(kind == "corner"))
        else:
            operator, starts = _ROWS[kind]
            keys, queries = self._numbers([0, 1, 2], starts[0]), self._numbers([0, 1, 3], starts[1])
            extra = tiny.op(operator, keys, queries)
        both = tiny.op("And", extra, "mask")
        sizes = [self._size(axis) for axis in (0, 1, 1)]
        one = tiny.const("one", np.array([1]))
        shape = tiny.op("Concat", sizes[0], one, *sizes[1:], axis=0)
        return tiny.op("Expand", both, shape, name="rows")

    def _size(self, axis: int) -> str:
        place = self._tiny.const(f"place_{len(self._tiny.nodes)}", np.array([axis]))
        return self._tiny.op("Gather", self._tiny.op("Shape", "x"), place)

    def _numbers(self, axes: list[int], start: int) -> str:
        """`start`, `start` + 1 ... for each of S tokens, with new axes."""
        tiny, name = self._tiny, f"{len(self._tiny.nodes)}"
        first, step = (
            tiny.const(f"first_{name}", np.array(start)),
            tiny.const(f"step_{name}", np.array(1)),
        )
        end = tiny.op("Add", tiny.op("Squeeze", self._size(1)), first)
        numbers = tiny.op("Range", first, end, step)
        return tiny.op("Unsqueeze", numbers, tiny.const(f"axes_{name}", np.array(axes)))

    def _triangle(self, first: int) -> str:
        tiny, start = self._tiny, np.array([first, first])
        whole = tiny.const("triangle", np.tri(_LONGEST, dtype=bool)[None, None])
        size = tiny.op("Add", self._size(1), tiny.const("start", start[:1]))
        ends = tiny.op("Concat", size, size, axis=0)
        axes = tiny.const("both_axes", np.array([2, 3]))
        return tiny.op("Slice", whole, tiny.const("starts", start), ends, axes)
