"""Head sizes of the attentions of a PyTorch model, seen while it runs once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trt_int8.annotate.attention import QUANTIZERS, AttentionSites


class _Watcher(nn.Module):
    """Notes the last size of what passes through."""

    def __init__(self) -> None:
        super().__init__()
        self.size: int | None = None

    def forward(self, tensor: Tensor) -> Tensor:
        self.size = int(tensor.shape[-1])
        return tensor


def attention_head_dims(
    model: nn.Module,
    probe: tuple[Tensor, ...],
    attentions: Sequence[tuple[str, nn.Module]],
) -> dict[str, tuple[int | None, int | None]]:
    """D of Q and K, and of V, by module name; None for what the probe did not reach.

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
    return {name: (query.size, value.size) for name, (query, value) in watched.items()}
