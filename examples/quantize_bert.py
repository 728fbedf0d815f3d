"""A BERT quantized with plain pytorch-quantization, as its user guide has it.

    python examples/quantize_bert.py OUT            # writes OUT/bert.qdq.onnx and a tokenizer
    python build_engine.py --model OUT/bert.qdq.onnx

Nothing here is of trt_int8: the ONNX file has Q/DQ nodes, and the build keeps their ranges. The
model is small and seeded; put your own `from_pretrained` in its place. The guide's recipe covers
the Linear layers; the two matmuls of each attention stay FP16, as the file has it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import transformers
from absl import logging as absl_logging
from pytorch_quantization import calib, quant_modules
from pytorch_quantization import nn as quant_nn
from pytorch_quantization.tensor_quant import QuantDescriptor
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn

VOCABULARY = 200
LONGEST = 64
BATCHES = 4


class Encoder(nn.Module):
    """Called by place, as torch.onnx.export does it; returns a tensor [B, S, H]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Hidden states of the last layer."""
        found = self.model(input_ids=input_ids, attention_mask=attention_mask)
        hidden: Tensor = found.last_hidden_state
        return hidden


def build_model() -> nn.Module:
    """A two-layer BERT whose Linear layers carry quantizers with histogram calibrators."""
    quant_nn.QuantLinear.set_default_quant_desc_input(QuantDescriptor(calib_method="histogram"))
    quant_modules.initialize()
    try:
        torch.manual_seed(0)
        config = transformers.BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=128,
            max_position_embeddings=LONGEST,
        )
        model = transformers.BertModel(config, add_pooling_layer=False)
        # Its products and softmax as operators, as TensorRT fuses them.
        model.set_attn_implementation("eager")
    finally:
        quant_modules.deactivate()
    # A new BERT's weights (0.02) would give a nearly uniform softmax.
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data.mul_(4)
    return Encoder(model).eval()


def collect_stats(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> None:
    """Feed data to the calibrators (user guide, "Post training quantization")."""
    for module in model.modules():
        if isinstance(module, quant_nn.TensorQuantizer):
            if module._calibrator is not None:
                module.disable_quant()
                module.enable_calib()
            else:
                module.disable()
    for batch in batches:
        model(*batch)
    for module in model.modules():
        if isinstance(module, quant_nn.TensorQuantizer):
            if module._calibrator is not None:
                module.enable_quant()
                module.disable_calib()
            else:
                module.enable()


def compute_amax(model: nn.Module, method: str, **options: float) -> None:
    """Load the ranges that the calibrators found (user guide)."""
    for module in model.modules():
        if isinstance(module, quant_nn.TensorQuantizer) and module._calibrator is not None:
            if isinstance(module._calibrator, calib.MaxCalibrator):
                module.load_calib_amax()
            else:
                module.load_calib_amax(method, **options)


def export(model: nn.Module, path: Path) -> None:
    """Write ONNX with Q/DQ (user guide, "Export to ONNX").

    `dynamo=False`: PyTorch's newer exporter cannot export fake quantization.
    """
    quant_nn.TensorQuantizer.use_fb_fake_quant = True
    axes = {0: "batch", 1: "sequence"}
    try:
        torch.onnx.export(
            model,
            tokens(2, 7),
            str(path),
            opset_version=17,
            dynamo=False,
            input_names=["input_ids", "attention_mask"],
            output_names=["last_hidden_state"],
            dynamic_axes=dict.fromkeys(("input_ids", "attention_mask", "last_hidden_state"), axes),
        )
    finally:
        quant_nn.TensorQuantizer.use_fb_fake_quant = False


def tokens(batch: int, length: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random token ids [B, S] and a mask of ones."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, VOCABULARY, (batch, length), generator=generator)
    return ids, torch.ones_like(ids)


def save_tokenizer(folder: Path) -> None:
    """A word tokenizer beside the model, as every model folder has one."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [f"word{number}" for number in range(VOCABULARY - len(special))]
    vocabulary = {word: number for number, word in enumerate(special + words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        model_max_length=LONGEST,
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)


def main() -> None:
    """Calibrate and export."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("out", type=Path, help="folder for the ONNX file and the tokenizer")
    folder: Path = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    absl_logging.set_verbosity(absl_logging.ERROR)
    model = build_model()
    with torch.no_grad():
        collect_stats(model, [tokens(8, 16, seed) for seed in range(BATCHES)])
        compute_amax(model, "percentile", percentile=99.99)
        export(model, folder / "bert.qdq.onnx")
    save_tokenizer(folder)


if __name__ == "__main__":
    main()
