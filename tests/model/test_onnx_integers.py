"""Integers that only depend on fixed sizes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto

from tests.support.onnx_tiny import Tiny
from trt_int8.model.onnx_integers import constant_integers
from trt_int8.model.onnx_shapes import infer_dims, infer_fixed_dims


def value_of(tiny: Tiny, name: str) -> list[int] | None:
    tiny.op("Reshape", "x", name, out="y")
    model = tiny.build({"x": ["b", "s", 97]}, {"y": ["n"]})
    graph = ir.from_proto(model).graph
    value = next(v for node in graph for v in node.outputs if v.name == name)
    found = constant_integers(value, infer_dims(model))
    return None if found is None else np.atleast_1d(found).tolist()


def size(tiny: Tiny, axis: int) -> str:
    return tiny.op("Gather", tiny.op("Shape", "x"), tiny.const(f"axis{axis}", np.array([axis])))


def number(tiny: Tiny, value: int) -> str:
    return tiny.const(f"number{value}", np.array([value]))


@pytest.mark.parametrize(
    ("kind", "value", "wanted"),
    [("Add", 3, 100), ("Sub", 3, 94), ("Mul", 3, 291), ("Div", 2, 48), ("Div", -2, -48)],
)
def test_arithmetic_is_that_of_onnx(kind: str, value: int, wanted: int) -> None:
    tiny = Tiny()
    assert value_of(tiny, tiny.op(kind, size(tiny, 2), number(tiny, value))) == [wanted]


def test_an_axis_may_be_counted_from_the_end() -> None:
    tiny = Tiny()
    assert value_of(tiny, tiny.op("Cast", size(tiny, -1), to=TensorProto.INT64)) == [97]


def test_parts_are_joined() -> None:
    tiny = Tiny()
    joined = tiny.op("Concat", number(tiny, 5), size(tiny, 2), axis=0)
    assert value_of(tiny, joined) == [5, 97]


@pytest.mark.parametrize("axis", [0, 1])
def test_a_dynamic_size_is_not_constant(axis: int) -> None:
    tiny = Tiny()
    assert value_of(tiny, tiny.op("Add", size(tiny, axis), number(tiny, 1))) is None


def test_division_by_zero_is_not_constant() -> None:
    tiny = Tiny()
    assert value_of(tiny, tiny.op("Div", size(tiny, 2), number(tiny, 0))) is None


def test_an_axis_that_is_not_there_is_not_constant() -> None:
    tiny = Tiny()
    assert value_of(tiny, tiny.op("Identity", size(tiny, 3))) is None


def test_a_size_that_shape_arithmetic_hides_is_found_with_sizes_on_trial() -> None:
    tiny = Tiny()
    rows = tiny.op("Concat", size(tiny, 0), size(tiny, 1), number(tiny, -1), axis=0)
    tiny.op("Transpose", tiny.op("Reshape", "x", rows), perm=[2, 1, 0], out="y")
    model = tiny.build({"x": ["b", "s", 97]}, {"y": ["n", "m", "k"]})
    assert infer_fixed_dims(model)["y"] == (97, None, None)
