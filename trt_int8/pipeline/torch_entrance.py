"""The PyTorch entrance: quantizers in the model's modules, then export."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.pytorch_utils import Conv1D

from trt_int8.annotate.attention import use_primitive_attention
from trt_int8.annotate.torch_model import AnnotatedModel, annotate
from trt_int8.calibrate.texts import Texts, TokenArrays
from trt_int8.calibrate.torch_statistics import TorchTensors, apply_ranges, apply_weight_ranges
from trt_int8.evaluate.compare import Outputs
from trt_int8.graph.export import export_float, export_onnx
from trt_int8.model.huggingface import TextModel, load_text_model
from trt_int8.model.source import ModelSource
from trt_int8.pipeline.data import (
    PreparedModel,
    TokenData,
    choose_profile,
    shapes_of,
    tokenize_texts,
)
from trt_int8.pipeline.entrance import Entrance
from trt_int8.pipeline.onnx_entrance import OnnxEntrance
from trt_int8.pipeline.options import InputOptions
from trt_int8.pipeline.progress import Reporter
from trt_int8.spec.ranges import RangeTable, TensorRange
from trt_int8.spec.shapes import InputShape, bind_shapes


class TorchEntrance:
    """A Hugging Face model with quantizers in its modules."""

    def __init__(
        self,
        source: ModelSource,
        data: TokenData,
        shapes: tuple[InputShape, ...],
        model: TextModel,
        annotated: AnnotatedModel,
    ) -> None:
        """Keep the parts; `annotated` are the quantizers of `model`."""
        self.source, self.data, self.sites = source, data, tuple(annotated.activations)
        self._shapes, self._model, self._annotated = shapes, model, annotated

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

    def answers(self, ranges: dict[str, TensorRange] | None, batches: list[TokenArrays]) -> Outputs:
        """Float outputs per batch, with fake quantization by `ranges`."""
        if ranges is not None:
            apply_ranges(self._annotated, ranges)
        names, model = self._model.output_names, self._model
        self._annotated.enable(quantize=ranges is not None)
        try:
            with torch.no_grad():
                return [
                    {n: out.numpy() for n, out in zip(names, self._run(b), strict=True)}
                    for b in ({n: batch[n] for n in model.input_names} for batch in batches)
                ]
        finally:
            self._annotated.enable(quantize=False)

    def _run(self, batch: TokenArrays) -> tuple[torch.Tensor, ...]:
        arrays = (torch.from_numpy(batch[name]) for name in self._model.input_names)
        outputs: tuple[torch.Tensor, ...] = self._model.wrapper(*arrays)
        return outputs

    def finish(self, ranges: RangeTable, reporter: Reporter) -> PreparedModel:
        """Load the ranges into the quantizers and export both twins."""
        apply_ranges(self._annotated, ranges.ranges)
        with reporter.task("Exporting to ONNX", 2) as advance:
            fp32 = export_onnx(self._model, self._annotated, quantized=False)
            advance(1)
            int8 = export_onnx(self._model, self._annotated, quantized=True)
        held_out, shapes = self.data.only(fp32).held_out, shapes_of(fp32, self._shapes)
        return PreparedModel(fp32, int8, ranges, held_out, self.data.sha256(), shapes)


def enter_torch(
    source: ModelSource,
    options: InputOptions,
    reporter: Reporter,
    texts: Texts,
    *,
    as_graph: bool = False,
) -> Entrance:
    """Load and annotate a Hugging Face model.

    An architecture with attention or linear code of its own is exported in float and quantized as
    a graph, by the same rules; so is every other one with `as_graph`.

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
    if own or as_graph:
        name = type(model.backbone).__name__
        why = f"{name} has {own} code of its own: " if own else ""
        reporter.note(f"{why}quantizing the exported graph")
        with reporter.task("Exporting to ONNX"):
            fp32 = export_float(model)
        return OnnxEntrance(source, data, shapes, fp32, options.recipe)
    annotated = annotate(model.wrapper, _probe(model), options.recipe)
    apply_weight_ranges(annotated, options.recipe.calibration.weights)
    return TorchEntrance(source, data, shapes, model, annotated)


def _has_only_known_linears(model: TextModel) -> bool:
    """GPT-2 and its kin have Conv1D, a Linear with its weight as [K, N]."""
    return not any(isinstance(module, Conv1D) for module in model.backbone.modules())


def _probe(model: TextModel) -> tuple[torch.Tensor, ...]:
    return tuple(torch.ones(2, 5, dtype=torch.int64) for _ in model.input_names)
