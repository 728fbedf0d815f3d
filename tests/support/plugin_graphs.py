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


@dataclass(frozen=True)
class Block:
    """One attention over x [B, S, H], from its Q, K and V on.

    Attributes:
        mask: `where` and `hide` take a bool condition of what is seen or hidden, `add` a tensor.
        mask_shape: of the graph's input `mask`.
        scale: of the scores: in front of Q's pair, behind that of Q, K or V, on the scores, none.
        pair_at: pairs on Q, K, V in front of the head split, or of the matmuls.
        result: what the pair of the output is on: [B, N, S, D], [B, S, N, D] or [B, S, H].
        scales: of Q, K, V, softmax and output; 0 for no pair.
        head_dim: D.
        one_source: K and V are one tensor with one pair.
    """

    mask: Literal["none", "where", "hide", "add"] = "none"
    mask_shape: tuple[int | str, ...] = ("batch", 1, 1, "sequence")
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
            kind = TensorProto.FLOAT if self.mask == "add" else TensorProto.BOOL
            shape = list(self.mask_shape)
            model.graph.input.append(helper.make_tensor_value_info("mask", kind, shape))
        return to_half(normalize(model))

    def feeds(self, batch: int = 2, sequence: int = 7) -> dict[str, NDArray[Any]]:
        """Seeded inputs; the last keys of each row are hidden, the first never."""
        sizes = {"batch": batch, "sequence": sequence}
        found: dict[str, NDArray[Any]] = {"x": noise(batch, sequence, self.hidden, seed=3)}
        if self.mask != "none":
            shape = [size if isinstance(size, int) else sizes[size] for size in self.mask_shape]
            seen = np.random.default_rng(4).random(shape) < 0.7
            seen[..., 0] = True
            forms = {"where": seen, "hide": ~seen, "add": f32(np.where(seen, 0.0, LOWEST))}
            found["mask"] = forms[self.mask]
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
        kind = self._block.mask
        if kind == "add":
            return self.tiny.op("Add", scores, "mask", name="masked")
        if kind == "none":
            return scores
        low = self.tiny.const("low", LOWEST)
        both = (scores, low) if kind == "where" else (low, scores)
        return self.tiny.op("Where", "mask", *both, name="masked")

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


def norm_twin(
    *, bias: bool = True, residual: bool = True, half: bool = False, total: bool = False
) -> onnx.ModelProto:
    """X [+ bias] [+ r] -> LayerNormalization -> pair -> MatMul.

    Args:
        bias: a constant is added to x.
        residual: the input `r` is added.
        half: the normalised tensor goes on in float too.
        total: the sum goes on too.
    """
    tiny = Tiny()
    axes: Shape = ["batch", "sequence", HIDDEN]
    # What a Linear gives, so that ONNX Runtime computes the sum as it does in a model.
    x = tiny.op("MatMul", "x", tiny.const("w_in", noise(HIDDEN, HIDDEN, seed=1) / 7), name="in")
    if bias:
        x = tiny.op("Add", tiny.const("bias", noise(HIDDEN, seed=2)), x, name="biased")
    if residual:
        x = tiny.op("Add", x, "r", name="sum")
    gamma = tiny.const("gamma", 1 + noise(HIDDEN, seed=5) / 5)
    beta = tiny.const("beta", noise(HIDDEN, seed=6) / 5)
    normed = tiny.op("LayerNormalization", x, gamma, beta, epsilon=1e-6, axis=-1, name="norm")
    weight = tiny.const("w", noise(HIDDEN, HIDDEN, seed=7) / 7)
    value = tiny.op("MatMul", tiny.pair(normed, 0.03), weight, name="linear")
    for more in (normed,) * half + (x,) * total:
        value = tiny.op("Add", value, more)
    tiny.op("Neg", value, out="y")
    given: dict[str, Shape] = {"x": axes, "r": axes} if residual else {"x": axes}
    return to_half(normalize(tiny.build(given, {"y": axes})))


GELUS = ("erf", "erf-product", "tanh", "operator", "operator-tanh")


def gelu_twin(form: str = "erf", *, bias: bool = True, wrong: float = 1.0) -> onnx.ModelProto:
    """X [+ bias] -> GELU -> pair -> MatMul; `wrong` multiplies a constant of the formula."""
    tiny = Tiny()
    axes: Shape = ["batch", "sequence", HIDDEN]
    x = tiny.op("MatMul", "x", tiny.const("w_in", noise(HIDDEN, HIDDEN, seed=1) / 7), name="in")
    if bias:
        x = tiny.op("Add", x, tiny.const("bias", noise(HIDDEN, seed=2)), name="biased")
    value = _gelu(tiny, x, form, wrong)
    weight = tiny.const("w", noise(HIDDEN, HIDDEN, seed=7) / 7)
    tiny.op("MatMul", tiny.pair(value, 0.03), weight, name="linear", out="y")
    opset = 20 if form.startswith("operator") else 17
    return to_half(normalize(tiny.build({"x": axes}, {"y": axes}, opset=opset)))


def _gelu(tiny: Tiny, x: str, form: str, wrong: float) -> str:
    one, half = tiny.const("one", 1.0), tiny.const("half", 0.5)
    if form.startswith("operator"):
        approximate = "tanh" if form.endswith("tanh") else "none"
        return tiny.op("Gelu", x, approximate=approximate)
    if form == "tanh":
        cube = tiny.op("Pow", x, tiny.const("three", 3.0))
        cubic = tiny.op("Mul", cube, tiny.const("cubic", 0.044715 * wrong))
        factor = tiny.const("factor", 0.7978845608)
        inner = tiny.op("Tanh", tiny.op("Mul", tiny.op("Add", x, cubic), factor))
        return tiny.op("Mul", tiny.op("Mul", half, x), tiny.op("Add", one, inner))
    if form == "erf":
        inner = tiny.op("Div", x, tiny.const("root", 1.41421356 * wrong))
    else:
        inner = tiny.op("Mul", x, tiny.const("root", 0.70710678 * wrong))
    gate = tiny.op("Add", tiny.op("Erf", inner), one)
    if form == "erf":
        return tiny.op("Mul", tiny.op("Mul", x, gate), half)
    return tiny.op("Mul", x, tiny.op("Mul", gate, half))


def rows(model: onnx.ModelProto, batch: int = 2, sequence: int = 7) -> dict[str, NDArray[Any]]:
    """Seeded float32 [B, S, H] for each input."""
    return {
        given.name: noise(batch, sequence, HIDDEN, seed=11 + number)
        for number, given in enumerate(model.graph.input)
    }
