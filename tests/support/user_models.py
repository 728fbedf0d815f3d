"""Models that a user annotated with plain pytorch-quantization, with nothing of ours in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pytorch_quantization import nn as quant_nn
from pytorch_quantization import quant_modules
from pytorch_quantization.nn import TensorQuantizer
from pytorch_quantization.tensor_quant import QuantDescriptor
from torch import Tensor, nn

from tests.support.tiny_folder import write_tokenizer
from tests.support.tiny_transformers import VOCABULARY, tiny_backbone, tokens

HIDDEN, HEADS, LENGTH = 64, 2, 11


@contextmanager
def quantized_modules() -> Iterator[None]:
    """quant_modules.initialize() for a while."""
    quant_modules.initialize()
    try:
        yield
    finally:
        quant_modules.deactivate()


class Block(nn.Module):
    """One attention and one Linear with quantizers where TensorRT wants them for fusion.

    Its residual sum reads the quantized input too.
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.table = nn.Embedding(VOCABULARY, HIDDEN)
        self.qkv = nn.ModuleList(quant_nn.QuantLinear(HIDDEN, HIDDEN) for _ in range(3))
        self.dense = quant_nn.QuantLinear(HIDDEN, HIDDEN)
        self.query_quantizer: Any = TensorQuantizer(QuantDescriptor())
        self.key_quantizer: Any = TensorQuantizer(QuantDescriptor())
        self.value_quantizer: Any = TensorQuantizer(QuantDescriptor())
        self.softmax_quantizer: Any = TensorQuantizer(QuantDescriptor())
        self.residual_quantizer: Any = TensorQuantizer(QuantDescriptor())
        self.norm = nn.LayerNorm(HIDDEN)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        x = self.table(input_ids)
        split = (*input_ids.shape, HEADS, HIDDEN // HEADS)
        query, key, value = (linear(x).view(split).transpose(1, 2) for linear in self.qkv)
        scores = self.query_quantizer(query / 4) @ self.key_quantizer(key).transpose(2, 3)
        hidden = attention_mask[:, None, None, :] == 0
        weights = torch.softmax(scores.masked_fill(hidden, -1e4), dim=-1)
        context = self.softmax_quantizer(weights) @ self.value_quantizer(value)
        merged = context.transpose(1, 2).reshape(x.shape)
        return {"hidden": self.norm(self.dense(merged) + self.residual_quantizer(x))}


def calibrate(model: nn.Module, batches: int = 3) -> None:
    """Max calibration as in the user guide, of everything but weights (they are dynamic)."""
    quantizers = {n: m for n, m in model.named_modules() if isinstance(m, TensorQuantizer)}
    for name, quantizer in quantizers.items():
        quantizer.disable_quant()
        if not name.endswith("weight_quantizer"):
            quantizer.enable_calib()
    with torch.no_grad():
        for seed in range(batches):
            model(*tokens(seed=seed))
    for name, quantizer in quantizers.items():
        quantizer.enable_quant()
        if not name.endswith("weight_quantizer"):
            quantizer.disable_calib()
            quantizer.load_calib_amax()


def calibrated_block() -> Block:
    model = Block().eval()
    calibrate(model)
    return model


def write_trained_bert(folder: Path, kind: str = "Model") -> nn.Module:
    """A folder as quantization-aware training leaves it; gives the model that was saved."""
    with quantized_modules():
        model: nn.Module = tiny_backbone("Bert", kind)
    calibrate(model)
    for module in model.modules():
        if isinstance(module, quant_nn.QuantLinear):
            # Training moved the weights; the ranges were kept as they were calibrated.
            amax = module.weight.detach().abs().amax(1, keepdim=True) * 0.9
            module._weight_quantizer.register_buffer("_amax", amax)
    folder.mkdir(parents=True, exist_ok=True)
    save = getattr(model, "save_pretrained")  # noqa: B009 - nn.Module does not know it
    save(folder)
    write_tokenizer(folder)
    return model
