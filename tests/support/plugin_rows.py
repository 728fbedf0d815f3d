"""FP16 twins with a norm or a GELU in front of a pair, and graphs that only look so."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from tests.support.onnx_tiny import Shape, Tiny, noise
from tests.support.plugin_graphs import HIDDEN
from trt_int8.graph.half import to_half
from trt_int8.graph.normalize import normalize


def norm_twin(
    *,
    bias: bool = True,
    residual: bool = True,
    half: bool = False,
    total: bool = False,
    beta: bool = True,
    flat: str = "",
) -> onnx.ModelProto:
    """X [+ bias] [+ r] -> LayerNormalization -> pair -> MatMul.

    Args:
        bias: a constant is added to x.
        residual: the input `r` is added.
        half: the normalised tensor goes on in float too.
        total: the sum goes on too.
        beta: the norm has one.
        flat: a Reshape in front of the pair, see `_reshaped`.
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
    more_of_it = [tiny.const("beta", noise(HIDDEN, seed=6) / 5)] if beta else []
    normed = tiny.op(
        "LayerNormalization", x, gamma, *more_of_it, epsilon=1e-6, axis=-1, name="norm"
    )
    value = _linear(tiny, normed, flat)
    for more in (normed,) * half + (x,) * total:
        value = tiny.op("Add", value, more)
    tiny.op("Neg", value, out="y")
    given: dict[str, Shape] = {"x": axes, "r": axes} if residual else {"x": axes}
    return to_half(normalize(tiny.build(given, {"y": axes})))


GELUS = ("erf", "erf-product", "tanh", "operator", "operator-tanh")


def _linear(tiny: Tiny, value: str, flat: str) -> str:
    """Pair -> MatMul, on rows in one axis if `flat`."""
    weight = tiny.const("w", noise(HIDDEN, HIDDEN, seed=7) / 7)
    if not flat:
        return tiny.op("MatMul", tiny.pair(value, 0.03), weight, name="linear")
    before = tiny.op("Shape", value, name="sizes")
    made = tiny.op("MatMul", tiny.pair(_reshaped(tiny, value, flat), 0.03), weight, name="linear")
    return tiny.op("Reshape", made, before, name="whole")


def _reshaped(tiny: Tiny, value: str, flat: str) -> str:
    """As GPT-2 does it: to [rows, H] by the shape of the tensor itself.

    Args:
        tiny: the graph.
        value: [B, S, H].
        flat: "rows"; or "middle" for [1, rows, H].
    """
    ends = [tiny.const("last", np.array([-1])), tiny.const("end", np.array([2**62]))]
    hidden = tiny.op("Slice", tiny.op("Shape", value), *ends)
    front = tiny.const("front", np.array([-1] if flat == "rows" else [1, -1]))
    return tiny.op("Reshape", value, tiny.op("Concat", front, hidden, axis=0), name="flatten")


def gelu_twin(
    form: str = "erf", *, bias: bool = True, wrong: float = 1.0, flat: str = ""
) -> onnx.ModelProto:
    """X [+ bias] -> GELU -> pair -> MatMul; `wrong` multiplies a constant of the formula."""
    tiny = Tiny()
    axes: Shape = ["batch", "sequence", HIDDEN]
    x = tiny.op("MatMul", "x", tiny.const("w_in", noise(HIDDEN, HIDDEN, seed=1) / 7), name="in")
    if bias:
        x = tiny.op("Add", x, tiny.const("bias", noise(HIDDEN, seed=2)), name="biased")
    value = _gelu(tiny, x, form, wrong)
    tiny.op("Neg", _linear(tiny, value, flat), out="y")
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
