"""Checks of the size of an attention: the fused INT8 kernel holds some only."""

from __future__ import annotations

from collections.abc import Iterator

from trt_int8.graph.lint.attention import missing_sites
from trt_int8.graph.lint.check import Check, Hit
from trt_int8.graph.lint.view import GraphView, name_of, shape_of, source
from trt_int8.model.onnx_matmuls import AttentionSite
from trt_int8.spec.attention_limits import FEWEST_HEADS, longest_int8_attention
from trt_int8.spec.lint import CheckInfo

# An attention with this many of its five sites missing was not meant to run INT8.
_MOST_MISSING = 2


def is_meant(attention: AttentionSite) -> bool:
    """Tell whether it has Q/DQ on most of its five sites."""
    return len(missing_sites(attention)) <= _MOST_MISSING


def head_size(attention: AttentionSite) -> int | None:
    """D: the summed axis of the first matmul; None if it is not known."""
    for node, index, axis in ((attention.scores, 0, -1), (attention.context, 1, -1)):
        shape = shape_of(source(node, index))
        size = shape[axis] if shape else None
        if isinstance(size, int):
            return size
    return None


def longest_key(view: GraphView, attention: AttentionSite) -> int:
    """The largest T (keys) of an attention under the shape profile; 0 if it is not known."""
    shape = shape_of(attention.scores.outputs[0])
    size = shape[-1] if shape else None
    if isinstance(size, int):
        return size
    found = view.goal.shapes.of(size) if size else None
    found = found or view.goal.shapes.of("seq")
    return found.max if found is not None else 0


def _too_long(view: GraphView) -> Iterator[Hit]:
    for attention in view.attentions:
        head = head_size(attention)
        if head is None or not is_meant(attention):
            continue
        limits = {sm: longest_int8_attention(head, sm) for sm in view.goal.sms}
        short = [sm for sm, limit in limits.items() if 0 < limit < longest_key(view, attention)]
        if short:
            texts = [f"{limits[sm]} on SM{sm}" for sm in short]
            longest = longest_key(view, attention)
            text = f"head size {head}: up to {longest} tokens, fuses up to {', '.join(texts)}"
            yield Hit(name_of(attention.softmax), text)


def _odd_head(view: GraphView) -> Iterator[Hit]:
    for attention in view.attentions:
        head = head_size(attention)
        if head is None or not is_meant(attention):
            continue
        if all(longest_int8_attention(head, sm) == 0 for sm in view.goal.sms):
            yield Hit(name_of(attention.softmax), f"its head size is {head}")


def _one_head(view: GraphView) -> Iterator[Hit]:
    for attention in view.attentions:
        shape = shape_of(attention.scores.outputs[0])
        heads = shape[1] if shape and len(shape) == 4 else None
        if isinstance(heads, int) and heads < FEWEST_HEADS and is_meant(attention):
            yield Hit(name_of(attention.softmax), "it has a single head")


CHECKS = (
    Check(
        CheckInfo(
            id="attention-length",
            severity="warning",
            what="a profile longer than the fused INT8 kernel holds",
            reason="the kernel keeps a row of K and V on chip, and the largest S of the profile "
            "decides: beyond, two int8 matmuls and a softmax (read from plans)",
            mend="pass shorter --shapes (one engine per length), or leave attention in half",
        ),
        _too_long,
    ),
    Check(
        CheckInfo(
            id="attention-head-size",
            severity="warning",
            what="Q/DQ on an attention whose head size is not 16, 32 or 64",
            reason="40, 48, 80, 96, 128 and 256 never fused as INT8, in half all but odd ones do "
            "(TensorRT-RTX plans; TensorRT 8.6 to 10 document 16, 32, 64)",
            mend="leave the attention in half: it fuses there",
        ),
        _odd_head,
    ),
    Check(
        CheckInfo(
            id="attention-one-head",
            severity="warning",
            what="Q/DQ on an attention with a single head",
            reason="head sizes 32 and 64 with one head did not fuse as INT8, with two they did "
            "(TensorRT-RTX 1.7 plans)",
            mend="leave the attention in half",
        ),
        _one_head,
    ),
)
