"""PyTorch to ONNX, with or without Q/DQ."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import onnx
import torch
from pytorch_quantization.nn.modules.tensor_quantizer import TensorQuantizer

from trt_int8.annotate.torch_model import AnnotatedModel, silent_absl
from trt_int8.errors import ModelError, first_line
from trt_int8.graph.normalize import normalize
from trt_int8.model.huggingface import MediaModel, TextModel
from trt_int8.model.inputs import example_array

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


def export_float(model: TextModel | MediaModel) -> onnx.ModelProto:
    """Export a model without quantizers, in normal form; the dynamic axes are those of its inputs.

    Raises:
        ModelError: PyTorch cannot trace the model.
    """
    return normalize(_trace(model))


def _trace(model: TextModel | MediaModel) -> onnx.ModelProto:
    # Sizes that differ from each other and from 1, so that no axis is taken for a constant.
    example = _example(model, 2, 5)
    axes = {
        given.name: {axis: name for axis, name in enumerate(given.axes) if isinstance(name, str)}
        for given in model.inputs
    }
    try:
        with (
            warnings.catch_warnings(),
            torch.no_grad(),
            tempfile.TemporaryDirectory() as folder,
        ):
            path = Path(folder) / "model.onnx"
            axes |= _output_axes(model, example, _example(model, 3, 7))
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model.wrapper,
                example,
                str(path),
                opset_version=OPSET,
                dynamo=False,
                input_names=[given.name for given in model.inputs],
                output_names=list(model.output_names),
                dynamic_axes=axes,
            )
            return onnx.load(str(path))
    except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
        raise ModelError(
            f"PyTorch cannot export {type(model.backbone).__name__} ({first_line(error)})",
            wanted="a model that torch.onnx can trace",
            todo="export it to ONNX yourself and pass the .onnx file",
        ) from error


def _example(model: TextModel | MediaModel, batch: int, length: int) -> tuple[torch.Tensor, ...]:
    sizes = {"batch": batch, "sequence": length}
    return tuple(torch.from_numpy(example_array(given, sizes)) for given in model.inputs)


def _output_axes(
    model: TextModel | MediaModel, first: tuple[torch.Tensor, ...], second: tuple[torch.Tensor, ...]
) -> dict[str, dict[int, str]]:
    """Which axes of each output change when batch and length of the inputs do."""
    pairs = zip(model.wrapper(*first), model.wrapper(*second), strict=True)
    return {
        name: {
            axis: "sequence" if axis else "batch"
            for axis, (size, other) in enumerate(zip(one.shape, two.shape, strict=True))
            if size != other
        }
        for name, (one, two) in zip(model.output_names, pairs, strict=True)
    }
