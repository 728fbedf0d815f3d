"""Checks of where Q and DQ stand around Linears, their weights and biases."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from trt_int8.graph.lint.check import Check, Hit
from trt_int8.graph.lint.view import (
    DEQUANTIZE,
    MATMULS,
    QUANTIZE,
    GraphView,
    activation_source,
    array_of,
    dequantizer_behind,
    dtype_of,
    is_kind,
    maker,
    name_of,
    past_layout,
    scale_of,
    shape_of,
    source,
    users,
    weight_behind,
)
from trt_int8.spec.lint import CheckInfo
from trt_int8.spec.rules import is_too_small

_ACTIVATIONS = ("Relu", "Gelu", "Erf", "Tanh", "Sigmoid", "HardSwish", "LeakyRelu", "Elu", "Mish")
_CODES = (ir.DataType.INT8, ir.DataType.UINT8)


def _one_operand(view: GraphView) -> Iterator[Hit]:
    for node in view.of(*MATMULS):
        if id(node) in view.attention_matmuls:
            continue
        found = [dequantizer_behind(source(node, index)) for index in (0, 1)]
        if (found[0] is None) == (found[1] is None):
            continue
        lone = found[0] or found[1]
        index = 0 if found[0] is not None else 1
        weight = lone is not None and activation_source(lone) is None
        what = "its weight" if weight else f"operand {'AB'[index]}"
        fixable = lone is not None and not weight and scale_of(lone) is not None
        yield Hit(name_of(node), f"only {what} has Q/DQ", fixable=fixable)


def _turned_weight(view: GraphView) -> Iterator[Hit]:
    for node in view.of(*MATMULS):
        behind = weight_behind(source(node, 1))
        if behind is None:
            continue
        dequantizer, path = behind
        turned = [n for n in path[: path.index(dequantizer)] if n.op_type == "Transpose"]
        if turned and any(is_kind(n, QUANTIZE) for n in path):
            text = "its weight is float -> Q -> DQ -> Transpose"
            yield Hit(name_of(node), text)


def _too_small(view: GraphView) -> Iterator[Hit]:
    for node in view.of(*MATMULS):
        behind = weight_behind(source(node, 1))
        if behind is None or dequantizer_behind(source(node, 0)) is None:
            continue
        shape = shape_of(source(node, 1))
        if shape is not None and len(shape) == 2:
            k, n = shape
            if isinstance(k, int) and isinstance(n, int) and is_too_small(k, n):
                yield Hit(name_of(node), f"K x N is {k} x {n}")


def _in_epilogue(view: GraphView) -> Iterator[Hit]:
    for node in view.of(DEQUANTIZE):
        made_by = past_layout(activation_source(node))
        if made_by is None:
            continue
        is_sum = is_kind(made_by, "Add") and _is_bias_add(made_by)
        if not (is_kind(made_by, *MATMULS) or is_sum):
            continue
        for user in users(node.outputs[0], through=frozenset({"Cast"})):
            if is_kind(user, "Add") and not is_sum and _is_bias_add(user):
                yield Hit(name_of(node), f"a pair between {name_of(made_by)} and its bias")
            elif _is_activation(user):
                yield Hit(name_of(node), f"a pair between {name_of(made_by)} and {user.op_type}")


def _is_activation(node: ir.Node) -> bool:
    if is_kind(node, *_ACTIVATIONS):
        return True
    # GELU as primitives begins with x / sqrt(2) (or a product) in front of Erf.
    if not is_kind(node, "Div", "Mul"):
        return False
    return any(is_kind(n, "Erf") for n in users(node.outputs[0], through=frozenset({"Cast"})))


def _is_bias_add(node: ir.Node) -> bool:
    """Tell whether it adds a constant vector to a MatMul."""
    inputs = [source(node, index) for index in (0, 1)]
    return any(len(shape_of(v) or ()) == 1 and _constant_behind(v) is not None for v in inputs)


def _constant_behind(value: ir.Value | None) -> ir.Value | None:
    while value is not None and not value.is_initializer():
        node = maker(value)
        if node is None or not is_kind(node, "Cast", QUANTIZE, DEQUANTIZE):
            return None
        value = source(node, 0)
    return value


def _int32(view: GraphView) -> Iterator[Hit]:
    for node in view.of(DEQUANTIZE):
        if dtype_of(source(node, 0)) == ir.DataType.INT32:
            constant = array_of(source(node, 0)) is not None and scale_of(node) is not None
            yield Hit(name_of(node), "it dequantizes int32 (a bias)", fixable=constant)


def _bias(view: GraphView) -> Iterator[Hit]:
    for node in view.of("Add", "Gemm"):
        for index in (2,) if node.op_type == "Gemm" else (0, 1):
            value = source(node, index)
            dequantizer = dequantizer_behind(value)
            if dequantizer is None or dtype_of(source(dequantizer, 0)) not in _CODES:
                continue
            if weight_behind(value) is not None and len(shape_of(value) or ()) == 1:
                yield Hit(name_of(node), "its bias has Q/DQ")


def _int8_constants(view: GraphView) -> Iterator[Hit]:
    for node in view.nodes:
        if is_kind(node, QUANTIZE, DEQUANTIZE):
            continue
        for value in node.inputs:
            if value is not None and value.is_initializer() and dtype_of(value) in _CODES:
                text = f"it reads the constant {value.name!r} of int8 codes itself"
                yield Hit(name_of(node), text)


GUIDE = "TensorRT explicit-quantization guide"

CHECKS = (
    Check(
        CheckInfo(
            id="int32-dequantize",
            severity="error",
            what="a DQ of int32 codes, as ONNX Runtime writes for biases",
            reason="the parser refuses it: `input has type Int32 but must have type FP8, FP4, "
            "Int4, Int8, or UInt8` (seen with TensorRT-RTX 1.7)",
            mend="keep biases float",
            fixable=True,
        ),
        _int32,
    ),
    Check(
        CheckInfo(
            id="int8-constant",
            severity="error",
            what="an int8 constant that anything but a DQ reads (Gather of an int8 table)",
            reason="the build fails: `Quantized constant is only allowed before DQ` (seen with "
            "TensorRT-RTX 1.7)",
            mend="dequantize first: DQ(int8 table) -> Gather builds and keeps the table int8",
        ),
        _int8_constants,
    ),
    Check(
        CheckInfo(
            id="one-operand",
            severity="warning",
            what="a MatMul or Gemm with Q/DQ on one operand only",
            reason="it is multiplied in half, after rounding for nothing (seen in the plan); a "
            "lone int8 weight is dequantized at every inference",
            mend="quantize both operands, or none; --fix takes a lone activation pair out",
            fixable=True,
        ),
        _one_operand,
    ),
    Check(
        CheckInfo(
            id="turned-weight",
            severity="warning",
            what="a weight as float -> Q -> DQ -> Transpose, as PyTorch exports it",
            reason="in a whole exported model TensorRT-RTX kept float weights in the plan and "
            "quantized them at every inference; in small graphs it folds them",
            mend="store int8 codes [K, N] behind a DQ on axis 1",
            fixable=True,
        ),
        _turned_weight,
    ),
    Check(
        CheckInfo(
            id="pair-in-epilogue",
            severity="warning",
            what="a pair between a GEMM, its bias and its activation",
            reason=f"it rounds an inner value and keeps TensorRT from fusing the three ({GUIDE})",
            mend="one pair behind the activation",
        ),
        _in_epilogue,
    ),
    Check(
        CheckInfo(
            id="small-matmul",
            severity="warning",
            what="a quantized weight with K or N below 16",
            reason="it does not fill an INT8 tensor-core tile, so quantizing costs more than it "
            "gains (ModelOpt leaves these out too)",
            mend="leave it in half: name it in the recipe's `keep`",
        ),
        _too_small,
    ),
    Check(
        CheckInfo(
            id="quantized-bias",
            severity="info",
            what="Q/DQ on a bias",
            reason=f"it rounds the bias and gains nothing: the GEMM adds it in float ({GUIDE})",
            mend="keep biases float",
        ),
        _bias,
    ),
)
