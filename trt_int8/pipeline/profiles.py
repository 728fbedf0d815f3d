"""Which optimization profiles the engines get."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from trt_int8.annotate.guard import AttentionGuard, sizes_of
from trt_int8.model.inputs import ModelInput, graph_inputs, token_axes
from trt_int8.model.onnx_matmuls import comes_from_dequantize, find_attentions
from trt_int8.pipeline.data import PreparedModel
from trt_int8.pipeline.options import BuildOptions, InputOptions
from trt_int8.plugins.attention import HEAD_DIMS
from trt_int8.spec.profiles import (
    fusion_cuts,
    longest_to_fuse,
    profile_labels,
    rebind,
    sequence_range,
    split_sequence,
)
from trt_int8.spec.rules import PlacementNote
from trt_int8.spec.shapes import Profile

_NAMED = 3


@dataclass(frozen=True)
class ChosenProfiles:
    """The optimization profiles of a build.

    Attributes:
        profiles: sizes of every input, per profile.
        labels: a name for each.
        notes: what was decided and not asked for.
    """

    profiles: tuple[Profile, ...]
    labels: tuple[str, ...]
    notes: tuple[str, ...] = ()


def guard_of(
    options: InputOptions, bound: Profile, inputs: Iterable[ModelInput]
) -> AttentionGuard | None:
    """What attention has to fit to be worth INT8; None if no engine is built.

    Args:
        options: knows the targets and the profiles asked for.
        bound: sizes of the inputs, in the range around all profiles.
        inputs: of the model. Without a token axis among them (images) the length of its
            attention is not known here, and only the head size counts.
    """
    if not options.sms:
        return None
    whole = sequence_range(bound, token_axes(inputs))
    ranges = [whole] if whole is not None else []
    if whole is not None and options.shapes is not None and options.shapes.parts:
        ranges = [part["seq"] for part in options.shapes.parts if "seq" in part] or ranges
    heads = HEAD_DIMS if options.plugin_attention else ()
    return AttentionGuard(options.sms, longest_to_fuse(ranges), heads)


def plan_notes(notes: Iterable[PlacementNote]) -> tuple[str, ...]:
    """One sentence per reason, with the nodes that it is for."""
    nodes: dict[str, list[str]] = {}
    for note in notes:
        nodes.setdefault(note.reason, []).append(note.node)
    return tuple(
        f"{len(names)} not in INT8, {reason}: {', '.join(names[:_NAMED])}"
        + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
        for reason, names in nodes.items()
    )


def choose_profiles(
    prepared: PreparedModel, options: BuildOptions, int8: onnx.ModelProto | None = None
) -> ChosenProfiles:
    """The profiles asked for; a single one is split where that keeps INT8 attention one kernel.

    TensorRT compiles each profile by itself, for its largest S: in one profile up to 512 tokens
    the short texts too would lose the fused kernel that a profile up to 384 has.

    Args:
        prepared: both twins, and the sizes of their inputs in the range around all profiles.
        options: targets and shapes.
        int8: the twin with plugin nodes, if TensorRT runs them: these take any length.
    """
    inputs = graph_inputs(prepared.fp32)
    tokens = token_axes(inputs)
    if options.shapes is not None and options.shapes.parts:
        parts = options.shapes.profiles()
        axes = {each.name: each.axes for each in inputs}
        profiles = tuple(rebind(prepared.shapes, axes, part) for part in parts)
        return ChosenProfiles(profiles, profile_labels(profiles, tokens))
    whole = sequence_range(prepared.shapes, tokens)
    # The calibrator of implicit INT8 knows one shape, and TensorRT places INT8 by itself.
    if whole is None or options.implicit_int8 is not None:
        return ChosenProfiles((prepared.shapes,), ("",))
    head_dims = int8_head_dims(int8 if int8 is not None else prepared.int8)
    cuts = fusion_cuts(head_dims, options.sms, whole.opt, whole.max)
    profiles = split_sequence(prepared.shapes, tokens, cuts)
    labels = profile_labels(profiles, tokens)
    return ChosenProfiles(profiles, labels, (_why_split(labels, cuts),) if cuts else ())


def int8_head_dims(model: onnx.ModelProto) -> frozenset[int]:
    """D of each attention whose two BMMs are quantized; one of unknown D is left out."""
    attentions = [
        each
        for each in find_attentions(ir.from_proto(model).graph)
        if all(
            comes_from_dequantize(value)
            for node in (each.scores, each.context)
            for value in node.inputs[:2]
        )
    ]
    sizes = sizes_of(model, attentions)
    dims = {dim for size in sizes for dim in (size.key_dim, size.value_dim)}
    return frozenset(dim for dim in dims if dim is not None)


def _why_split(labels: tuple[str, ...], cuts: tuple[int, ...]) -> str:
    return (
        f"the profile is split into {' | '.join(labels)}: INT8 attention is one kernel up to"
        f" {' or '.join(map(str, cuts))} tokens, and a longer profile would lose it for short"
        " texts too"
    )
