"""The PyTorch entrance: quantizers in the model's modules, then export."""

from __future__ import annotations

import torch
from transformers.pytorch_utils import Conv1D

from trt_int8.annotate.attention import use_primitive_attention
from trt_int8.annotate.torch_model import AnnotatedModel, annotate
from trt_int8.calibrate.texts import Texts
from trt_int8.calibrate.torch_ranges import apply_ranges, collect_ranges
from trt_int8.graph.export import export_float, export_onnx
from trt_int8.model.huggingface import TextModel, load_text_model
from trt_int8.model.source import ModelSource
from trt_int8.pipeline.data import (
    PreparedModel,
    RangeKey,
    TokenData,
    cached_ranges,
    choose_profile,
    shapes_of,
    tokenize_texts,
)
from trt_int8.pipeline.onnx_entrance import quantize_graph
from trt_int8.pipeline.options import BuildOptions
from trt_int8.pipeline.progress import Advance, Reporter
from trt_int8.spec.ranges import TensorRange
from trt_int8.spec.shapes import bind_shapes


def prepare_torch(
    source: ModelSource, options: BuildOptions, reporter: Reporter, texts: Texts
) -> PreparedModel:
    """Prepare a Hugging Face model.

    An architecture with attention or linear code of its own is exported in float and quantized as
    a graph, by the same rules.

    Raises:
        TrtInt8Error: of the step that failed.
    """
    with reporter.task("Loading the model"):
        model = load_text_model(source)
        profile = choose_profile(options.shapes, model.max_length)
        shapes = bind_shapes(dict.fromkeys(model.input_names, ("batch", "sequence")), profile)
    data = tokenize_texts(model.tokenizer, texts, model.input_names, profile, options)
    own = "" if _has_only_known_linears(model) else "linear"
    if not use_primitive_attention(model.backbone, _probe(model), model.wrapper):
        own = "attention"
    if own:
        name = type(model.backbone).__name__
        reporter.note(f"{name} has {own} code of its own: quantizing its exported graph")
        with reporter.task("Exporting to ONNX"):
            fp32 = export_float(model)
        return quantize_graph(fp32, RangeKey(source, data, ()), options, reporter, shapes)
    annotated = annotate(model.wrapper, _probe(model), options.recipe)
    ranges = cached_ranges(
        RangeKey(source, data, tuple(annotated.activations)),
        options,
        reporter,
        lambda advance: _measure(model, annotated, data, options, advance),
    )
    apply_ranges(annotated, ranges.ranges)
    with reporter.task("Exporting to ONNX", 2) as advance:
        fp32 = export_onnx(model, annotated, quantized=False)
        advance(1)
        int8 = export_onnx(model, annotated, quantized=True)
    held_out, shapes = data.only(fp32).held_out, shapes_of(fp32, shapes)
    return PreparedModel(fp32, int8, ranges, held_out, data.sha256(), shapes)


def _has_only_known_linears(model: TextModel) -> bool:
    """GPT-2 and its kin have Conv1D, a Linear with its weight as [K, N]."""
    return not any(isinstance(module, Conv1D) for module in model.backbone.modules())


def _probe(model: TextModel) -> tuple[torch.Tensor, ...]:
    return tuple(torch.ones(2, 5, dtype=torch.int64) for _ in model.input_names)


def _measure(
    model: TextModel,
    annotated: AnnotatedModel,
    data: TokenData,
    options: BuildOptions,
    advance: Advance,
) -> dict[str, TensorRange]:
    settings = options.recipe.calibration
    return collect_ranges(model, annotated, data.calibration, settings, lambda: advance(1))
