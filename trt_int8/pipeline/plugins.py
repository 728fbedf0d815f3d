"""Plugins in a build: which families, the fused INT8 twin, and what the bundle says of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx

from trt_int8 import optional
from trt_int8.annotate.guard import AttentionGuard
from trt_int8.engine.flavour import MODULE_OF
from trt_int8.engine.plugins import check_support
from trt_int8.errors import PluginError
from trt_int8.graph.plugin_nodes import FusedGraph, fuse_plugins
from trt_int8.graph.plugin_variants import inline_plugins, strip_bodies
from trt_int8.model.inputs import graph_inputs
from trt_int8.pipeline.data import PreparedModel
from trt_int8.pipeline.options import BuildOptions
from trt_int8.pipeline.plugin_kernels import compiled_variants
from trt_int8.pipeline.profiles import guard_of
from trt_int8.plugins.compile import source_sha256
from trt_int8.plugins.signatures import PLUGIN_VERSION, signature_named
from trt_int8.plugins.sources import source_of
from trt_int8.spec.build import Flavour
from trt_int8.spec.plugins import AUTO, PluginEntry, PluginFamily, named_families
from trt_int8.spec.rules import PlacementNote

_NAMED = 3


@dataclass(frozen=True)
class ChosenPlugins:
    """What the setting `plugins` means for a build.

    Attributes:
        families: whose parts become plugin nodes.
        is_auto: attention alone, where TensorRT has no INT8 kernel of its own.
        notes: sentences for the report.
    """

    families: frozenset[PluginFamily] = frozenset()
    is_auto: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class FusedTwin:
    """The INT8 twin with plugin nodes.

    Attributes:
        model: goes into the bundle.
        engine_path: the file that TensorRT reads instead; None for the bundle's own.
        entries: for the manifest.
        uses_plugins: the file at `engine_path` calls plugins.
        notes: sentences for the report.
    """

    model: onnx.ModelProto
    engine_path: Path | None = None
    entries: tuple[PluginEntry, ...] = ()
    uses_plugins: bool = False
    notes: tuple[str, ...] = ()


def choose_plugins(setting: str, flavour: Flavour) -> ChosenPlugins:
    """Decide before any work which plugins a build may use.

    Raises:
        PluginError: plugins are named, and the TensorRT that is to run them cannot.
        MissingPackageError: that TensorRT is not installed.
    """
    named = named_families(setting)
    if setting != AUTO:
        if named and flavour is Flavour.TENSORRT:
            check_support(optional.load(MODULE_OF[flavour]))
        return ChosenPlugins(named)
    if flavour is Flavour.RTX:
        return ChosenPlugins(is_auto=True)
    try:
        check_support(optional.load(MODULE_OF[flavour]))
    except PluginError as error:
        return ChosenPlugins(is_auto=True, notes=(f"no plugins: {error.came}",))
    return ChosenPlugins(frozenset({"attention"}), is_auto=True)


def fuse_twin(
    int8: onnx.ModelProto,
    chosen: ChosenPlugins,
    prepared: PreparedModel,
    options: BuildOptions,
    work: Path,
) -> FusedTwin:
    """Make plugin nodes of the INT8 twin, and the file that TensorRT builds from.

    Args:
        int8: the FP16 twin with Q/DQ.
        chosen: which plugins.
        prepared: the model.
        options: of the build, with the flavour resolved.
        work: folder for the second file.

    Returns:
        `int8` as it is where TensorRT places INT8 by itself.
    """
    flavour = Flavour(options.flavour)
    if options.implicit_int8 is not None:
        ignored = "no plugins: with --implicit-int8 TensorRT places INT8 by itself"
        return FusedTwin(int8, notes=(ignored,) if chosen.families else ())
    native = guard_of(options, prepared.shapes, graph_inputs(prepared.fp32))
    fused = fuse_plugins(int8, chosen.families, native if chosen.is_auto else None)
    notes = (*chosen.notes, *_notes(fused, chosen, flavour, prepared.placement))
    if flavour is Flavour.RTX and "attention" in chosen.families and native is not None:
        notes += _unfused(int8, native)
    if not fused.calls:
        return FusedTwin(int8, notes=notes)
    is_rtx = flavour is Flavour.RTX
    path = work / "model.int8.engine.onnx"
    onnx.save(inline_plugins(fused.model) if is_rtx else strip_bodies(fused.model), str(path))
    sms = () if is_rtx else options.sms
    return FusedTwin(fused.model, path, plugin_entries(fused, sms), not is_rtx, notes)


def plugin_entries(fused: FusedGraph, sms: Iterable[int | None]) -> tuple[PluginEntry, ...]:
    """What the manifest says of the plugins of a graph.

    Args:
        fused: the graph.
        sms: targets that its kernels are compiled for; none where TensorRT runs no plugin.
    """
    variants = compiled_variants(fused.model, tuple(sms))
    return tuple(
        PluginEntry(
            id=signature_named(name).plugin_id,
            version=PLUGIN_VERSION,
            nodes=count,
            source_sha256=source_sha256(source_of(signature_named(name))),
            variants=variants.get(name, ()),
        )
        for name, count in sorted(fused.counts().items())
    )


def _notes(
    fused: FusedGraph,
    chosen: ChosenPlugins,
    flavour: Flavour,
    placement: Iterable[PlacementNote],
) -> list[str]:
    families = Counter(signature.family for _, signature in fused.calls)
    notes = []
    if families:
        counts = ", ".join(f"{count} {family}" for family, count in families.items())
        why = "where TensorRT has no INT8 kernel of its own" if chosen.is_auto else "as asked for"
        runs = (
            "TensorRT-RTX runs none and builds the operators they stand for"
            if flavour is Flavour.RTX
            else "not timed on a GPU; coverage leaves them out, and accuracy is that of the"
            " operators they stand for"
        )
        notes.append(f"plugin nodes: {counts}, {why}; {runs}")
    notes += _left_alone(fused.notes, chosen)
    left = any(note.rule == "attention-limits" for note in placement)
    if chosen.is_auto and flavour is Flavour.RTX and left:
        notes.append(
            "no plugins: TensorRT-RTX runs none, so attention without an INT8 kernel stays FP16"
        )
    return notes


def _unfused(int8: onnx.ModelProto, native: AttentionGuard) -> tuple[str, ...]:
    """What TensorRT-RTX makes of attentions that were quantized for a plugin."""
    attention: frozenset[PluginFamily] = frozenset({"attention"})
    count = len(fuse_plugins(int8, attention, native).calls)
    if not count:
        return ()
    return (
        f"{count} of these attentions are several kernels in TensorRT-RTX, which fuses none of"
        " their size in INT8: --plugins auto leaves them FP16, one kernel each",
    )


def _left_alone(notes: Iterable[PlacementNote], chosen: ChosenPlugins) -> list[str]:
    """One sentence per reason, with the nodes that it is for."""
    nodes: dict[str, list[str]] = {}
    for note in notes:
        nodes.setdefault(note.reason, []).append(note.node)
    then = " (its INT8 matmuls run as separate kernels)" if chosen.is_auto else ""
    return [
        f"no plugin for {len(names)}: {reason}{then}: {', '.join(names[:_NAMED])}"
        + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
        for reason, names in nodes.items()
    ]
