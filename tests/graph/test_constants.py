"""Constants in the normal form: what is computed from them is stored."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.support.onnx_tiny import Array, Tiny, constants_of, f32, noise, run_ort
from trt_int8.graph.normalize import normalize

K, N = 7, 5


def test_constant_nodes_become_initializers() -> None:
    tiny = Tiny()
    value = onnx.numpy_helper.from_array(f32(2.5))
    tiny.op("Mul", "x", tiny.op("Constant", value=value), out="y")
    normal = normalize(tiny.build({"x": [3, K]}, {"y": [3, K]}))
    assert [node.op_type for node in normal.graph.node] == ["Mul"]
    assert [float(a) for a in constants_of(normal).values()] == [2.5]


def test_a_transposed_float_constant_is_stored_transposed() -> None:
    tiny = Tiny()
    tiny.op("MatMul", "x", tiny.op("Transpose", tiny.const("w", noise(N, K))), out="y")
    normal = normalize(tiny.build({"x": [3, K]}, {"y": [3, N]}))
    (stored,) = constants_of(normal).values()
    np.testing.assert_array_equal(stored, noise(N, K).T)


def test_a_weight_stored_as_float16_is_stored_as_float32() -> None:
    tiny = Tiny()
    stored = noise(N, K).astype(np.float16)
    real = tiny.op("Cast", tiny.const("w", stored), to=onnx.TensorProto.FLOAT)
    tiny.op("MatMul", "x", tiny.op("Transpose", real, perm=[1, 0]), out="y")
    normal = normalize(tiny.build({"x": [3, K]}, {"y": [3, N]}))
    (found,) = constants_of(normal).values()
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, stored.T.astype(np.float32))


def test_a_reshaped_constant_is_stored_reshaped() -> None:
    tiny = Tiny()
    flat = tiny.const("w", noise(K * N))
    tiny.op("MatMul", "x", tiny.op("Reshape", flat, tiny.const("s", np.array([K, -1]))), out="y")
    normal = normalize(tiny.build({"x": [3, K]}, {"y": [3, N]}))
    np.testing.assert_array_equal(
        constants_of(normal)["reshape_0_constant"], noise(K * N).reshape(K, N)
    )
    assert [node.op_type for node in normal.graph.node] == ["MatMul"]


def test_a_reshape_that_copies_a_size_is_left_to_the_runtime() -> None:
    tiny = Tiny()
    shape = tiny.const("s", np.array([0, N]))
    tiny.op("Add", "x", tiny.op("Reshape", tiny.const("w", noise(3, N)), shape), out="y")
    model, feeds = tiny.build({"x": [3, N]}, {"y": [3, N]}), {"x": noise(3, N)}
    np.testing.assert_array_equal(run_ort(normalize(model), feeds)[0], run_ort(model, feeds)[0])


@pytest.mark.parametrize("scale", [f32(0.001), f32(np.arange(1, N + 1) / 1024)])
def test_a_bias_of_int32_becomes_float(scale: Array) -> None:
    tiny = Tiny()
    bias = tiny.const("b", np.arange(-2, N - 2, dtype=np.int32) * 1000)
    params = [tiny.const("s", scale), tiny.const("z", np.zeros(scale.shape, np.int32))]
    tiny.op("Add", "x", tiny.op("DequantizeLinear", bias, *params, axis=0), out="y")
    model, feeds = tiny.build({"x": [3, N]}, {"y": [3, N]}), {"x": noise(3, N)}
    normal = normalize(model)
    assert [node.op_type for node in normal.graph.node] == ["Add"]
    np.testing.assert_array_equal(run_ort(normal, feeds)[0], run_ort(model, feeds)[0])


def test_weights_listed_as_inputs_are_no_inputs() -> None:
    tiny = Tiny()
    tiny.op("MatMul", "x", tiny.const("w", noise(K, N)), out="y")
    model = tiny.build({"x": [3, K], "w": [K, N]}, {"y": [3, N]})
    assert [value.name for value in normalize(model).graph.input] == ["x"]
