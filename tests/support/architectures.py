"""Seeded tiny model folders, one function per architecture, and arrays to calibrate them with.

Each folder is as `save_pretrained` writes it: two layers, hidden 64, two heads of 32.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import nn

from tests.support.tiny_folder import write_tokenizer
from tests.support.tiny_transformers import VOCABULARY

POSITIONS, SAMPLES, TOKENS = 40, 24, 13
IMAGE, PATCH, MEL_BINS, FRAME_POSITIONS = 32, 8, 80, 24
_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "max_position_embeddings": POSITIONS,
}
_VISION: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "image_size": IMAGE,
    "patch_size": PATCH,
    "num_labels": 7,
}


def seeded(kind: str, config: Any, **options: Any) -> Any:
    """A model whose attention is not uniform and whose norms are not all alike.

    The libraries' initial weights (0.02) give activations so small and so even that a cosine says
    nothing. Here a weight [N, K] has the deviation 1.4 / sqrt(K), and each norm its own gains.
    """
    torch.manual_seed(7)
    model = getattr(transformers, kind)(config, **options)
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for module in model.modules():
            weight = getattr(module, "weight", None)
            if isinstance(module, nn.Embedding):
                module.weight.normal_(0.0, 0.7, generator=generator)
            elif isinstance(weight, nn.Parameter) and weight.ndim >= 2:
                # transformers' Conv1D holds its weight as [K, N].
                turned = type(module).__name__ == "Conv1D"
                inputs = weight.shape[0] if turned else weight[0].numel()
                weight.normal_(0.0, 1.4 * inputs**-0.5, generator=generator)
            elif isinstance(weight, nn.Parameter) and weight.ndim == 1:
                weight.copy_(torch.empty_like(weight).uniform_(0.6, 1.4, generator=generator))
            bias = getattr(module, "bias", None)
            if isinstance(bias, nn.Parameter):
                bias.normal_(0.0, 0.1, generator=generator)
    return model.eval()


def _saved(folder: Path, kind: str, config: Any, *, text: bool = True, **options: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    seeded(kind, config, **options).save_pretrained(folder)
    if text:
        write_tokenizer(folder, POSITIONS)
    return folder


def bert(folder: Path) -> Path:
    """BERT."""
    return _saved(folder, "BertModel", transformers.BertConfig(**_SIZES), add_pooling_layer=False)


def roberta(folder: Path) -> Path:
    """RoBERTa; two positions are reserved."""
    config = transformers.RobertaConfig(**_SIZES | {"pad_token_id": 1})
    return _saved(folder, "RobertaModel", config, add_pooling_layer=False)


def xlm_roberta(folder: Path) -> Path:
    """XLM-RoBERTa with a classifier."""
    config = transformers.XLMRobertaConfig(**_SIZES | {"num_labels": 5})
    return _saved(folder, "XLMRobertaForSequenceClassification", config)


def distilbert(folder: Path) -> Path:
    """DistilBERT."""
    config = transformers.DistilBertConfig(
        vocab_size=VOCABULARY,
        dim=64,
        n_layers=2,
        n_heads=2,
        hidden_dim=128,
        max_position_embeddings=POSITIONS,
    )
    return _saved(folder, "DistilBertModel", config)


def mpnet(folder: Path) -> Path:
    """MPNet: relative position bias."""
    config = transformers.MPNetConfig(**_SIZES)
    return _saved(folder, "MPNetModel", config, add_pooling_layer=False)


def electra(folder: Path) -> Path:
    """ELECTRA: its embeddings are narrower than the rest, and projected."""
    return _saved(folder, "ElectraModel", transformers.ElectraConfig(**_SIZES, embedding_size=32))


def albert(folder: Path) -> Path:
    """ALBERT: all layers share their weights."""
    config = transformers.AlbertConfig(**_SIZES, embedding_size=32)
    return _saved(folder, "AlbertModel", config, add_pooling_layer=False)


def deberta_v2(folder: Path) -> Path:
    """DeBERTa-v2: content-to-position and position-to-content scores."""
    # As microsoft/deberta-v3 has it.
    published: dict[str, Any] = {
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "max_relative_positions": 16,
        "position_buckets": 8,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "type_vocab_size": 0,
        "position_biased_input": False,
    }
    config = transformers.DebertaV2Config(**_SIZES, **published)
    return _saved(folder, "DebertaV2Model", config)


def modernbert(folder: Path) -> Path:
    """ModernBERT: one packed projection for Q, K and V, rotary positions, gated FFN."""
    special = {"pad": 0, "bos": 2, "eos": 3, "cls": 2, "sep": 3}
    tokens: dict[str, Any] = {f"{name}_token_id": place for name, place in special.items()}
    config = transformers.ModernBertConfig(**_SIZES, **tokens, local_attention=8)
    return _saved(folder, "ModernBertModel", config)


def vit(folder: Path) -> Path:
    """ViT with a classifier."""
    config = transformers.ViTConfig(**_VISION)
    return _saved(folder, "ViTForImageClassification", config, text=False)


def deit(folder: Path) -> Path:
    """DeiT, without a head."""
    config = transformers.DeiTConfig(**_VISION)
    return _saved(folder, "DeiTModel", config, text=False, add_pooling_layer=False)


def t5(folder: Path) -> Path:
    """T5 as it is published: encoder and decoder."""
    config = transformers.T5Config(
        vocab_size=VOCABULARY, d_model=64, d_kv=32, d_ff=128, num_layers=2, num_heads=2
    )
    return _saved(folder, "T5ForConditionalGeneration", config)


def gpt2(folder: Path) -> Path:
    """GPT-2 with its language model head."""
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=64,
        n_layer=2,
        n_head=2,
        n_positions=POSITIONS,
        bos_token_id=2,
        eos_token_id=3,
    )
    return _saved(folder, "GPT2LMHeadModel", config)


def whisper(folder: Path) -> Path:
    """Whisper as it is published: encoder and decoder."""
    config = transformers.WhisperConfig(
        vocab_size=VOCABULARY,
        d_model=64,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        num_mel_bins=MEL_BINS,
        max_source_positions=FRAME_POSITIONS,
        max_target_positions=POSITIONS,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        decoder_start_token_id=2,
    )
    return _saved(folder, "WhisperForConditionalGeneration", config, text=False)


ARCHITECTURES: dict[str, Callable[[Path], Path]] = {
    "bert": bert,
    "roberta": roberta,
    "xlm-roberta": xlm_roberta,
    "distilbert": distilbert,
    "mpnet": mpnet,
    "electra": electra,
    "albert": albert,
    "deberta-v2": deberta_v2,
    "modernbert": modernbert,
    "vit": vit,
    "deit": deit,
    "t5": t5,
    "gpt2": gpt2,
    "whisper": whisper,
}
_IMAGES, _SOUNDS = ("vit", "deit"), ("whisper",)


def arrays_for(name: str, samples: int = SAMPLES) -> dict[str, NDArray[Any]]:
    """Seeded arrays to calibrate `ARCHITECTURES[name]` with, one per input.

    Images and spectra are smooth, so that neighbours are alike as in real ones; token arrays are
    padded to 13 tokens, another number of them real in each sample.
    """
    rng = np.random.default_rng(5)
    if name in _IMAGES:
        return {"pixel_values": _smooth(rng, (samples, 3, IMAGE, IMAGE))}
    if name in _SOUNDS:
        return {"input_features": _smooth(rng, (samples, MEL_BINS, 2 * FRAME_POSITIONS))}
    ids = rng.integers(5, VOCABULARY, (samples, TOKENS))
    mask = (np.arange(TOKENS) < 4 + np.arange(samples)[:, None] % 10).astype(np.int64)
    return {"input_ids": np.where(mask == 1, ids, 0), "attention_mask": mask}


def _smooth(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    coarse = rng.standard_normal((*shape[:-2], shape[-2] // 4, shape[-1] // 4))
    fine = coarse.repeat(4, axis=-2).repeat(4, axis=-1)
    return (fine + 0.3 * rng.standard_normal(shape)).astype(np.float32)
