"""Attention written in other ways becomes MatMul, scale, mask, Softmax, MatMul."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.support.foreign_exports import guarded_softmax, split_softmax
from tests.support.onnx_tiny import Tiny, constants_of, count, noise, run_ort
from trt_int8.graph.attention_form import attention_form

QKV = {name: noise(2, 3, 5, 8, seed=seed) for seed, name in enumerate("qkv")}
SHAPE: list[int | str] = ["batch", 3, "seq", 8]


def rows_of(scores: np.ndarray) -> np.ndarray:
    """Softmax in float64, by its definition."""
    powers = np.exp(scores.astype(np.float64) - scores.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def attended(mask: np.ndarray | None = None, scale: float = 8**-0.5) -> np.ndarray:
    """Attention in float64; `mask` is added to the scores."""
    q, k, v = (QKV[name].astype(np.float64) for name in "qkv")
    scores = q @ k.swapaxes(-1, -2) * scale
    return rows_of(scores if mask is None else scores + mask) @ v


def operator(mask: int | None = None, **attributes: Any) -> onnx.ModelProto:
    """The ONNX operator, with a mask [5, 5] of the type `mask`."""
    tiny = Tiny()
    tiny.op("Attention", "q", "k", "v", *(["mask"] if mask else []), out="y", **attributes)
    model = tiny.build(dict.fromkeys("qkv", SHAPE), {"y": SHAPE}, opset=23)
    if mask:
        model.graph.input.append(helper.make_tensor_value_info("mask", mask, [5, 5]))
    return model


ALLOWED = np.tril(np.ones((5, 5), bool), 1)


@pytest.mark.parametrize("scale", [None, 0.7])
def test_the_operator_is_written_out(scale: float | None) -> None:
    attributes: dict[str, Any] = {} if scale is None else {"scale": scale}
    found = attention_form(operator(**attributes))
    assert [node.op_type for node in found.graph.node] == [
        "Mul", "Transpose", "MatMul", "Softmax", "MatMul"
    ]  # fmt: skip
    expected = attended(scale=8**-0.5 if scale is None else scale)
    np.testing.assert_allclose(run_ort(found, QKV)[0], expected, atol=1e-6)


def test_a_mask_that_is_added() -> None:
    bias = noise(5, 5, seed=9)
    found = attention_form(operator(TensorProto.FLOAT))
    (y,) = run_ort(found, QKV | {"mask": bias})
    np.testing.assert_allclose(y, attended(bias.astype(np.float64)), atol=1e-6)


def test_a_mask_that_allows() -> None:
    found = attention_form(operator(TensorProto.BOOL))
    (y,) = run_ort(found, QKV | {"mask": ALLOWED})
    np.testing.assert_allclose(y, attended(np.where(ALLOWED, 0.0, -np.inf)), atol=1e-6)


def test_heads_side_by_side() -> None:
    tiny = Tiny()
    tiny.op("Attention", "q", "k", "v", out="y", q_num_heads=3, kv_num_heads=3)
    flat: list[int | str] = ["batch", "seq", 24]
    model = tiny.build(dict.fromkeys("qkv", flat), {"y": flat}, opset=23)
    feeds = {name: x.transpose(0, 2, 1, 3).reshape(2, 5, 24) for name, x in QKV.items()}
    found = attention_form(model)
    assert count(found, "Softmax") == 1
    expected = attended().transpose(0, 2, 1, 3).reshape(2, 5, 24)
    np.testing.assert_allclose(run_ort(found, feeds)[0], expected, atol=1e-6)


@pytest.mark.parametrize("attributes", [{"is_causal": 1}, {"softcap": 2.0}])
def test_what_more_it_can_do_follows_the_specification(attributes: dict[str, Any]) -> None:
    model = operator(**attributes)
    found = attention_form(model)
    assert (count(found, "Attention"), count(found, "Softmax")) == (0, 1)
    np.testing.assert_allclose(run_ort(found, QKV)[0], run_ort(model, QKV)[0], atol=1e-6)
    assert np.abs(run_ort(found, QKV)[0] - attended()).max() > 0.01


def test_grouped_heads_follow_the_specification() -> None:
    model = operator()
    for value in model.graph.input[1:]:
        value.type.tensor_type.shape.dim[1].dim_value = 1
    feeds = {name: x if name == "q" else x[:, :1] for name, x in QKV.items()}
    found = attention_form(model)
    assert count(found, "Softmax") == 1
    np.testing.assert_allclose(run_ort(found, feeds)[0], run_ort(model, feeds)[0], atol=1e-6)


def primitive(mask: float | None = None) -> onnx.ModelProto:
    """Attention of primitive operators; `mask` is added where `blocked` is."""
    tiny = Tiny()
    scores = tiny.op("MatMul", "q", tiny.op("Transpose", "k", perm=[0, 1, 3, 2]))
    if mask is not None:
        no, yes = tiny.const("no", np.float32(mask)), tiny.const("yes", np.float32(0))
        scores = tiny.op("Add", scores, tiny.op("Where", "blocked", no, yes))
    tiny.op("MatMul", tiny.op("Softmax", scores, axis=-1), "v", out="y")
    model = tiny.build(dict.fromkeys("qkv", SHAPE), {"y": SHAPE})
    if mask is not None:
        info = helper.make_tensor_value_info("blocked", TensorProto.BOOL, [5, 5])
        model.graph.input.append(info)
    return model


@pytest.mark.parametrize("shifted", [True, False])
def test_a_softmax_in_parts_is_joined(shifted: bool) -> None:
    split = split_softmax(primitive(), shifted=shifted)
    assert count(split, "Softmax") == 0
    found = attention_form(split)
    assert (count(found, "Softmax"), count(found, "Exp"), count(found, "ReduceMax")) == (1, 0, 0)
    np.testing.assert_allclose(run_ort(found, QKV)[0], attended(scale=1.0), atol=1e-6)


@pytest.mark.parametrize("change", ["axis", "keepdims", "numerator"])
def test_a_division_that_is_no_softmax_stays(change: str) -> None:
    model = split_softmax(primitive(), shifted=False)
    nodes = {node.op_type: node for node in model.graph.node}
    if change == "axis":
        name = nodes["ReduceSum"].input[1]
        (axes,) = [t for t in model.graph.initializer if t.name == name]
        axes.CopyFrom(onnx.numpy_helper.from_array(np.asarray([-2], np.int64), name))
    elif change == "keepdims":
        nodes["ReduceSum"].attribute.append(helper.make_attribute("keepdims", 0))
    else:
        nodes["Div"].input[0] = nodes["Exp"].input[0]
    assert count(attention_form(model), "Softmax") == 0


def test_a_guard_against_nan_is_taken_out_and_infinity_with_it() -> None:
    guarded = guarded_softmax(primitive(-np.inf))
    found = attention_form(guarded)
    assert (count(found, "IsNaN"), count(found, "Where")) == (0, 1)
    assert not any(np.isinf(array).any() for array in constants_of(found).values())
    feeds = QKV | {"blocked": ~ALLOWED}
    np.testing.assert_array_equal(run_ort(found, feeds)[0], run_ort(guarded, feeds)[0])


def test_a_query_that_sees_nothing_gets_the_mean_of_the_values() -> None:
    blocked = np.zeros((5, 5), bool)
    blocked[3] = True
    (y,) = run_ort(attention_form(guarded_softmax(primitive(-np.inf))), QKV | {"blocked": blocked})
    np.testing.assert_allclose(y[:, :, 3], QKV["v"].mean(axis=2), atol=1e-6)


def test_a_guard_that_may_be_needed_stays() -> None:
    """A mask that comes from outside may hold infinity."""
    tiny = Tiny()
    scores = tiny.op("Add", tiny.op("MatMul", "q", "k"), "mask")
    tiny.op("MatMul", tiny.op("Softmax", scores, axis=-1), "v", out="y")
    square: list[int | str] = [4, 4]
    model = tiny.build(dict.fromkeys(["q", "k", "v", "mask"], square), {"y": square})
    assert count(attention_form(guarded_softmax(model)), "IsNaN") == 1


def test_a_where_that_is_no_guard_stays() -> None:
    model = guarded_softmax(primitive())
    (where,) = [node for node in model.graph.node if node.op_type == "Where"]
    (zero,) = [t for t in model.graph.initializer if t.name == where.input[1]]
    zero.CopyFrom(onnx.numpy_helper.from_array(np.asarray(0.5, np.float32), where.input[1]))
    assert count(attention_form(model), "IsNaN") == 1


def test_a_graph_without_attention_stays_as_it_is() -> None:
    tiny = Tiny()
    tiny.op("Add", tiny.op("MatMul", "x", tiny.const("w", noise(4, 4))), "x", out="y")
    model = tiny.build({"x": [3, 4]}, {"y": [3, 4]})
    assert [n.op_type for n in attention_form(model).graph.node] == ["MatMul", "Add"]
