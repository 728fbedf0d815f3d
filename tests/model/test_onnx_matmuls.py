"""Finding linears and attentions in an ONNX graph."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto

from tests.support.onnx_tiny import Tiny, noise
from tests.support.tiny_transformers import text_model
from trt_int8.graph.export import export_float
from trt_int8.model.onnx_matmuls import MatMulSite, find_attentions, find_matmuls

WIDTH = 32


def attention(tiny: Tiny, query: str, tag: str, steps: tuple[str, ...] = ("Div", "Add")) -> str:
    """Self-attention over `query` [2, 5, 32] with `steps` between scores and softmax."""
    turned = tiny.op("Transpose", query, perm=[0, 2, 1])
    value = tiny.op("MatMul", query, turned, name=f"{tag}_scores")
    for step in steps:
        other = tiny.const(f"{tag}_{step}", np.full((1, 1, 5), 2, np.float32))
        if step == "Where":
            value = tiny.op(step, tiny.const(f"{tag}_yes", np.array([True])), value, other)
        else:
            value = tiny.op(step, value, other)
    weights = tiny.op("Softmax", value, axis=-1, name=f"{tag}_softmax")
    return tiny.op("MatMul", weights, query, name=f"{tag}_context")


def built(tiny: Tiny, last: str, width: int = WIDTH) -> onnx.ModelProto:
    tiny.op("Relu", last, out="y")
    return tiny.build({"x": [2, 5, WIDTH]}, {"y": [2, 5, width]})


def found(model: onnx.ModelProto) -> list[tuple[str | None, ...]]:
    return [
        (a.scores.name, a.softmax.name, a.context.name)
        for a in find_attentions(ir.from_proto(model).graph)
    ]


def linear(shape: tuple[int, ...]) -> onnx.ModelProto:
    tiny = Tiny()
    last = tiny.op("MatMul", "x", tiny.const("w", noise(*shape)), name="product")
    return built(tiny, last, shape[-1])


@pytest.mark.parametrize(
    ("shape", "role"),
    [((32, 16), "linear"), ((32, 15), "small"), ((32, 1), "small"), ((2, 32, 32), "other")],
)
def test_the_role_of_a_constant_weight_follows_its_shape(shape: tuple[int, ...], role: str) -> None:
    assert find_matmuls(linear(shape)) == (MatMulSite("product", role, None, wanted_int8=False),)  # type: ignore[arg-type]


def test_a_gemm_is_a_linear() -> None:
    tiny = Tiny()
    tiny.op("Gemm", "x", tiny.const("w", noise(20, 17)), out="y", name="gemm", transB=1)
    (site,) = find_matmuls(tiny.build({"x": [3, 17]}, {"y": [3, 20]}))
    assert (site.node, site.role) == ("gemm", "linear")


def test_a_product_of_two_activations_is_other() -> None:
    tiny = Tiny()
    last = tiny.op("MatMul", "x", tiny.op("Transpose", "x", perm=[0, 2, 1]))
    assert [s.role for s in find_matmuls(built(tiny, last, 5))] == ["other"]


def test_a_weight_is_seen_through_quantizers_and_layout() -> None:
    tiny = Tiny()
    real = tiny.pair(tiny.const("w", noise(20, WIDTH)), np.full(20, 0.02), axis=0)
    last = tiny.op("MatMul", "x", tiny.op("Transpose", real, perm=[1, 0]))
    (site,) = find_matmuls(built(tiny, last, 20))
    assert (site.role, site.wanted_int8) == ("linear", False)


def test_both_operands_must_be_dequantized_to_want_int8() -> None:
    tiny = Tiny()
    real = tiny.pair(tiny.const("w", noise(WIDTH, WIDTH)), np.full(WIDTH, 0.02), axis=1)
    left = tiny.op("Transpose", tiny.pair("x", 0.02), perm=[0, 1, 2])
    (site,) = find_matmuls(built(tiny, tiny.op("MatMul", left, real)))
    assert site.wanted_int8


def test_arithmetic_after_the_dequantizer_spoils_it() -> None:
    tiny = Tiny()
    real = tiny.pair(tiny.const("w", noise(WIDTH, WIDTH)), np.full(WIDTH, 0.02), axis=1)
    left = tiny.op("Relu", tiny.pair("x", 0.02))
    (site,) = find_matmuls(built(tiny, tiny.op("MatMul", left, real)))
    assert not site.wanted_int8


@pytest.mark.parametrize(
    "steps", [(), ("Div",), ("Mul", "Add"), ("Add", "Where"), ("Max", "Min", "Sub")]
)
def test_an_attention_is_found_whatever_scales_and_masks_it(steps: tuple[str, ...]) -> None:
    tiny = Tiny()
    model = built(tiny, attention(tiny, "x", "a", steps))
    assert found(model) == [("a_scores", "a_softmax", "a_context")]
    assert [(s.node, s.role, s.attention) for s in find_matmuls(model)] == [
        ("a_scores", "attention", 0),
        ("a_context", "attention", 0),
    ]


def test_an_attention_is_found_with_its_quantizers() -> None:
    tiny = Tiny()
    query = tiny.pair("x", 0.02)
    scores = tiny.op("MatMul", query, tiny.op("Transpose", query, perm=[0, 2, 1]), name="scores")
    weights = tiny.pair(tiny.op("Softmax", scores, axis=-1, name="softmax"), 1 / 127)
    model = built(tiny, tiny.op("MatMul", weights, query, name="context"))
    assert found(model) == [("scores", "softmax", "context")]
    assert [s.wanted_int8 for s in find_matmuls(model)] == [True, True]


def test_two_attentions_are_counted_in_graph_order() -> None:
    tiny = Tiny()
    model = built(tiny, attention(tiny, attention(tiny, "x", "a"), "b"))
    assert [a[0] for a in found(model)] == ["a_scores", "b_scores"]
    assert [s.attention for s in find_matmuls(model)] == [0, 0, 1, 1]


def test_a_tanh_between_scores_and_softmax_is_no_attention_we_know() -> None:
    tiny = Tiny()
    scores = tiny.op("MatMul", "x", tiny.op("Transpose", "x", perm=[0, 2, 1]))
    weights = tiny.op("Softmax", tiny.op("Tanh", scores), axis=-1)
    assert found(built(tiny, tiny.op("MatMul", weights, "x"))) == []


def test_a_classifiers_softmax_is_no_attention() -> None:
    tiny = Tiny()
    logits = tiny.op("MatMul", "x", tiny.const("w", noise(WIDTH, WIDTH)))
    assert found(built(tiny, tiny.op("Softmax", logits, axis=-1))) == []


def test_a_softmax_gate_in_front_of_a_constant_weight_is_no_attention() -> None:
    tiny = Tiny()
    logits = tiny.op("MatMul", "x", tiny.op("Transpose", "x", perm=[0, 2, 1]))
    gate = tiny.op("Softmax", logits, axis=-1)
    last = tiny.op("MatMul", gate, tiny.const("w", noise(5, WIDTH)))
    assert found(built(tiny, last)) == []


def test_a_linear_behind_a_float16_weight_is_a_linear() -> None:
    tiny = Tiny()
    stored = tiny.const("w", noise(WIDTH, 17).astype(np.float16))
    last = tiny.op("MatMul", "x", tiny.op("Cast", stored, to=TensorProto.FLOAT))
    assert [s.role for s in find_matmuls(built(tiny, last, 17))] == ["linear"]


@pytest.mark.parametrize("family", ["Bert", "Roberta", "DistilBert", "Electra"])
def test_an_exported_model_has_six_linears_and_two_products_per_layer(family: str) -> None:
    sites = find_matmuls(export_float(text_model(family)))
    roles = [site.role for site in sites]
    extra = 1 if family == "Electra" else 0  # its embeddings are projected to H
    assert (roles.count("linear"), roles.count("attention")) == (12 + extra, 4)
    assert len(roles) == 16 + extra
