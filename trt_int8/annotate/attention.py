"""Attention as primitive operators with quantizers, plugged into transformers.

TensorRT fuses MatMul, Softmax and MatMul with Q/DQ to one INT8 kernel, but never runs the ONNX
Attention operator in INT8. So the model is asked, through `transformers.AttentionInterface`, to
call the function below; no model code is copied.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import bidirectional_mask_function, sdpa_mask

from trt_int8.errors import ModelError
from trt_int8.model.quiet import quiet_transformers

IMPLEMENTATION = "trt_int8_primitive"
QUANTIZERS = "trt_int8_quantizers"
# Lowest float16. The masked score is replaced, not added to, so it cannot become -inf.
MASKED_SCORE = -65504.0
_UNSUPPORTED = ("softcap", "s_aux", "position_bias", "sliding_window")


class AttentionSites(nn.ModuleDict):
    """Quantizers of one attention: `query`, `key`, `value`, `softmax`, `context`."""


def register_primitive_attention() -> None:
    """Make it known to transformers in this process, under the name `IMPLEMENTATION`."""
    AttentionInterface.register(IMPLEMENTATION, primitive_attention)
    AttentionMaskInterface.register(IMPLEMENTATION, boolean_mask)


def use_primitive_attention(
    backbone: Any, probe: tuple[Tensor, ...], call: Callable[..., object]
) -> bool:
    """Make a transformers model call `primitive_attention`, if it can.

    Args:
        backbone: the transformers model.
        probe: inputs for `call`.
        call: runs the model once.

    Returns:
        False if the architecture has attention code of its own, or needs what
        `primitive_attention` does not do; the model is then set to its own eager attention.
    """
    register_primitive_attention()
    try:
        with quiet_transformers(), torch.no_grad():
            backbone.set_attn_implementation(IMPLEMENTATION)
            call(*probe)
    except (ValueError, AttributeError, ImportError, ModelError):
        used = False
    else:
        used = bool(attention_modules(backbone, probe, call))
    if not used:
        backbone.set_attn_implementation("eager")
    return used


def attention_modules(
    model: nn.Module, probe: tuple[Tensor, ...], call: Callable[..., object]
) -> list[tuple[str, nn.Module]]:
    """Modules of `model` that call `primitive_attention`, by name, found by running it once."""
    seen: list[nn.Module] = []

    class Recorder(nn.ModuleDict):
        """Stands in for the quantizers and notes whose they would be."""

        def __init__(self, owner: nn.Module) -> None:
            super().__init__()
            self._owner = [owner]

        def __getitem__(self, key: str) -> nn.Module:
            if not any(self._owner[0] is other for other in seen):
                seen.append(self._owner[0])
            return nn.Identity()

    named = [(name, m) for name, m in model.named_modules() if next(m.children(), None) is not None]
    for _, module in named:
        object.__setattr__(module, QUANTIZERS, Recorder(module))
    try:
        with torch.no_grad():
            call(*probe)
    finally:
        for _, module in named:
            object.__delattr__(module, QUANTIZERS)
    return [(name, module) for name, module in named if any(module is s for s in seen)]


def primitive_attention(  # noqa: PLR0913 - the signature is transformers'
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Tensor, None]:
    """softmax(Q K^T * scaling) V with quantizers on Q, K, V, the softmax and the result.

    Args:
        module: the attention module; its quantizers hang on it.
        query: [B, N, S, D].
        key: [B, N or fewer, S, D].
        value: [B, N or fewer, S, D].
        attention_mask: bool (True = attend) or additive float, broadcastable to [B, N, S, S].
        scaling: default 1/sqrt(D). Applied to Q, in front of its quantizer.
        dropout: ignored (inference).
        options: what else transformers passes.

    Returns:
        [B, S, N, D] and None (no attention weights).
    """
    used = [name for name in _UNSUPPORTED if options.get(name) is not None]
    if used:
        raise ModelError(
            f"{type(module).__name__} uses {', '.join(used)}",
            wanted="plain scaled dot-product attention",
            todo="export the model to ONNX and pass the .onnx file",
        )
    sites: AttentionSites | None = getattr(module, QUANTIZERS, None)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    query = query * (query.size(-1) ** -0.5 if scaling is None else scaling)
    scores = torch.matmul(_at(sites, "query", query), _at(sites, "key", key).transpose(2, 3))
    if attention_mask is not None:
        if attention_mask.dtype == torch.bool:
            scores = torch.where(attention_mask, scores, torch.full((), MASKED_SCORE))
        else:
            scores = scores + attention_mask
    weights = _at(sites, "softmax", nn.functional.softmax(scores, dim=-1))
    context = torch.matmul(weights, _at(sites, "value", value))
    return _at(sites, "context", context).transpose(1, 2).contiguous(), None


def _at(sites: AttentionSites | None, site: str, tensor: Tensor) -> Tensor:
    if sites is None:
        return tensor
    quantized: Tensor = sites[site](tensor)
    return quantized


def boolean_mask(*args: Any, **options: Any) -> Tensor | None:
    """Attention mask as bool: [B, 1, 1, S] for plain padding, else what transformers' SDPA builds.

    The small form keeps the mask a per-key vector in the engine.
    """
    padding: Tensor | None = options.get("attention_mask")
    if padding is not None and options.get("mask_function") is bidirectional_mask_function:
        return padding[:, None, None, :].to(torch.bool)
    options.update(allow_is_causal_skip=False, allow_is_bidirectional_skip=False)
    mask: Tensor | None = sdpa_mask(*args, **options)
    return mask
