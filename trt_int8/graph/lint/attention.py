"""Checks of attention: all five Q/DQ sites or none, in the right places."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import onnx_ir as ir

from trt_int8.graph.lint.check import Check, Hit
from trt_int8.graph.lint.view import (
    PASS,
    QUANTIZE,
    GraphView,
    dequantizer_behind,
    dtype_of,
    is_kind,
    maker,
    name_of,
    scale_of,
    source,
    users,
)
from trt_int8.model.onnx_matmuls import AttentionSite
from trt_int8.numerics import QMAX
from trt_int8.spec.lint import CheckInfo
from trt_int8.spec.rules import ATTENTION_SITES

_FUSED_OPS = ("Attention", "MultiHeadAttention", "GroupQueryAttention", "TRT_QuantizedAttention")
_MASK_OPS = ("Add", "Sub", "Where", "Max", "Min")
_BETWEEN = (*_MASK_OPS, "Mul", "Div", "Clip", *sorted(PASS), "QuantizeLinear", "DequantizeLinear")
_MAX_STEPS = 32
# Rotary positions put some 20 nodes between a projection and its matmul.
_MOST_NODES = 200
_INDICES = (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL)
# How near to 1/127 the scale of the softmax output must be to count as that.
_NEAR = 0.01


def missing_sites(attention: AttentionSite) -> tuple[str, ...]:
    """Which of query, key, value, softmax output and attention output have no Q/DQ."""
    behind = {
        "query": source(attention.scores, 0),
        "key": source(attention.scores, 1),
        "softmax": source(attention.context, 0),
        "value": source(attention.context, 1),
    }
    missing = {
        site
        for site, value in behind.items()
        # 1/sqrt(D) may stand behind the DQ: TensorRT-RTX fuses that too.
        if dequantizer_behind(value, over_scaling=site in ("query", "key")) is None
    }
    if not _is_quantized(attention.context.outputs[0]):
        missing.add("context")
    return tuple(site for site in ATTENTION_SITES if site in missing)


def _is_quantized(value: ir.Value) -> bool:
    """Tell whether all that reads a tensor, past casts and layout, is a Q."""
    found = list(users(value))
    return bool(found) and all(is_kind(user, QUANTIZE) for user in found)


def kind_of_gap(missing: tuple[str, ...]) -> str:
    """Which check an attention with these missing sites belongs to; "" for none."""
    left = set(missing)
    if not left or len(left) == len(ATTENTION_SITES):
        return "attention-float" if left else ""
    if {"query", "key"}.isdisjoint(left) and {"softmax", "value"} <= left:
        return "attention-bmm1-only"
    if {"softmax", "value"}.isdisjoint(left) and {"query", "key"} <= left:
        return "attention-bmm2-only"
    if left == {"context"}:
        return "attention-output"
    if left == {"softmax"}:
        return "attention-softmax"
    if left == {"query", "key", "softmax", "value"}:
        return "attention-float"  # the pair on its output is that of the next Linear
    return "attention-operand"


def _gaps(view: GraphView, *, check: str) -> Iterator[Hit]:
    for attention in view.attentions:
        missing = missing_sites(attention)
        if kind_of_gap(missing) != check or (check == "attention-float" and not view.has_qdq):
            continue
        text = "no Q/DQ on its matmuls"
        if check != "attention-float":
            text = f"no Q/DQ on {', '.join(missing)}"
        yield Hit(name_of(attention.softmax), text)


def score_path(attention: AttentionSite) -> tuple[ir.Node, ...]:
    """Nodes from the softmax back to the first matmul, the softmax's side first."""
    path: list[ir.Node] = []
    node: ir.Node = attention.softmax
    for _ in range(_MAX_STEPS):
        before = next((n for v in node.inputs if (n := _towards(v, attention)) is not None), None)
        if before is None or before is attention.scores:
            break
        path.append(before)
        node = before
    return tuple(path)


def _towards(value: ir.Value | None, attention: AttentionSite) -> ir.Node | None:
    """The maker of an operand, if the first matmul is behind it."""
    node, seen = maker(value), set[int]()
    queue = [node]
    while queue:
        current = queue.pop()
        if current is None or id(current) in seen:
            continue
        if current is attention.scores:
            return node
        seen.add(id(current))
        if is_kind(current, *_BETWEEN):
            queue += [maker(v) for v in current.inputs]
    return None


def _scores_before_mask(view: GraphView) -> Iterator[Hit]:
    for attention in view.attentions:
        path = score_path(attention)
        masks = [index for index, node in enumerate(path) if is_kind(node, *_MASK_OPS)]
        pairs = [index for index, node in enumerate(path) if is_kind(node, QUANTIZE)]
        # The path runs backwards: the larger index is nearer to the first matmul.
        if masks and pairs and max(pairs) > min(masks):
            pair, mask = path[max(pairs)], path[min(masks)]
            yield Hit(name_of(pair), f"the scores are quantized before the mask {name_of(mask)}")


def _softmax_scale(view: GraphView) -> Iterator[Hit]:
    for attention in view.attentions:
        dequantizer = dequantizer_behind(source(attention.context, 0))
        scale = scale_of(dequantizer) if dequantizer is not None else None
        if dequantizer is None or scale is None or scale.size != 1:
            continue
        steps = float(np.asarray(scale, np.float64).reshape(-1)[0]) * QMAX
        if steps > 0 and abs(steps - 1) > _NEAR:
            what = "weights above that are cut off" if steps < 1 else "codes stay unused"
            yield Hit(name_of(dequantizer), f"its largest value is {steps:.3g}: {what}")


