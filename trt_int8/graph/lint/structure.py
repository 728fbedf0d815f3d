"""Checks of the file as a whole: names, functions, control flow, axes, opset, size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import onnx_ir as ir

from trt_int8.graph.lint.check import Check, Hit
from trt_int8.graph.lint.view import GraphView, is_kind, name_of
from trt_int8.graph.opset import MIN_OPSET
from trt_int8.spec.lint import CheckInfo

# Protobuf's limit of one message.
MOST_BYTES = 2**31 - 1
_NAMED_OPS = ("MatMul", "Gemm", "QuantizeLinear", "DequantizeLinear", "Softmax")
_QDQ = ("QuantizeLinear", "DequantizeLinear")


def _unnamed(view: GraphView) -> Iterator[Hit]:
    for name, kind, output in view.facts.node_names:
        if not name and kind in _NAMED_OPS:
            yield Hit(f"node_of_{output}", f"a {kind} without a name")


def _repeated(view: GraphView, *, of_qdq: bool) -> Iterator[Hit]:
    kinds: dict[str, list[str]] = {}
    for name, kind, _ in view.facts.node_names:
        if name:
            kinds.setdefault(name, []).append(kind)
    for name, found in kinds.items():
        if len(found) > 1 and any(kind in _QDQ for kind in found) == of_qdq:
            counts = Counter(found)
            text = ", ".join(f"{count} {kind}" for kind, count in counts.items())
            yield Hit(name, f"the name of {text}")


def _repeated_qdq(view: GraphView) -> Iterator[Hit]:
    yield from _repeated(view, of_qdq=True)


def _repeated_others(view: GraphView) -> Iterator[Hit]:
    yield from _repeated(view, of_qdq=False)


def _called_twice(view: GraphView) -> Iterator[Hit]:
    for function in view.facts.functions:
        if function.has_qdq and function.calls > 1:
            yield Hit(function.name, f"its body has Q/DQ and is called {function.calls} times")


def _overloads(view: GraphView) -> Iterator[Hit]:
    for function in view.facts.functions:
        if function.overload:
            yield Hit(function.name, f"overload {function.overload!r}")


def _control_flow(view: GraphView) -> Iterator[Hit]:
    kinds = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    for node in view.nodes:
        if any(attribute.type in kinds for attribute in node.attributes.values()):
            yield Hit(name_of(node), f"{node.op_type} holds a sub-graph")


def _fixed_axes(view: GraphView) -> Iterator[Hit]:
    for value in view.graph.inputs:
        shape = value.shape
        if shape is not None and len(shape) and all(isinstance(dim, int) for dim in shape):
            yield Hit(str(value.name), f"all its axes are fixed: {list(shape)}")


def _old_opset(view: GraphView) -> Iterator[Hit]:
    if view.facts.opset < MIN_OPSET:
        named = f"opset {view.facts.opset}" if view.facts.opset else "no opset"
        yield Hit("", f"the file names {named}")


def _too_large(view: GraphView) -> Iterator[Hit]:
    if view.facts.total_bytes > MOST_BYTES:
        yield Hit("", f"{view.facts.total_bytes / 2**30:.1f} GiB with its external data")


def _nothing_quantized(view: GraphView) -> Iterator[Hit]:
    if not view.has_qdq and any(is_kind(node, "MatMul", "Gemm") for node in view.nodes):
        count = len(view.of("MatMul", "Gemm"))
        yield Hit("", f"{count} matmuls, no Q/DQ")


CHECKS = (
    Check(
        CheckInfo(
            id="repeated-qdq-name",
            severity="error",
            what="Q or DQ nodes that share a name",
            reason="parsing fails: `Failed attempt to rename a layer … as the new name is already "
            "in use` (seen with TensorRT-RTX 1.7)",
            mend="give every node its own name",
            fixable=True,
        ),
        _repeated_qdq,
    ),
    Check(
        CheckInfo(
            id="function-called-twice",
            severity="error",
            what="a local function with Q/DQ in its body that is called more than once",
            reason="parsing fails: the second copy's Q/DQ cannot take the names of the first "
            "(TensorRT-RTX 1.7)",
            mend="inline it, or write one function per call with unique node names",
            fixable=True,
        ),
        _called_twice,
    ),
    Check(
        CheckInfo(
            id="function-overload",
            severity="error",
            what="local functions told apart by their overload",
            reason="TensorRT's parser looks a function up by its name alone, so another body runs",
            mend="inline them, or name them differently",
            fixable=True,
        ),
        _overloads,
    ),
    Check(
        CheckInfo(
            id="old-opset",
            severity="warning",
            what="an opset below 13",
            reason="DequantizeLinear has an axis (a scale per output channel) from 13 on",
            mend="export with opset 17",
            fixable=True,
        ),
        _old_opset,
    ),
    Check(
        CheckInfo(
            id="control-flow",
            severity="warning",
            what="Loop, If and Scan",
            reason="TensorRT-RTX builds them, INT8 in the body too, but a graph with them is not "
            "calibrated or brought to normal form here, and no attention inside is judged",
            mend="export the model with fixed control flow",
        ),
        _control_flow,
    ),
    Check(
        CheckInfo(
            id="too-large",
            severity="warning",
            what="a model over 2 GB",
            reason="protobuf holds at most 2 GB in one message: such a model cannot be checked, "
            "mended or written in one piece",
            mend="keep the weights as external data, and quantize before you merge",
        ),
        _too_large,
    ),
    Check(
        CheckInfo(
            id="unnamed-node",
            severity="warning",
            what="a matmul, softmax, Q or DQ without a name",
            reason="no kernel of the engine can be traced back to it: coverage says `unmapped`",
            mend="give every node its own name",
            fixable=True,
        ),
        _unnamed,
    ),
    Check(
        CheckInfo(
            id="repeated-name",
            severity="warning",
            what="nodes that share a name",
            reason="the engine's kernels cannot be traced back to one of them, and ONNX Runtime "
            "refuses the file",
            mend="give every node its own name",
            fixable=True,
        ),
        _repeated_others,
    ),
    Check(
        CheckInfo(
            id="fixed-axes",
            severity="info",
            what="an input whose axes are all fixed",
            reason="the engine serves this one size; shorter texts pay for padding",
            mend="export with dynamic batch and sequence axes, if sizes vary",
        ),
        _fixed_axes,
    ),
    Check(
        CheckInfo(
            id="nothing-quantized",
            severity="info",
            what="a float model",
            reason="TensorRT 11 and TensorRT-RTX take INT8 from Q/DQ alone; a calibration cache "
            "beside a float Transformer is ignored by Myelin before that, without a word",
            mend="trt-int8 build --model FILE quantizes it",
        ),
        _nothing_quantized,
    ),
)
