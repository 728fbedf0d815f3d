"""The module that is exported: a transformers model and, if it has one, its sentence head."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from trt_int8.errors import ModelError


@dataclass(frozen=True)
class SentenceHead:
    """Pooling of a sentence-transformers folder.

    Attributes:
        pooling: `mean` over unmasked tokens or the `cls` token.
        normalize: divide by the L2 norm.
    """

    pooling: Literal["mean", "cls"]
    normalize: bool


def sentence_head_of(folder: Path) -> SentenceHead | None:
    """Read `modules.json` of a sentence-transformers folder; None if there is none.

    Raises:
        ModelError: the head is of a kind that is not supported.
    """
    listing = folder / "modules.json"
    if not listing.is_file():
        return None
    modules = json.loads(listing.read_text(encoding="utf-8"))
    kinds = {str(module["type"]).rsplit(".", 1)[-1]: module for module in modules}
    unknown = sorted(set(kinds) - {"Transformer", "Pooling", "Normalize"})
    if unknown:
        raise ModelError(
            f"{str(listing)!r} lists the modules {unknown}",
            wanted="Transformer, Pooling (mean or cls) and Normalize",
            todo="export the model to ONNX and pass the .onnx file",
        )
    if "Pooling" not in kinds:
        return None
    config_file = folder / kinds["Pooling"]["path"] / "config.json"
    config = json.loads(config_file.read_text(encoding="utf-8"))
    return SentenceHead(_pooling_of(config, config_file), "Normalize" in kinds)


def _pooling_of(config: dict[str, Any], config_file: Path) -> Literal["mean", "cls"]:
    modes = sorted(k for k, v in config.items() if k.startswith("pooling_mode_") and v is True)
    chosen = modes or [f"pooling_mode_{config.get('pooling_mode', '')}"]
    if chosen in (["pooling_mode_mean_tokens"], ["pooling_mode_mean"]):
        return "mean"
    if chosen in (["pooling_mode_cls_token"], ["pooling_mode_cls"]):
        return "cls"
    raise ModelError(
        f"{str(config_file)!r} asks for {chosen}",
        wanted="mean or cls pooling",
        todo="export the model to ONNX and pass the .onnx file",
    )


class ExportWrapper(nn.Module):
    """Calls the model with positional inputs and returns a plain tuple of tensors."""

    def __init__(
        self, backbone: nn.Module, input_names: tuple[str, ...], head: SentenceHead | None
    ) -> None:
        """Remember the order of the inputs and the head."""
        super().__init__()
        self.model = backbone
        self._input_names = input_names
        self._head = head

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run the model.

        Args:
            inputs: int64 [B, S] each, in the order of `input_names`.

        Returns:
            The first output ([B, S, H] or logits) and, with a head, the embedding [B, H].
        """
        named = dict(zip(self._input_names, inputs, strict=True))
        first: Tensor = self.model(**named, return_dict=False)[0]
        if self._head is None:
            return (first,)
        return first, self._pool(first, named["attention_mask"])

    def _pool(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        assert self._head is not None
        if self._head.pooling == "cls":
            pooled = hidden[:, 0]
        else:
            mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * mask).sum(1) / torch.maximum(mask.sum(1), torch.ones(()))
        if self._head.normalize:
            norm = (pooled * pooled).sum(-1, keepdim=True).sqrt()
            # Floor well above the smallest float16; embeddings have norms around 1 and more.
            pooled = pooled / torch.maximum(norm, torch.full((), 1e-4))
        return pooled
