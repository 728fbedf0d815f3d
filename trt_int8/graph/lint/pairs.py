"""Checks of pairs among each other: shared, repeated, on both arms of a sum, unused."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from trt_int8.graph.lint.check import Check, Hit
from trt_int8.graph.lint.placement import GUIDE
from trt_int8.graph.lint.plugins import is_own_plugin
from trt_int8.graph.lint.view import (
    DEQUANTIZE,
    MATMULS,
    PASS,
    QUANTIZE,
    GraphView,
    activation_source,
    dequantizer_behind,
    is_kind,
    maker,
    name_of,
    past_layout,
    same_scale,
    source,
    users,
    weight_behind,
)
from trt_int8.spec.lint import CheckInfo


def _concat(view: GraphView) -> Iterator[Hit]:
    for node in view.of("Concat"):
        found = [dequantizer_behind(value) for value in node.inputs]
        behind = [dq for dq in found if dq is not None]
        if len(behind) < 2 or not _feeds_matmul(node):
            continue
        if len(behind) < len(found):
            yield Hit(name_of(node), f"{len(found) - len(behind)} of its inputs have no Q/DQ")
        elif not all(same_scale(behind[0], other) for other in behind[1:]):
            yield Hit(name_of(node), f"its {len(found)} inputs have other scales")


def _feeds_matmul(node: ir.Node) -> bool:
    return any(is_kind(user, *MATMULS) for user in users(node.outputs[0]))


def _both_arms(view: GraphView) -> Iterator[Hit]:
    for node in view.of("Add"):
        arms = [dequantizer_behind(source(node, index)) for index in (0, 1)]
        if all(dq is not None and activation_source(dq) is not None for dq in arms):
            yield Hit(name_of(node), "both arms of this residual sum have Q/DQ")


def _many_pairs(view: GraphView) -> Iterator[Hit]:
    by_source: dict[int, list[ir.Node]] = {}
    for node in view.of(QUANTIZE):
        value = source(node, 0)
        start = maker(value)
        while start is not None and is_kind(start, "Cast"):
            value, start = source(start, 0), maker(source(start, 0))
        if value is not None and not value.is_initializer():
            by_source.setdefault(id(value), []).append(node)
    for nodes in by_source.values():
        if len(nodes) > 1:
            equal = all(same_scale(nodes[0], other) for other in nodes[1:])
            text = f"its input is quantized {len(nodes)} times, with "
            text += "the same scale" if equal else "other scales"
            yield Hit(name_of(nodes[0]), text, fixable=equal)


def _twice(view: GraphView) -> Iterator[Hit]:
    contexts = [attention.context for attention in view.attentions]
    for node in view.of(QUANTIZE):
        before = dequantizer_behind(source(node, 0))
        if before is None or weight_behind(source(node, 0)) is not None:
            continue
        equal = same_scale(before, node)
        text = f"it quantizes again what {name_of(before)} dequantized, with "
        text += "the same scale" if equal else "another scale"
        # The pair on an attention output is what lets the attention fuse, so it must not go: the
        # second one costs a kernel and a rounding, until both have one scale.
        needed = past_layout(activation_source(before)) in contexts
        yield Hit(name_of(node), text, "info" if needed else None, fixable=equal)


def _without_matmul(view: GraphView) -> Iterator[Hit]:
    for node in view.of(DEQUANTIZE):
        if activation_source(node) is None:
            continue
        kinds = {u.op_type for u in users(node.outputs[0], through=PASS | {"Concat", "Slice"})}
        kinds |= {"Split"} if _reaches_split(node) else set()
        if not kinds & {*MATMULS, "Conv", "Add", QUANTIZE, "Mul", "Div", "Split", "Softmax"}:
            others = ", ".join(sorted(kinds)) or "nothing"
            yield Hit(name_of(node), f"its users are {others}")


def _reaches_split(node: ir.Node) -> bool:
    return any(is_kind(user, "Split") for user in users(node.outputs[0]))


def _bare_quantizer(view: GraphView) -> Iterator[Hit]:
    for node in view.of(QUANTIZE):
        if node.outputs[0].is_graph_output():
            yield Hit(name_of(node), "its codes are an output of the graph")
            continue
        others = [u for u in users(node.outputs[0]) if not _may_read_codes(u)]
        if others:
            text = f"{name_of(others[0])} ({others[0].op_type}) reads its codes"
            yield Hit(name_of(node), text)


def _may_read_codes(node: ir.Node) -> bool:
    """A DQ, a Shape, which reads no numbers, or a plugin that computes with codes."""
    return is_kind(node, DEQUANTIZE, "Shape") or is_own_plugin(node)


CHECKS = (
    Check(
        CheckInfo(
            id="concat-scales",
            severity="warning",
            what="a Concat in front of a MatMul whose inputs have other scales, or none",
            reason="no common scale is left behind it: TensorRT-RTX multiplies in half (seen in "
            "the plan)",
            mend="give all inputs the largest scale, or put one pair behind the Concat",
        ),
        _concat,
    ),
    Check(
        CheckInfo(
            id="residual-both-arms",
            severity="warning",
            what="a residual sum with Q/DQ on both arms",
            reason=f"the main arm then leaves the GEMM in int8 and is rounded once more ({GUIDE}: "
            "quantize the skip arm, leave the other to the GEMM's epilogue)",
            mend="take the pair off the arm that comes from the GEMM",
        ),
        _both_arms,
    ),
    Check(
        CheckInfo(
            id="pair-per-consumer",
            severity="warning",
            what="a tensor quantized several times: per consumer, or the residual on its own",
            reason="other scales cost a kernel each (seen in the plan) and round differently",
            mend="one pair, shared by all consumers (Q, K, V, FFN, residual)",
            fixable=True,
        ),
        _many_pairs,
    ),
    Check(
        CheckInfo(
            id="requantized",
            severity="warning",
            what="a pair behind a pair, with nothing but layout between",
            reason="another scale rounds a second time; the same scale only adds nodes",
            mend="keep one of them",
            fixable=True,
        ),
        _twice,
    ),
    Check(
        CheckInfo(
            id="bare-quantize",
            severity="warning",
            what="a Q whose codes are read by anything but a DQ, or leave the graph",
            reason="explicit quantization knows pairs only; few operators take int8 (TensorRT-RTX: "
            "table of integer operators)",
            mend="put a DQ behind it",
        ),
        _bare_quantizer,
    ),
    Check(
        CheckInfo(
            id="pair-without-matmul",
            severity="info",
            what="a pair whose users are no matmuls",
            reason="rounding without a faster matmul",
            mend="take it out, unless the smaller tensor is what you want",
        ),
        _without_matmul,
    ),
)
