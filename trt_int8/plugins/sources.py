"""Which CUDA source a plugin's kernel is in."""

from __future__ import annotations

from typing import Final

from trt_int8.plugins import attention, gelu, layernorm
from trt_int8.plugins.signatures import PluginSignature
from trt_int8.spec.plugins import PluginFamily

_SOURCES: Final[dict[PluginFamily, str]] = {
    "attention": attention.SOURCE,
    "layernorm": layernorm.SOURCE,
    "gelu": gelu.SOURCE,
}


def source_of(signature: PluginSignature) -> str:
    """The CUDA source of a plugin, by its name in `kernel_folder()`."""
    return _SOURCES[signature.family]
