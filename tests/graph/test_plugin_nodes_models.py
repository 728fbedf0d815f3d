"""The reference bodies against the NumPy models of the kernels, on random tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from tests.support.onnx_tiny import attribute, run_ort
from tests.support.plugin_graphs import HEAD_DIM, HEADS, HIDDEN, Block
from tests.support.plugin_rows import gelu_twin, norm_twin
from trt_int8.graph.plugin_nodes import fuse_plugins
from trt_int8.plugins import attention_model, gelu_model, layernorm_model
from trt_int8.plugins.attention import AttentionOptions, AttentionScalars
from trt_int8.plugins.attention_model import AttentionTensors
from trt_int8.plugins.gelu import GeluForm, GeluScalars
from trt_int8.plugins.layernorm import LayerNormForm, LayerNormScalars
from trt_int8.plugins.layernorm_model import LayerNormTensors
from trt_int8.spec.plugins import PLUGIN_FAMILIES

BATCH, SEQUENCE = 3, 37


def body_alone(twin: onnx.ModelProto) -> tuple[onnx.ModelProto, onnx.NodeProto]:
    """The first function of a fused file as a model of its own, and its call."""
    fused = fuse_plugins(twin, PLUGIN_FAMILIES).model
    function, call = fused.functions[0], next(n for n in fused.graph.node if n.domain == "trt_int8")
    inferred = onnx.shape_inference.infer_shapes(fused).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types |= {tensor.name: tensor.data_type for tensor in fused.graph.initializer}
    ends = [
        [
            helper.make_tensor_value_info(n, types[given], None)
            for n, given in zip(a, b, strict=True)
        ]
        for a, b in ((function.input, call.input), (function.output, call.output))
    ]
    graph = helper.make_graph(list(function.node), "body", ends[0], ends[1])
    return helper.make_model(graph, opset_imports=function.opset_import, ir_version=9), call


def run_body(body: onnx.ModelProto, *arrays: NDArray[Any]) -> list[NDArray[Any]]:
    names = [given.name for given in body.graph.input]
    return run_ort(body, dict(zip(names, arrays, strict=True)))


def codes(seed: int, *shape: int) -> NDArray[np.int8]:
    return np.random.default_rng(seed).integers(-128, 128, shape).astype(np.int8)


def halves(seed: int, *shape: int) -> NDArray[np.float16]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float16)


def exact_attention(
    tensors: tuple[NDArray[np.int8], ...], scalars: AttentionScalars
) -> NDArray[np.float64]:
    """In float64, in steps of the output; no mask."""
    heads = [each.astype(np.float64).transpose(0, 2, 1, 3) for each in tensors]
    factor = scalars.q_scale * scalars.k_scale * scalars.softmax_scale
    scores = heads[0] @ heads[1].swapaxes(-1, -2) * factor
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    context = weights / weights.sum(-1, keepdims=True) @ heads[2]
    steps: NDArray[np.float64] = context.transpose(0, 2, 1, 3)
    return steps * (scalars.v_scale / scalars.output_scale)


def test_plugin_and_body_of_an_attention_are_both_near_the_exact_one() -> None:
    body, call = body_alone(Block(scale="scores").twin())
    names = ("q_scale", "k_scale", "v_scale", "output_scale", "softmax_scale")
    scalars = AttentionScalars(**{name: attribute(call, name) for name in names})
    tensors = tuple(codes(seed, BATCH, SEQUENCE, HEADS, HEAD_DIM) for seed in (1, 2, 3))
    plugin = attention_model.int8_attention(
        AttentionOptions(HEAD_DIM), scalars, AttentionTensors(tensors)
    )
    exact = np.clip(exact_attention(tensors, scalars), -128, 127)
    errors = [np.abs(made - exact) for made in (plugin, run_body(body, *tensors)[0])]
    assert np.std(exact) > 10
    # Half a step is the rounding of the output; the body's softmax has 7 bits, the plugin's 8.
    assert [error.max() <= limit for error, limit in zip(errors, (2, 4), strict=True)] == [True] * 2
    assert errors[0].mean() <= 1.05 * errors[1].mean()


def test_the_mask_of_the_call_hides_the_same_keys_in_plugin_and_body() -> None:
    body, call = body_alone(Block(mask="where", scale="scores").twin())
    names = ("q_scale", "k_scale", "v_scale", "output_scale", "softmax_scale")
    scalars = AttentionScalars(**{name: attribute(call, name) for name in names})
    tensors = tuple(codes(seed, BATCH, SEQUENCE, HEADS, HEAD_DIM) for seed in (1, 2, 3))
    seen = np.random.default_rng(4).random((BATCH, 1, 1, SEQUENCE)) < 0.2
    seen[..., 0] = True
    mask = np.where(seen, np.float32(0), np.float32(-np.inf))
    plugin = attention_model.int8_attention(
        AttentionOptions(HEAD_DIM, mask="keys"), scalars, AttentionTensors(tensors, mask)
    )
    made = run_body(body, *tensors, mask)[0]
    assert np.abs(np.int32(plugin) - made).max() <= 2
    # The keys that are hidden do matter: without the mask the answer is another one.
    open_mask = np.zeros_like(mask)
    assert np.abs(np.int32(run_body(body, *tensors, open_mask)[0]) - made).max() > 10


@pytest.mark.parametrize("bias", [False, True])
def test_the_body_of_a_layernorm_is_within_a_step_of_the_model(bias: bool) -> None:
    body, call = body_alone(norm_twin(bias=bias, half=True, total=True))
    x, residual = (halves(seed, SEQUENCE, HIDDEN) for seed in (1, 2))
    gamma, beta, offset = (halves(seed, HIDDEN) for seed in (3, 4, 5))
    form = LayerNormForm(HIDDEN, bias=bias, half=True, sum=True)
    scalars = LayerNormScalars(attribute(call, "output_scale"), attribute(call, "epsilon"))
    wanted = layernorm_model.skip_layernorm_quant(
        form, scalars, LayerNormTensors(x, gamma, offset if bias else None, residual, beta)
    )
    rows = [x, *([offset] if bias else []), residual, gamma, beta]
    y, y_half, total = run_body(body, *rows)
    _are_within_a_step(y, wanted.y)
    assert wanted.y_half is not None
    assert wanted.sum is not None
    np.testing.assert_allclose(y_half, wanted.y_half, rtol=4e-3, atol=4e-3)
    np.testing.assert_allclose(total, wanted.sum, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("form", ["erf", "tanh"])
@pytest.mark.parametrize("bias", [False, True])
def test_the_body_of_a_gelu_is_within_a_step_of_the_model(form: str, bias: bool) -> None:
    body, call = body_alone(gelu_twin(form, bias=bias))
    x, offset = halves(1, SEQUENCE, HIDDEN), halves(2, HIDDEN)
    scalars = GeluScalars(attribute(call, "output_scale"))
    chosen = GeluForm(HIDDEN, bias=bias, tanh=bool(attribute(call, "tanh")))
    wanted = gelu_model.bias_gelu_quant(chosen, scalars, x, offset if bias else None)
    assert len(np.unique(wanted)) > 50
    _are_within_a_step(run_body(body, x, *([offset] if bias else []))[0], wanted)


def _are_within_a_step(made: NDArray[Any], wanted: NDArray[Any]) -> None:
    """One step at most, and on few: the body rounds to float16 between its operators."""
    apart = np.abs(np.int32(made) - np.int32(wanted))
    assert apart.max() <= 1
    assert np.mean(apart > 0) < 0.05
