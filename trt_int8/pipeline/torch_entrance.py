"""The PyTorch entrance: quantizers in the model's modules, then export."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.pytorch_utils import Conv1D

from trt_int8.annotate.attention import use_primitive_attention
from trt_int8.annotate.smoothing import Smoothed, smooth, smoothable
from trt_int8.annotate.torch_model import AnnotatedModel, annotate
from trt_int8.calibrate.arrays import ArrayData, Batch
from trt_int8.calibrate.texts import Texts
from trt_int8.calibrate.torch_statistics import TorchTensors, apply_ranges, apply_weight_ranges
from trt_int8.evaluate.compare import Outputs
from trt_int8.graph.export import export_float, export_onnx
from trt_int8.model.huggingface import MediaModel, TextModel, load_model
from trt_int8.model.source import ModelSource
from trt_int8.pipeline.calibration_data import batch_arrays, note_texts, wanted_arrays
from trt_int8.pipeline.data import (
    CalibrationData,
    PreparedModel,
    choose_profile,
    shapes_of,
    tokenize_texts,
)
from trt_int8.pipeline.entrance import Entrance
from trt_int8.pipeline.onnx_entrance import OnnxEntrance
from trt_int8.pipeline.options import InputOptions
from trt_int8.pipeline.profiles import guard_of
from trt_int8.pipeline.progress import Reporter
from trt_int8.spec.ranges import RangeTable, TensorRange
from trt_int8.spec.recipe import WeightMethod
from trt_int8.spec.shapes import InputShape, bind_shapes


class TorchEntrance:
    """A Hugging Face model with quantizers in its modules."""

    residual_sites: tuple[str, ...] = ()

    def __init__(
        self,
        source: ModelSource,
        data: CalibrationData,
        shapes: tuple[InputShape, ...],
        model: TextModel,
        annotated: AnnotatedModel,
        weight_method: WeightMethod = "max",
    ) -> None:
        """Keep the parts; `annotated` are the quantizers of `model`."""
        apply_weight_ranges(annotated, weight_method)
        self.source, self.data, self.sites = source, data, tuple(annotated.activations)
        self._shapes, self._model, self._annotated = shapes, model, annotated
        self._weight_method = weight_method
        self._smoothed = Smoothed()

    @property
    def tensors(self) -> TorchTensors:
        """Gives the statistics of the sites."""
        return TorchTensors(self._model.wrapper, self._model.input_names, self._annotated)

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """Per input of a Linear the weights [K, N] of all Linears that read this tensor."""
        linears = {f"{name}.input": linear for name, linear in self._annotated.weights.items()}
        found: dict[str, NDArray[np.float32]] = {}
        for group in self.tensors.groups(self.data.calibration[0]):
            parts = [linears[site].weight.detach().numpy().T for site in group if site in linears]
            if parts:
                found |= dict.fromkeys(group, np.concatenate(parts, axis=1))
        return found

    def smoothing_groups(self) -> tuple[tuple[str, ...], ...]:
        """Inputs of Linears; those that are one tensor are a group."""
        return smoothable(self._annotated, self.tensors.groups(self.data.calibration[0]))

    def smooth(self, factors: Mapping[str, NDArray[np.float32]]) -> None:
        """See `Entrance.smooth`."""
        quantized = {name: given for name, given in factors.items() if name in self.sites}
        if quantized:
            self._smoothed = smooth(self._annotated, self.smoothing_groups(), quantized)
            apply_weight_ranges(self._annotated, self._weight_method)

    def answers(self, ranges: dict[str, TensorRange] | None, batches: list[Batch]) -> Outputs:
        """Float outputs per batch, with fake quantization by `ranges`."""
        if ranges is not None:
            apply_ranges(self._annotated, ranges)
        names, model = self._model.output_names, self._model
        self._annotated.enable(quantize=ranges is not None)
        as_given = self._smoothed.lifted() if ranges is None else contextlib.nullcontext()
        try:
            with torch.no_grad(), as_given:
                return [
                    {n: out.numpy() for n, out in zip(names, self._run(b), strict=True)}
                    for b in ({n: batch[n] for n in model.input_names} for batch in batches)
                ]
        finally:
            self._annotated.enable(quantize=False)

    def _run(self, batch: Batch) -> tuple[torch.Tensor, ...]:
        arrays = (torch.from_numpy(batch[name]) for name in self._model.input_names)
        outputs: tuple[torch.Tensor, ...] = self._model.wrapper(*arrays)
        return outputs

    def finish(self, ranges: RangeTable, reporter: Reporter) -> PreparedModel:
        """Load the ranges into the quantizers and export both twins."""
        apply_ranges(self._annotated, ranges.ranges)
        with reporter.task("Exporting to ONNX", 2) as advance:
            with self._smoothed.lifted():  # the FP16 twin has nothing to be smoothed for
                fp32 = export_onnx(self._model, self._annotated, quantized=False)
            advance(1)
            int8 = export_onnx(self._model, self._annotated, quantized=True)
        data, shapes = self.data.only(fp32), shapes_of(fp32, self._shapes)
        used = tuple(data.calibration)
        digest = self.data.sha256()
        return PreparedModel(
            fp32, int8, ranges, data.held_out, digest, shapes, used, self._annotated.notes
        )


def enter_torch(
    source: ModelSource,
    options: InputOptions,
    reporter: Reporter,
    given: Texts | ArrayData,
    *,
    as_graph: bool = False,
) -> Entrance:
    """Load and annotate a Hugging Face model.

    An architecture with attention or linear code of its own is exported in float and quantized as
    a graph, by the same rules; so is a model of images or sound, and every other one with
    `as_graph`.

    Raises:
        TrtInt8Error: of the step that failed.
    """
    with reporter.task("Loading the model"):
        model = load_model(source, given.names if isinstance(given, ArrayData) else ())
    if model.note:
        reporter.note(model.note)
    data, shapes = data_of(source, model, options, reporter, given)
    own, guard = _own_code(model), guard_of(options, shapes, model.inputs)
    if own or as_graph or isinstance(model, MediaModel):
        name = type(model.backbone).__name__
        why = f"{name} has {own} code of its own: " if own else ""
        reporter.note(f"{why}quantizing the exported graph")
        with reporter.task("Exporting to ONNX"):
            fp32 = export_float(model)
        return OnnxEntrance(source, data, shapes, fp32, options.recipe, guard)
    annotated = annotate(model.wrapper, probe_of(model), options.recipe, guard)
    method = options.recipe.calibration.weights
    return TorchEntrance(source, data, shapes, model, annotated, method)


def data_of(
    source: ModelSource,
    model: TextModel | MediaModel,
    options: InputOptions,
    reporter: Reporter,
    given: Texts | ArrayData,
) -> tuple[CalibrationData, tuple[InputShape, ...]]:
    """Batches of the data, and the profile bound to the model's inputs."""
    limit = model.max_length if isinstance(model, TextModel) else None
    profile = choose_profile(options.shapes, limit)
    if isinstance(given, ArrayData):
        data, axes = batch_arrays(given, model.inputs, profile, options)
        return data, bind_shapes(axes, profile)
    if isinstance(model, MediaModel):
        raise wanted_arrays(source.name, model.inputs)
    shapes = bind_shapes({each.name: each.axes for each in model.inputs}, profile)
    note_texts(given, options, reporter)
    return tokenize_texts(model.tokenizer, given, model.input_names, profile, options), shapes


def _own_code(model: TextModel | MediaModel) -> str:
    """`attention` or `linear`, if the model has such code of its own; and its attention is set."""
    if isinstance(model, MediaModel):
        model.backbone.set_attn_implementation("eager")
        return ""
    if not use_primitive_attention(model.backbone, probe_of(model), model.wrapper):
        return "attention"
    # GPT-2 and its kin have Conv1D, a Linear with its weight as [K, N].
    own = any(isinstance(module, Conv1D) for module in model.backbone.modules())
    return "linear" if own else ""


def probe_of(model: TextModel) -> tuple[torch.Tensor, ...]:
    """Tokens to run a text model on once: int64 [2, 5] per input."""
    return tuple(torch.ones(2, 5, dtype=torch.int64) for _ in model.input_names)
