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
        ModelError: a file is missing or damaged, or the head is of a kind that is not supported.
    """
    listing = folder / "modules.json"
    if not listing.is_file():
        return None
    kinds = {str(m["type"]).rsplit(".", 1)[-1]: m for m in read_modules(listing)}
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
    config = _read_json(config_file)
    if not isinstance(config, dict):
        raise _damaged(config_file, "it is not an object")
    return SentenceHead(_pooling_of(config, config_file), "Normalize" in kinds)


def read_modules(listing: Path) -> list[dict[str, str]]:
    """The entries of a `modules.json`.

    Raises:
        ModelError: the file is damaged.
    """
    modules = _read_json(listing)
    fine = isinstance(modules, list) and all(
        isinstance(m, dict) and isinstance(m.get("type"), str) and isinstance(m.get("path"), str)
        for m in modules
    )
    if not fine:
        raise _damaged(listing, "it is not a list of modules with a type and a path")
    return list(modules)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, why: str) -> ModelError:
    return ModelError(
        f"{str(path)!r} cannot be read ({why})",
        wanted="an intact sentence-transformers folder",
        todo="download or save the model again",
    )


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

    def outputs(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Run the model.

        Args:
            inputs: int64 [B, S] each, in the order of `input_names`.

        Returns:
            With a head `sentence_embedding` [B, H] alone: an engine then writes no hidden states
            nobody reads. Else all float tensors the model returns (no tuples of hidden states,
            no caches), by name.
        """
        named = dict(zip(self._input_names, inputs, strict=True))
        given = self.model(**named, return_dict=True)
        found = {n: v for n, v in given.items() if isinstance(v, Tensor) and v.is_floating_point()}
        if self._head is None:
            return found
        hidden = next(iter(found.values()))
        return {"sentence_embedding": self._pool(hidden, named["attention_mask"])}

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The values of `outputs`, as PyTorch's tracer wants them."""
        return tuple(self.outputs(*inputs).values())

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