def _packed(view: GraphView) -> Iterator[Hit]:
    for attention in view.attentions:
        operands = ((attention.scores, 0), (attention.scores, 1), (attention.context, 1))
        reached = [_projections(source(node, index)) for node, index in operands]
        for node in reached[0]:
            if any(node in other for other in reached[1:]) and reached[0][node]:
                text = f"query, key and value of {name_of(attention.softmax)} are cut out of it"
                yield Hit(name_of(node), text)


def _projections(value: ir.Value | None) -> dict[ir.Node, bool]:
    """Quantized Linears that an operand is made from; True if cut by Split or Slice without a Q."""
    found: dict[ir.Node, bool] = {}
    seen: set[tuple[int, bool]] = set()
    queue = [(maker(value), False)]
    while queue and len(seen) < _MOST_NODES:
        node, cut = queue.pop(0)
        if node is None or (id(node), cut) in seen:
            continue
        seen.add((id(node), cut))
        if is_kind(node, "MatMul", "Gemm"):
            if all(dequantizer_behind(source(node, index)) is not None for index in (0, 1)):
                found[node] = found.get(node, False) or cut
        elif not (cut and is_kind(node, "DequantizeLinear")):
            cut = cut or is_kind(node, "Split", "Slice")
            # Shapes and positions are made of other layers' tensors: no way to a projection.
            queue += [(maker(v), cut) for v in node.inputs if dtype_of(v) not in _INDICES]
    return found


def _fused_op(view: GraphView) -> Iterator[Hit]:
    for node in view.nodes:
        if node.op_type in _FUSED_OPS:
            domain = f" of domain {node.domain}" if node.domain else ""
            yield Hit(name_of(node), f"{node.op_type}{domain}")


_UNFUSED = "TensorRT has one fused INT8 attention kernel: INT8 in needs INT8 out"
_ALL_OR_NONE = "Q/DQ on query, key, value, softmax output and attention output, or on none of them"


def _gap(check: str, what: str, reason: str) -> Check:
    fixable = check != "attention-output"
    info = CheckInfo(
        id=check, severity="warning", what=what, reason=reason, mend=_ALL_OR_NONE, fixable=fixable
    )
    return Check(info, partial(_gaps, check=check))


CHECKS = (
    _gap(
        "attention-bmm1-only",
        "Q/DQ on query and key, not on softmax output and value",
        f"{_UNFUSED}; TensorRT-RTX builds two matmuls and a softmax instead (read from plans)",
    ),
    _gap(
        "attention-bmm2-only",
        "Q/DQ on softmax output and value, not on query and key",
        f"{_UNFUSED}; TensorRT-RTX builds two matmuls and a softmax instead (read from plans)",
    ),
    _gap(
        "attention-operand",
        "some of query, key and value without Q/DQ",
        f"{_UNFUSED}; one missing pair splits it and its matmul runs in half (read from plans)",
    ),
    _gap(
        "attention-softmax",
        "no Q/DQ on the softmax output",
        f"{_UNFUSED}; without this pair the second matmul runs in half (read from plans)",
    ),
    _gap(
        "attention-output",
        "no Q on the attention output",
        f"{_UNFUSED}: without Q on the output no kernel fuses on SM75 and SM80 (read from plans)",
    ),
    Check(
        CheckInfo(
            id="scores-before-mask",
            severity="warning",
            what="a pair on the scores in front of the mask",
            reason="the kernel no longer fuses: 103 layers in place of 68 for MiniLM; behind the "
            "mask it does (TensorRT-RTX plans)",
            mend="take the pair out, or move it behind the mask",
        ),
        _scores_before_mask,
    ),
    Check(
        CheckInfo(
            id="packed-projection",
            severity="warning",
            what="packed Q, K, V: one quantized MatMul, cut by Split or Slice in front of Q",
            reason="TensorRT-RTX splits the weight too, multiplies in half and dequantizes the "
            "weight at run time (seen in the plan)",
            mend="one Q/DQ pair on the packed output in front of the Split, or three MatMuls",
        ),
        _packed,
    ),
    Check(
        CheckInfo(
            id="attention-operator",
            severity="warning",
            what="attention as one operator (Attention, MultiHeadAttention)",
            reason="it never runs INT8, on any SM tried; Q/DQ around it become extra kernels "
            "(TensorRT-RTX plans)",
            mend="export attention as MatMul, Softmax, MatMul (in transformers: eager)",
        ),
        _fused_op,
    ),
    Check(
        CheckInfo(
            id="softmax-scale",
            severity="info",
            what="a softmax output scale that is not 1/127",
            reason="weights lie in [0, 1], codes end at 127: 1/127 uses all of them and cuts "
            "nothing; 1/255 cuts off at 0.5",
            mend="set the scale to 1/127, unless your calibration chose this one",
        ),
        _softmax_scale,
    ),
    Check(
        CheckInfo(
            id="attention-float",
            severity="info",
            what="an attention without Q/DQ in a graph that has some",
            reason="its two matmuls run in half, fused; fine if that was the plan",
            mend="to quantize it, Q/DQ on query, key, value, softmax output and attention output",
        ),
        partial(_gaps, check="attention-float"),
    ),
)
