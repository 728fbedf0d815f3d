"""PyTorch to ONNX: names, opset, axes and numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
import transformers
from torch import Tensor, nn

from tests.support.onnx_tiny import Array, attribute, constants_of, count, maker_of, run_ort
from tests.support.tiny_transformers import VOCABULARY, annotated, text_model, tokens
from trt_int8.annotate.attention import use_primitive_attention
from trt_int8.annotate.torch_model import AnnotatedModel, silent_absl
from trt_int8.errors import ModelError
from trt_int8.graph.export import export_float, export_onnx
from trt_int8.graph.insert import has_qdq
from trt_int8.model.heads import ExportWrapper, SentenceHead
from trt_int8.model.huggingface import TextModel


def run(model: TextModel, inputs: tuple[Tensor, ...]) -> list[Array]:
    with torch.no_grad():
        return [output.numpy() for output in model.wrapper(*inputs)]


def feeds(inputs: tuple[Tensor, ...]) -> dict[str, Array]:
    return {n: t.numpy() for n, t in zip(("input_ids", "attention_mask"), inputs, strict=True)}


def calibrated(family: str = "Bert") -> tuple[TextModel, AnnotatedModel]:
    """A model whose quantizers have the ranges of one batch."""
    model = text_model(family)
    sites = annotated(model)
    sites.enable(quantize=False, collect=True)
    run(model, tokens())
    with silent_absl():
        for quantizer in sites.activations.values():
            quantizer.load_calib_amax()
    sites.enable(quantize=False)
    return model, sites


def axes(value: onnx.ValueInfoProto) -> list[int | str]:
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


def test_the_graph_is_opset_17_and_valid() -> None:
    graph = export_float(text_model())
    onnx.checker.check_model(graph, full_check=True)
    assert {o.domain: o.version for o in graph.opset_import}[""] == 17


def test_batch_and_sequence_are_free() -> None:
    graph = export_float(text_model()).graph
    assert [axes(i) for i in graph.input] == [["batch", "sequence"]] * 2
    assert [axes(o)[:2] for o in graph.output] == [["batch", "sequence"]]


def test_inputs_and_outputs_have_the_names_of_the_model() -> None:
    head = SentenceHead("mean", normalize=True)
    graph = export_float(text_model(head=head)).graph
    assert [i.name for i in graph.input] == ["input_ids", "attention_mask"]
    assert [o.name for o in graph.output] == ["sentence_embedding"]
    assert axes(graph.output[0])[0] == "batch"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("ForSequenceClassification", ["batch"]),
        ("ForTokenClassification", ["batch", "sequence"]),
        ("ForMaskedLM", ["batch", "sequence"]),
    ],
)
def test_only_logits_per_token_have_a_sequence_axis(kind: str, expected: list[str]) -> None:
    (logits,) = export_float(text_model(kind=kind)).graph.output
    assert [a for a in axes(logits) if isinstance(a, str)] == expected


def test_logits_of_question_answering_follow_the_length_of_the_text() -> None:
    graph, inputs = export_float(text_model(kind="ForQuestionAnswering")), tokens(2, 9)
    assert run_ort(graph, feeds(inputs))[0].shape == (2, 9)
    assert not any(isinstance(axis, int) for axis in axes(graph.graph.output[0]))


def test_both_ends_of_an_answer_are_outputs_with_free_axes() -> None:
    outputs = export_float(text_model(kind="ForQuestionAnswering")).graph.output
    assert [o.name for o in outputs] == ["start_logits", "end_logits"]
    assert [axes(o) for o in outputs] == [["batch", "sequence"]] * 2


def causal_model(family: str) -> TextModel:
    sizes = {
        "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 40},
        "Llama": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
                  "num_attention_heads": 2, "num_key_value_heads": 1},
    }[family]  # fmt: skip
    config = getattr(transformers, f"{family}Config")(vocab_size=VOCABULARY, **sizes)
    torch.manual_seed(5)
    backbone = getattr(transformers, f"{family}Model")(config).eval()
    backbone.config.use_cache = False
    wrapper = ExportWrapper(backbone, ("input_ids", "attention_mask"), None).eval()
    assert use_primitive_attention(backbone, tokens(), wrapper)
    return TextModel(wrapper, backbone, None, ("input_ids", "attention_mask"), ("h",), 40)


@pytest.mark.parametrize("family", ["GPT2", "Llama"])
def test_a_causal_mask_follows_the_length_of_the_text(family: str) -> None:
    model = causal_model(family)
    graph = export_float(model)
    model.backbone.set_attn_implementation("eager")
    for size in ((1, 4), (2, 9)):
        inputs = tokens(*size)
        found, kept = run_ort(graph, feeds(inputs))[0], inputs[1].numpy() == 1
        np.testing.assert_allclose(found[kept], run(model, inputs)[0][kept], atol=2e-5)


@pytest.mark.parametrize("family", ["GPT2", "Llama"])
def test_later_tokens_do_not_change_earlier_ones_in_a_causal_graph(family: str) -> None:
    graph, inputs = export_float(causal_model(family)), tokens(1, 8)
    other = inputs[0].clone()
    other[:, 5:] = 3
    first, second = (run_ort(graph, feeds((i, inputs[1])))[0] for i in (inputs[0], other))
    np.testing.assert_allclose(first[:, :5], second[:, :5], atol=1e-6)
    assert np.abs(first[:, 5:] - second[:, 5:]).max() > 1e-3


def test_linears_keep_the_names_of_their_modules() -> None:
    names = [node.name for node in export_float(text_model()).graph.node]
    assert "/model/encoder/layer.1/intermediate/dense/MatMul" in names
    assert "/model/encoder/layer.0/attention/self/Softmax" in names
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("family", ["Bert", "Roberta", "DistilBert", "Electra"])
@pytest.mark.parametrize("size", [(1, 1), (2, 5), (3, 11)])
def test_the_float_graph_computes_what_pytorch_computes(family: str, size: tuple[int, int]) -> None:
    model, inputs = text_model(family), tokens(*size)
    inputs = (inputs[0], torch.ones_like(inputs[1])) if size == (1, 1) else inputs
    found = run_ort(export_float(model), feeds(inputs))[0]
    np.testing.assert_allclose(found, run(model, inputs)[0], rtol=1e-4, atol=2e-5)


def test_the_float_graph_of_an_annotated_model_is_that_of_the_plain_one() -> None:
    plain = export_float(text_model())
    model, sites = calibrated()
    again = export_onnx(model, sites, quantized=False)
    assert not has_qdq(again)
    for name in ("MatMul", "Softmax", "LayerNormalization"):
        assert count(again, name) == count(plain, name)
    np.testing.assert_array_equal(run_ort(again, feeds(tokens())), run_ort(plain, feeds(tokens())))


@pytest.mark.parametrize("family", ["Bert", "Roberta", "DistilBert", "Electra"])
def test_the_int8_graph_computes_what_the_fake_quantized_model_computes(family: str) -> None:
    model, sites = calibrated(family)
    graph, inputs = export_onnx(model, sites, quantized=True), tokens(seed=4)
    exact = run(model, inputs)[0]
    sites.enable(quantize=True)
    fake = run(model, inputs)[0]
    found = run_ort(graph, feeds(inputs))[0]
    kept = inputs[1].numpy() == 1
    quantization = np.abs(fake - exact)[kept].mean()
    # A value on a rounding boundary may take the other step; on average hardly any does.
    assert np.abs(found - fake)[kept].mean() < 0.1 * quantization


def test_each_bert_linear_has_int8_weights_and_each_attention_five_pairs() -> None:
    graph = export_onnx(*calibrated(), quantized=True)
    weights = [a for a in constants_of(graph).values() if a.dtype == np.int8 and a.ndim == 2]
    assert sorted(w.shape for w in weights) == sorted(
        [(64, 64)] * 8 + [(64, 80)] * 2 + [(80, 64)] * 2
    )
    # Per layer: one input for Q, K and V, the three of them, softmax, context, two of the FFN.
    assert 2 * 7 <= count(graph, "QuantizeLinear") <= 2 * 8


def test_both_operands_of_every_matmul_are_dequantized() -> None:
    graph = export_onnx(*calibrated(), quantized=True)
    for node in graph.graph.node:
        for operand in node.input if node.op_type == "MatMul" else ():
            maker = maker_of(graph, operand)
            while maker.op_type in ("Transpose", "Reshape"):
                maker = maker_of(graph, maker.input[0])
            assert maker.op_type == "DequantizeLinear", node.name


def test_scales_are_the_ranges_over_127() -> None:
    model, sites = calibrated()
    graph = export_onnx(model, sites, quantized=True)
    constants = constants_of(graph)
    found = {
        float(constants[n.input[1]]) for n in graph.graph.node if n.op_type == "QuantizeLinear"
    }
    amax = [float(q.amax) for q in sites.activations.values()]
    expected = {float(np.float32(a) / np.float32(127)) for a in amax}
    assert all(min(abs(f - e) for e in expected) <= 1e-6 * f for f in found)


def test_weights_dequantize_with_scales_along_their_columns() -> None:
    graph = export_onnx(*calibrated(), quantized=True)
    constants = constants_of(graph)
    weights = [n for n in graph.graph.node if constants.get(n.input[0], np.empty(0)).ndim == 2]
    weights = [n for n in weights if n.op_type == "DequantizeLinear"]
    assert len(weights) == 12
    for node in weights:
        assert attribute(node, "axis") == 1
        assert constants[node.input[1]].shape == constants[node.input[0]].shape[1:]


def test_exporting_leaves_the_quantizers_off() -> None:
    model, sites = calibrated()
    before = run(model, tokens())[0]
    export_onnx(model, sites, quantized=True)
    np.testing.assert_array_equal(run(model, tokens())[0], before)


def test_exporting_twice_gives_the_same_bytes() -> None:
    model, sites = calibrated()
    first, second = (export_onnx(model, sites, quantized=True) for _ in range(2))
    assert first.SerializeToString() == second.SerializeToString()


def test_a_model_that_cannot_be_traced_is_refused() -> None:
    class Untraceable(ExportWrapper):
        def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
            raise RuntimeError("no way\nsecond line")

    model = replace(text_model(), wrapper=Untraceable(nn.Identity(), (), None))
    with pytest.raises(ModelError, match=r"cannot export BertModel \(no way\); wanted"):
        export_float(model)
