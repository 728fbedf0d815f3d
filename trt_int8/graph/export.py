"""PyTorch to ONNX, with or without Q/DQ."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import onnx
import torch
from pytorch_quantization.nn.modules.tensor_quantizer import TensorQuantizer

from trt_int8.annotate.torch_model import AnnotatedModel, silent_absl
from trt_int8.errors import ModelError
from trt_int8.graph.normalize import normalize
from trt_int8.model.huggingface import TextModel

# 17 is the first with LayerNormalization as one operator. From 21 on ONNX Runtime mistypes an
# int8 Q in front of a Transpose.
OPSET = 17


def export_onnx(model: TextModel, annotated: AnnotatedModel, *, quantized: bool) -> onnx.ModelProto:
    """Export in normal form; float32 with dynamic axes `batch` and `sequence`.

    Args:
        model: what to export.
        annotated: its quantizers, with ranges loaded if `quantized`.
        quantized: with Q/DQ, or the float model.

    Raises:
        ModelError: PyTorch cannot trace the model.
    """
    annotated.enable(quantize=quantized)
    native = TensorQuantizer.use_fb_fake_quant
    TensorQuantizer.use_fb_fake_quant = True
    try:
        with silent_absl():
            exported = _trace(model)
    finally:
        TensorQuantizer.use_fb_fake_quant = native
        annotated.enable(quantize=False)
    return normalize(exported)


def export_float(model: TextModel) -> onnx.ModelProto:
    """Export a model without quantizers, in normal form.

    Raises:
        ModelError: PyTorch cannot trace the model.
    """
    return normalize(_trace(model))


def _trace(model: TextModel) -> onnx.ModelProto:
    # Sizes that differ from each other and from 1, so that no axis is taken for a constant.
    example = tuple(torch.ones(2, 5, dtype=torch.int64) for _ in model.input_names)
    axes = {0: "batch", 1: "sequence"}
    outputs = dict.fromkeys(model.output_names, axes)
    if "sentence_embedding" in outputs:
        outputs["sentence_embedding"] = {0: "batch"}
    if model.output_names[0] == "logits" and _rank_of_logits(model, example) == 2:
        outputs["logits"] = {0: "batch"}
    try:
        with (
            warnings.catch_warnings(),
            torch.no_grad(),
            tempfile.TemporaryDirectory() as folder,
        ):
            path = Path(folder) / "model.onnx"
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model.wrapper,
                example,
                str(path),
                opset_version=OPSET,
                dynamo=False,
                input_names=list(model.input_names),
                output_names=list(model.output_names),
                dynamic_axes=dict.fromkeys(model.input_names, axes) | outputs,
            )
            return onnx.load(str(path))
    except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
        raise ModelError(
            f"PyTorch cannot export {type(model.backbone).__name__} ({str(error).splitlines()[0]})",
            wanted="a model that torch.onnx can trace",
            todo="export it to ONNX yourself and pass the .onnx file",
        ) from error


def _rank_of_logits(model: TextModel, example: tuple[torch.Tensor, ...]) -> int:
    with torch.no_grad():
        return int(model.wrapper(*example)[0].ndim)
