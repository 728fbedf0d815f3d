"""Which parts of a graph become plugin nodes: the setting `plugins`, and what a bundle records."""

from __future__ import annotations

from typing import Final, Literal, cast

from trt_int8.errors import RecipeError
from trt_int8.spec.base import Frozen

PluginFamily = Literal["attention", "layernorm", "gelu"]
PLUGIN_FAMILIES: Final[tuple[PluginFamily, ...]] = ("attention", "layernorm", "gelu")
AUTO, OFF = "auto", "off"


def parse_plugins(text: str) -> str:
    """Check the setting `plugins`, and bring it to one form.

    Args:
        text: `auto`, `off`, or names of families with commas between.

    Returns:
        `auto`, `off`, or the families in the order of `PLUGIN_FAMILIES`.

    Raises:
        RecipeError: naming what is unknown.
    """
    names = [name.strip() for name in text.split(",")]
    if names in ([AUTO], [OFF]):
        return names[0]
    unknown = [name for name in names if name not in PLUGIN_FAMILIES]
    if unknown:
        alone = unknown[0] in (AUTO, OFF)
        raise RecipeError(
            f"plugins {text!r}: {unknown[0]!r} "
            + ("stands with other names" if alone else "is unknown"),
            wanted=f"{AUTO} or {OFF} alone, or any of {', '.join(PLUGIN_FAMILIES)}",
            todo="correct --plugins, or the recipe's setting",
        )
    return ",".join(name for name in PLUGIN_FAMILIES if name in names)


def named_families(setting: str) -> frozenset[PluginFamily]:
    """The families that a setting names; none for `auto` and `off`."""
    if setting in (AUTO, OFF):
        return frozenset()
    return frozenset(cast(PluginFamily, name) for name in setting.split(","))


class PluginVariant(Frozen):
    """One compilation of a plugin's kernel.

    Attributes:
        sm: compute capability times ten that the PTX is for.
        defines: compile-time choices of the kernel, by name.
        ptx_sha256: hash of the PTX text.
    """

    sm: int
    defines: dict[str, int]
    ptx_sha256: str


class PluginEntry(Frozen):
    """One plugin that nodes of a bundle's INT8 graph call.

    Attributes:
        id: name in TensorRT, such as `trt_int8::int8_attention`.
        version: as registered.
        nodes: how many nodes call it.
        source_sha256: hash of its CUDA source with all it includes.
        variants: what was compiled for the targets; none where nothing was compiled.
    """

    id: str
    version: str
    nodes: int
    source_sha256: str
    variants: tuple[PluginVariant, ...] = ()
