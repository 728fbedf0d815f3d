"""A model and a script as in pytorch-quantization's user guide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pytorch_quantization import calib
from pytorch_quantization import nn as quant_nn
from pytorch_quantization.tensor_quant import QuantDescriptor
from torch import Tensor, nn

from tests.support.ragged import padded, same_length
from tests.support.tiny_transformers import VOCABULARY
from trt_int8.calibrate.drop_in import use_calibrators
from trt_int8.calibrate.texts import TokenArrays

HIDDEN = 24
Batch = Mapping[str, Tensor]


class Scorer(nn.Module):
    """A QuantLinear over embeddings, and a score of each pair of tokens."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.table = nn.Embedding(VOCABULARY, HIDDEN)
        self.dense = quant_nn.QuantLinear(
            HIDDEN,
            HIDDEN,
            quant_desc_input=QuantDescriptor(calib_method="histogram"),
            quant_desc_weight=QuantDescriptor(axis=(0,)),
        )
        self.keys = quant_nn.TensorQuantizer(QuantDescriptor(calib_method="histogram"))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.dense(torch.exp(self.table(input_ids)))
        scores: Tensor = x @ self.keys(x.transpose(1, 2))
        return scores


def as_tensors(batch: TokenArrays) -> Batch:
    return {name: torch.from_numpy(array) for name, array in batch.items()}


def loader(*, pad: bool = False) -> list[Batch]:
    return [as_tensors(batch) for _, batch in (padded() if pad else same_length())]


def call_by_name(model: nn.Module, batch: Batch) -> object:
    return model(**batch)


def call_by_place(model: nn.Module, batch: Batch) -> object:
    return model(batch["input_ids"], batch["attention_mask"])


def collect_stats(
    model: nn.Module, data: list[Batch], call: Callable[[nn.Module, Batch], object] = call_by_name
) -> None:
    """As in the guide, section 'Post training quantization'."""
    for module in model.modules():
        if isinstance(module, quant_nn.TensorQuantizer):
            if module._calibrator is not None:
                module.disable_quant()
                module.enable_calib()
            else:
                module.disable()
    for batch in data:
        call(model, batch)
    for module in model.modules():
        if isinstance(module, quant_nn.TensorQuantizer):
            if module._calibrator is not None:
                module.enable_quant()
                module.disable_calib()
            else:
                module.enable()


def compute_amax(model: nn.Module, **options: Any) -> None:
    """As in the guide."""
    for module in model.modules():
        if isinstance(module, quant_nn.TensorQuantizer) and module._calibrator is not None:
            if isinstance(module._calibrator, calib.MaxCalibrator):
                module.load_calib_amax()
            else:
                module.load_calib_amax(**options)


def calibrated(
    data: list[Batch],
    *,
    example: Mapping[str, Any] | None = None,
    call: Callable[[nn.Module, Batch], object] = call_by_name,
) -> Scorer:
    """The script up to the choice of ranges, with the one new line."""
    model = Scorer()
    use_calibrators(model, example=example)
    collect_stats(model, data, call)
    return model
