"""Sizes of the attentions of a PyTorch model, seen while it runs once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trt_int8.annotate.attention import QUANTIZERS, AttentionSites
from trt_int8.annotate.guard import AttentionSize


class _Watcher(nn.Module):
    """Notes N and D of what passes through, [B, N, S, D]."""

    def __init__(self) -> None:
        super().__init__()
        self.heads: int | None = None
        self.head_dim: int | None = None

    def forward(self, tensor: Tensor) -> Tensor:
        self.heads, self.head_dim = int(tensor.shape[1]), int(tensor.shape[-1])
        return tensor


def attention_sizes(
    model: nn.Module,
    probe: tuple[Tensor, ...],
    attentions: Sequence[tuple[str, nn.Module]],
) -> dict[str, AttentionSize]:
    """The sizes by module name; nothing is known of what the probe did not reach.

    Args:
        model: called with `probe` once; left as it was.
        probe: inputs for one forward pass.
        attentions: modules that call `primitive_attention` and have no quantizers yet, by name.
    """
    watched: dict[str, tuple[_Watcher, _Watcher]] = {}
    for name, module in attentions:
        watched[name] = (_Watcher(), _Watcher())
        query, value = watched[name]
        others = {site: nn.Identity() for site in ("key", "softmax", "context")}
        sites = AttentionSites({"query": query, "value": value, **others})
        object.__setattr__(module, QUANTIZERS, sites)
    try:
        with torch.no_grad():
            model(*probe)
    finally:
        for _, module in attentions:
            object.__delattr__(module, QUANTIZERS)
    return {
        name: AttentionSize(query.head_dim, value.head_dim, query.heads)
        for name, (query, value) in watched.items()
    }
