"""Norms written out in primitive operators survive in the FP16 twin."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from tests.graph.test_half import run_half, twin, type_of
from tests.support.onnx_tiny import Tiny, noise, run_ort
from trt_int8.graph.half import to_half
from trt_int8.graph.normalize import normalize


def layer_norm_from_primitives() -> Tiny:
    """LayerNorm as exporters write it before opset 17; held operators follow each other in it."""
    tiny = Tiny()
    centred = tiny.op("Sub", "x", tiny.op("ReduceMean", "x", axes=[1]))
    squares = tiny.op("Pow", centred, tiny.const("two", 2.0))
    variance = tiny.op("ReduceMean", squares, axes=[1])
    deviation = tiny.op("Sqrt", tiny.op("Add", variance, tiny.const("epsilon", 1e-12)))
    tiny.op("Div", centred, deviation, out="y")
    return tiny


def test_a_layer_norm_from_primitives_survives_outliers() -> None:
    model, half = twin(layer_norm_from_primitives())
    x = noise(3, 7)
    x[:, 2] = 900.0
    expected = run_ort(model, {"x": x})[0]
    np.testing.assert_allclose(run_half(half, {"x": x})[0], expected, atol=0.01)


def test_a_layer_norm_of_equal_values_is_zero() -> None:
    model, half = twin(layer_norm_from_primitives())
    x = np.full((3, 7), 0.5, np.float32)
    assert not run_ort(model, {"x": x})[0].any()
    np.testing.assert_array_equal(run_half(half, {"x": x})[0], 0)


def test_an_l2_norm_with_a_floor_gives_zero_for_a_zero_vector() -> None:
    tiny = Tiny()
    norm = tiny.op("ReduceL2", "x", axes=[1], keepdims=1)
    tiny.op("Div", "x", tiny.op("Max", norm, tiny.const("floor", 1e-12)), out="y")
    model, half = twin(tiny)
    x = np.zeros((3, 7), np.float32)
    assert not run_ort(model, {"x": x})[0].any()
    np.testing.assert_array_equal(run_half(half, {"x": x})[0], 0)


def test_an_l2_norm_as_pytorch_exports_it_gives_zero_for_a_zero_vector() -> None:
    tiny = Tiny()
    norm = tiny.op("ReduceL2", "x", axes=[1], keepdims=1)
    floor = tiny.op("Clip", norm, tiny.const("floor", 1e-12))
    wide = tiny.op("Expand", floor, tiny.const("shape", np.array([3, 7])))
    tiny.op("Div", "x", wide, out="y")
    _, half = twin(tiny)
    x = noise(3, 7)
    x[1] = 0
    expected = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    np.testing.assert_allclose(run_half(half, {"x": x})[0], expected, atol=2e-3)


def test_a_reciprocal_that_half_cannot_hold_is_multiplied_in_float32() -> None:
    tiny = Tiny()
    squares = tiny.op("ReduceMean", tiny.op("Pow", "x", tiny.const("two", 2.0)), axes=[1])
    root = tiny.op("Sqrt", tiny.op("Add", squares, tiny.const("epsilon", 1e-12)))
    tiny.op("Mul", "x", tiny.op("Div", tiny.const("one", 1.0), root), out="y")
    _, half = twin(tiny)
    np.testing.assert_array_equal(run_half(half, {"x": np.zeros((3, 7), np.float32)})[0], 0)


def test_arithmetic_behind_quantizers_and_normalizations_stays_in_half() -> None:
    tiny = Tiny()
    product = tiny.op("MatMul", tiny.pair("x", 0.02), tiny.const("w", noise(7, 7)))
    # GELU as PyTorch exports it, reading a quantized tensor.
    source = tiny.pair(product, 0.05)
    erf = tiny.op("Erf", tiny.op("Div", source, tiny.const("root", 1.4142135)))
    gelu = tiny.op("Mul", tiny.op("Mul", source, tiny.op("Add", erf, tiny.const("one", 1.0))),
                   tiny.const("half", 0.5))  # fmt: skip
    total = tiny.op("Add", gelu, product)
    ones = [tiny.const("gamma", np.ones(7, "f4")), tiny.const("beta", np.zeros(7, "f4"))]
    tiny.op("Softmax", tiny.op("LayerNormalization", total, *ones), out="y")
    _, half = twin(tiny)
    own = [n for n in half.graph.node if "uantizeLinear" not in n.op_type and n.op_type != "Cast"]
    assert {type_of(half, n.output[0]) for n in own} == {TensorProto.FLOAT16}
    assert {n.op_type for n in own} == {"MatMul", "Erf", "Div", "Mul", "Add", "Softmax",
                                        "LayerNormalization"}  # fmt: skip


def test_a_square_by_multiplication_is_made_in_float32() -> None:
    tiny = Tiny()
    squares = tiny.op("Mul", "x", "x")
    root = tiny.op("Sqrt", tiny.op("ReduceMean", squares, axes=[1]))
    tiny.op("Div", "x", root, out="y")
    model, half = twin(tiny)
    x = noise(3, 7) * 900
    np.testing.assert_allclose(run_half(half, {"x": x})[0], run_ort(model, {"x": x})[0], atol=0.01)


def test_a_tanh_gelu_runs_in_float32_and_an_erf_one_in_half() -> None:
    for approximate, wanted in (("tanh", TensorProto.FLOAT), ("none", TensorProto.FLOAT16)):
        tiny = Tiny()
        gelu = tiny.op("Gelu", "x", out="g", approximate=approximate)
        tiny.op("Relu", gelu, out="y")
        half = to_half(normalize(tiny.build({"x": [3, 7]}, {"y": [3, 7]}, opset=20)))
        assert type_of(half, "g") == wanted
