"""LayerNorm and RMSNorm, as one operator and in parts."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from tests.support.onnx_tiny import Tiny, noise
from trt_int8.graph.normalize import normalize
from trt_int8.model.onnx_norms import find_norms

WIDTH = 33
Found = list[tuple[str, str, str, bool]]


def norms(model: onnx.ModelProto) -> Found:
    found = find_norms(ir.from_proto(normalize(model)).graph)
    return [(n.kind, str(n.source.name), str(n.result.name), n.is_operator) for n in found]


def built(tiny: Tiny) -> onnx.ModelProto:
    return tiny.build({"x": [2, 5, WIDTH]}, {"y": [2, 5, WIDTH]})


def primitive(*, centre: bool, square: str = "Pow", divide: str = "Div") -> onnx.ModelProto:
    tiny = Tiny()
    value = "x"
    if centre:
        value = tiny.op("Sub", "x", tiny.op("ReduceMean", "x", axes=[-1]))
    second = tiny.const("two", 2.0) if square == "Pow" else value
    mean = tiny.op("ReduceMean", tiny.op(square, value, second), axes=[-1])
    root = tiny.op("Sqrt", tiny.op("Add", mean, tiny.const("epsilon", 1e-6)))
    if divide == "Div":
        scaled = tiny.op("Div", value, root)
    elif divide == "Reciprocal":
        scaled = tiny.op("Mul", value, tiny.op("Reciprocal", root))
    else:
        scaled = tiny.op("Mul", value, tiny.op("Div", tiny.const("one", 1.0), root))
    gained = tiny.op("Mul", scaled, tiny.const("gain", noise(WIDTH)))
    tiny.op("Add", gained, tiny.const("shift", noise(WIDTH)), out="shifted")
    tiny.op("Relu", "shifted", out="y")
    return built(tiny)


def test_the_operator_is_found() -> None:
    tiny = Tiny()
    gain = tiny.const("gain", noise(WIDTH))
    tiny.op("LayerNormalization", "x", gain, out="y")
    assert norms(built(tiny)) == [("layer", "x", "y", True)]


@pytest.mark.parametrize("square", ["Pow", "Mul"])
@pytest.mark.parametrize("divide", ["Div", "Reciprocal", "1 / root"])
def test_a_layer_norm_in_parts_is_found(square: str, divide: str) -> None:
    model = primitive(centre=True, square=square, divide=divide)
    assert norms(model) == [("layer", "x", "shifted", False)]


@pytest.mark.parametrize("divide", ["Div", "Reciprocal", "1 / root"])
def test_a_norm_that_keeps_the_mean_is_an_rms_norm(divide: str) -> None:
    model = primitive(centre=False, divide=divide)
    assert norms(model) == [("rms", "x", "shifted", False)]


def test_a_plain_square_root_is_no_norm() -> None:
    tiny = Tiny()
    tiny.op("Div", "x", tiny.op("Sqrt", tiny.op("Abs", "x")), out="y")
    assert norms(built(tiny)) == []


def test_a_root_mean_square_that_divides_another_tensor_is_no_norm() -> None:
    tiny = Tiny()
    squares = tiny.op("Mul", "x", "x")
    mean = tiny.op("ReduceMean", squares, axes=[-1])
    root = tiny.op("Sqrt", tiny.op("Add", mean, tiny.const("epsilon", 1e-6)))
    tiny.op("Div", tiny.const("other", noise(2, 5, WIDTH)), root, out="y")
    assert norms(built(tiny)) == []


def test_an_l2_norm_is_none() -> None:
    tiny = Tiny()
    length = tiny.op("Sqrt", tiny.op("ReduceSum", tiny.op("Mul", "x", "x"), "axes"))
    tiny.const("axes", np.array([-1]))
    tiny.op("Div", "x", length, out="y")
    assert norms(built(tiny)) == []
