"""Head sizes and lengths that a fused INT8 attention takes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch

from tests.support.blocks import encoder
from tests.support.onnx_tiny import Tiny, noise
from tests.support.tiny_transformers import text_model, tokens
from trt_int8.annotate.attention import QUANTIZERS, attention_modules
from trt_int8.annotate.attention_sizes import attention_sizes
from trt_int8.annotate.guard import AttentionGuard, AttentionSize, sizes_of
from trt_int8.annotate.torch_model import annotate
from trt_int8.errors import RecipeError
from trt_int8.graph.normalize import normalize
from trt_int8.model.onnx_matmuls import find_attentions
from trt_int8.spec.recipe import Recipe

GUARD = AttentionGuard((75, 80), 384)
FP16_ATTENTION = {"model.encoder.layer.0.attention.self", "model.encoder.layer.1.attention.self"}


def test_an_unknown_head_size_is_refused() -> None:
    assert "not known" in GUARD.refusal(AttentionSize(32, None))


def test_the_head_size_of_v_counts_too() -> None:
    assert GUARD.refusal(AttentionSize(32, 32)) == ""
    assert "head size 48" in GUARD.refusal(AttentionSize(32, 48))


@pytest.mark.parametrize(("heads", "refused"), [(1, True), (2, False), (None, False)])
def test_a_single_head_is_refused(heads: int | None, refused: bool) -> None:
    assert ("single head" in GUARD.refusal(AttentionSize(32, 32, heads))) == refused


def test_a_pytorch_attention_with_a_single_head_stays_float() -> None:
    model = text_model("Bert", num_attention_heads=1)
    assert {note.node for note in annotate(model.wrapper, tokens(), Recipe(), GUARD).notes} == (
        FP16_ATTENTION
    )


def test_the_reason_names_limit_and_length() -> None:
    text = AttentionGuard((75,), 500).refusal(AttentionSize(64, 64))
    assert "up to 384 tokens" in text
    assert "500" in text


@pytest.mark.parametrize("head_dim", [16, 40])
def test_head_sizes_are_read_from_the_graph(head_dim: int) -> None:
    model = encoder(head_dim=head_dim)
    attentions = find_attentions(ir.from_proto(model).graph)
    assert sizes_of(model, attentions) == (AttentionSize(head_dim, head_dim, 2),) * 2


def test_head_sizes_that_only_shape_arithmetic_gives_are_found() -> None:
    # DeBERTa: the last size is -1 first, then read off with Shape and Gather.
    tiny = Tiny()
    split = tiny.op("Reshape", "x", tiny.const("split", np.array([0, 0, 2, -1])))
    turned = tiny.op("Transpose", split, perm=[0, 2, 1, 3])
    sizes = [
        tiny.op("Gather", tiny.op("Shape", turned), tiny.const(f"at{i}", np.array([i])), axis=0)
        for i in (2, 3)
    ]
    shape = tiny.op("Concat", tiny.const("all", np.array([-1])), *sizes, axis=0)
    flat = tiny.op("Reshape", turned, shape)
    scores = tiny.op("MatMul", flat, tiny.op("Transpose", flat, perm=[0, 2, 1]))
    tiny.op("MatMul", tiny.op("Softmax", scores, axis=-1), flat, out="y")
    model = normalize(tiny.build({"x": ["b", "s", 80]}, {"y": ["n", "s", 40]}))
    del model.graph.output[0].type.tensor_type.shape.dim[2]
    model.graph.output[0].type.tensor_type.shape.dim.add()
    assert sizes_of(model, find_attentions(ir.from_proto(model).graph)) == (AttentionSize(40, 40),)


def test_a_head_size_that_is_dynamic_is_not_known() -> None:
    tiny = Tiny()
    scores = tiny.op("MatMul", "x", tiny.op("Transpose", "x", perm=[0, 2, 1]))
    tiny.op("MatMul", tiny.op("Softmax", scores, axis=-1), "x", out="y")
    model = normalize(tiny.build({"x": ["b", "s", "d"]}, {"y": ["b", "s", "d"]}))
    assert sizes_of(model, find_attentions(ir.from_proto(model).graph)) == (
        AttentionSize(None, None),
    )


def test_a_large_weight_does_not_hide_a_shape() -> None:
    tiny = Tiny()
    hidden = tiny.op("MatMul", "x", tiny.const("w", noise(64, 64)))
    scores = tiny.op("MatMul", hidden, tiny.op("Transpose", hidden, perm=[0, 2, 1]))
    tiny.op("MatMul", tiny.op("Softmax", scores, axis=-1), hidden, out="y")
    model = normalize(tiny.build({"x": ["b", "s", 64]}, {"y": ["b", "s", 64]}))
    assert sizes_of(model, find_attentions(ir.from_proto(model).graph)) == (AttentionSize(64, 64),)


def test_head_sizes_of_a_pytorch_model_are_seen_and_nothing_is_left_behind() -> None:
    model = text_model("Bert", hidden_size=96)
    modules = attention_modules(model.wrapper, tokens(), model.wrapper)
    before = model.wrapper(*tokens())[0]
    found = attention_sizes(model.wrapper, tokens(), modules)
    assert set(found.values()) == {AttentionSize(48, 48, 2)}
    assert not any(hasattr(module, QUANTIZERS) for _, module in modules)
    torch.testing.assert_close(model.wrapper(*tokens())[0], before, rtol=0, atol=0)


def test_a_pytorch_attention_that_does_not_fuse_gets_no_quantizer() -> None:
    model = text_model("Bert", hidden_size=96)
    sites = annotate(model.wrapper, tokens(), Recipe(), GUARD)
    assert {note.node for note in sites.notes} == FP16_ATTENTION
    assert not [name for name in sites.activations if name.endswith((".query", ".softmax"))]
    assert len(sites.weights) == 12


def test_a_pytorch_attention_that_fuses_keeps_its_quantizers() -> None:
    guarded, free = (
        annotate(text_model("Bert").wrapper, tokens(), Recipe(), guard) for guard in (GUARD, None)
    )
    assert set(guarded.activations) == set(free.activations)
    assert guarded.notes == ()


def test_if_no_pytorch_layer_is_left_the_error_says_why() -> None:
    model = text_model("Bert", hidden_size=96)
    with pytest.raises(RecipeError, match=r"matches no layer .*head size 48"):
        annotate(model.wrapper, tokens(), Recipe(linear=False), GUARD)


@pytest.mark.parametrize(
    ("size", "is_served"),
    [
        (AttentionSize(80, 80, 2), True),
        (AttentionSize(64, 64, 1), True),
        (AttentionSize(64, 64), True),
        (AttentionSize(40, 40, 2), False),
        (AttentionSize(80, 64, 2), False),
        (AttentionSize(None, None), False),
    ],
)
def test_a_plugin_serves_its_head_sizes_at_any_length_and_number_of_heads(
    size: AttentionSize, is_served: bool
) -> None:
    guard = AttentionGuard((75,), 500, plugin_head_dims=(64, 80))
    assert (guard.refusal(size) == "") == is_served
    # What TensorRT can do by itself is another question.
    assert guard.native_refusal(size) == AttentionGuard((75,), 500).refusal(size) != ""
