"""Attention stays one FP16 kernel where TensorRT has no fused INT8 one for its head size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from trt_int8.model.onnx_matmuls import AttentionSite
from trt_int8.model.onnx_shapes import infer_fixed_dims
from trt_int8.spec.attention_limits import shortest_limit


@dataclass(frozen=True)
class AttentionGuard:
    """What the engines will have to serve.

    Attributes:
        sms: compute capabilities times ten; None stands for a card not known yet.
        longest: the longest sequence S of the profile, in tokens.
    """

    sms: tuple[int | None, ...]
    longest: int

    def refusal(self, head_dims: Sequence[int | None]) -> str:
        """Why an attention has to stay FP16; empty if INT8 will be one kernel.

        Args:
            head_dims: D of Q and K, and of V; None where it is not known.
        """
        for head_dim in head_dims:
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


def head_dims_of(
    model: onnx.ModelProto, attentions: Sequence[AttentionSite]
) -> tuple[tuple[int | None, int | None], ...]:
    """D of Q and K, and of V, for each attention; None where shape inference finds none.

    Args:
        model: float graph in normal form.
        attentions: of that graph.
    """
    shapes = infer_fixed_dims(model)

    def size(value: ir.Value | None, axis: int) -> int | None:
        dims = shapes.get(str(value.name), ()) if value is not None else ()
        return dims[axis] if len(dims) >= -axis else None

    return tuple(
        (
            size(each.scores.inputs[0], -1) or size(each.scores.inputs[1], -2),
            size(each.context.inputs[1], -1) or size(each.context.outputs[0], -1),
        )
        for each in attentions
    )
