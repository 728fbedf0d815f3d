"""Small float graphs with Linears whose inputs can be smoothed, and factors for them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from tests.support.onnx_tiny import Array, Tiny, constants_of, noise, run_ort
from trt_int8.annotate.onnx_model import OnnxPlan, plan_onnx
from trt_int8.graph.normalize import normalize
from trt_int8.graph.smooth import smooth_graph
from trt_int8.spec.recipe import Recipe

K, N = 19, 17


def spread(channels: int, seed: int = 0) -> NDArray[np.float32]:
    """Factors between 1 / 8 and 8 that are no powers of two."""
    return np.exp2(np.random.default_rng(seed).uniform(-3, 3, channels)).astype(np.float32)


def closed(tiny: Tiny, **outputs: list[int | str]) -> onnx.ModelProto:
    """`x` float [3, K] goes in."""
    return normalize(tiny.build({"x": [3, K]}, outputs))


def one_linear(kind: str = "MatMul", **attrs: int) -> onnx.ModelProto:
    """The graph relu(x) W, or what a Gemm makes of it."""
    tiny = Tiny()
    tiny.op("Relu", "x", out="a")
    weight = tiny.const("w", noise(N, K) if attrs.get("transB") else noise(K, N))
    tiny.op(kind, "a", weight, name="linear", out="y", **attrs)
    return closed(tiny, y=[3, N])


def two_tensors(**second: int) -> onnx.ModelProto:
    """Two Linears with one weight, square, each with a tensor of its own."""
    tiny = Tiny()
    weight = tiny.const("w", noise(K, K))
    tiny.op("Relu", "x", out="a")
    tiny.op("Neg", "x", out="b")
    tiny.op("Gemm", "a", weight, name="one", out="y")
    tiny.op("Gemm", "b", weight, name="two", out="z", **second)
    return closed(tiny, y=[3, K], z=[3, K])


def first_weights(model: onnx.ModelProto) -> dict[str, str]:
    """By tensor the weight of the first MatMul that reads it."""
    stored = constants_of(model)
    found: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in stored:
            found.setdefault(node.input[0], node.input[1])
    return found


def planned(model: onnx.ModelProto, **recipe: object) -> OnnxPlan:
    return plan_onnx(model, Recipe.model_validate(recipe))


def smoothed(
    model: onnx.ModelProto, factors: Mapping[str, NDArray[np.float32]], **recipe: object
) -> onnx.ModelProto:
    """With the factors; the result is a valid graph and the model is as it was."""
    before = model.SerializeToString()
    result = smooth_graph(model, planned(model, **recipe), factors)
    assert model.SerializeToString() == before
    onnx.checker.check_model(result, full_check=True)
    return result


def assert_same_answers(model: onnx.ModelProto, result: onnx.ModelProto, *feeds: Array) -> None:
    names = [value.name for value in model.graph.input]
    given = dict(zip(names, feeds, strict=True))
    for one, other in zip(run_ort(model, given), run_ort(result, given), strict=True):
        # Factors and products are rounded to 2^-24 each; sums of some 100 terms may cancel.
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5 * np.abs(one).max())
