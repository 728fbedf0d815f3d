"""Attention stays one FP16 kernel where TensorRT has no fused INT8 one for its size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from trt_int8.model.onnx_matmuls import AttentionSite
from trt_int8.model.onnx_shapes import infer_fixed_dims
from trt_int8.spec.attention_limits import FEWEST_HEADS, shortest_limit

_BATCH_HEADS_SEQUENCE_DIM = 4


@dataclass(frozen=True)
class AttentionSize:
    """What of an attention's sizes decides; None for what is not known.

    Attributes:
        key_dim: D of Q and K.
        value_dim: D of V.
        heads: N.
    """

    key_dim: int | None
    value_dim: int | None
    heads: int | None = None


@dataclass(frozen=True)
class AttentionGuard:
    """What the engines will have to serve.

    Attributes:
        sms: compute capabilities times ten; None stands for a card not known yet.
        longest: the longest sequence S of the profile, in tokens.
        plugin_head_dims: each D with which a plugin computes what TensorRT does not fuse; ()
            without plugins.
    """

    sms: tuple[int | None, ...]
    longest: int
    plugin_head_dims: tuple[int, ...] = ()

    def refusal(self, size: AttentionSize) -> str:
        """Why an attention has to stay FP16; empty if INT8 will be one kernel, ours or TensorRT's.

        A plugin reads and writes one head size, and takes any length and any number of heads.
        """
        if size.key_dim == size.value_dim and size.key_dim in self.plugin_head_dims:
            return ""
        return self.native_refusal(size)

    def native_refusal(self, size: AttentionSize) -> str:
        """Why TensorRT has no INT8 kernel of its own for an attention; empty if it has one."""
        if size.heads is not None and size.heads < FEWEST_HEADS:
            return "TensorRT has no fused INT8 attention kernel for a single head"
        for head_dim in (size.key_dim, size.value_dim):
            if head_dim is None:
                return "its head size is not known, so a fused INT8 kernel cannot be promised"
            limit = shortest_limit(head_dim, self.sms)
            if limit == 0:
                return f"TensorRT has no fused INT8 attention kernel for head size {head_dim}"
            if limit < self.longest:
                return (
                    f"with head size {head_dim} INT8 attention is one kernel up to {limit} tokens"
                    f" and {self.longest} are asked for"
                )
        return ""


def sizes_of(
    model: onnx.ModelProto, attentions: Sequence[AttentionSite]
) -> tuple[AttentionSize, ...]:
    """The sizes of each attention, by shape inference; N where Q is [B, N, S, D].

    Args:
        model: float graph in normal form.
        attentions: of that graph.
    """
    shapes = infer_fixed_dims(model)

    def dims(value: ir.Value | None) -> tuple[int | None, ...]:
        return shapes.get(str(value.name), ()) if value is not None else ()

    def size(value: ir.Value | None, axis: int) -> int | None:
        return dims(value)[axis] if len(dims(value)) >= -axis else None

    def heads(value: ir.Value | None) -> int | None:
        return dims(value)[1] if len(dims(value)) == _BATCH_HEADS_SEQUENCE_DIM else None

    return tuple(
        AttentionSize(
            key_dim=size(each.scores.inputs[0], -1) or size(each.scores.inputs[1], -2),
            value_dim=size(each.context.inputs[1], -1) or size(each.context.outputs[0], -1),
            heads=heads(each.scores.outputs[0]),
        )
        for each in attentions
    )
