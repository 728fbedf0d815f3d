"""Checks of operators: those without an importer, and types that an operator does not take."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from trt_int8.graph.lint.check import Check, Hit
from trt_int8.graph.lint.plugins import is_own_plugin
from trt_int8.graph.lint.view import (
    STANDARD_DOMAINS,
    GraphView,
    dequantizer_behind,
    dtype_of,
    integer,
    is_kind,
    name_of,
    source,
    users,
)
from trt_int8.spec.lint import CheckInfo

TYPES = ir.DataType
_INT8, _INT32, _INT64 = TYPES.INT8, TYPES.INT32, TYPES.INT64
_INTEGERS = (_INT8, _INT32, _INT64)
_WIDE = (_INT32, _INT64)

# Integer arithmetic in place of Q/DQ around float operators.
INTEGER_OPS = frozenset(
    {"DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "DynamicQuantizeMatMul"}
    | {"MatMulIntegerToFloat", "QLinearMatMul", "QLinearConv", "QGemm", "QAttention"}
    | {"DynamicQuantizeLSTM", "QEmbedLayerNormalization", "QOrderedMatMul"}
)
_QLINEAR = "QLinear"
# Standard operators for which `OnnxParser.supports_operator` of TensorRT-RTX 1.7.1 says no.
WITHOUT_IMPORTER = frozenset(
    {"AffineGrid", "Bernoulli", "BitCast", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr"}
    | {"BitwiseXor", "CenterCropPad", "Col2Im", "Compress", "ConcatFromSequence", "CumProd"}
    | {"DFT", "DeformConv", "Det", "ImageDecoder", "MaxRoiPool", "MaxUnpool", "MelWeightMatrix"}
    | {"Multinomial", "NegativeLogLikelihoodLoss", "Optional", "OptionalGetElement"}
    | {"OptionalHasElement", "RegexFullMatch", "SequenceAt", "SequenceConstruct"}
    | {"SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength", "SequenceMap"}
    | {"SoftmaxCrossEntropyLoss", "SplitToSequence", "StringConcat", "StringNormalizer"}
    | {"StringSplit", "SwiGLU", "TfIdfVectorizer", "Unique"}
)
# Of other domains, those that the same method says yes to (the parser looks up the name alone).
IMPORTED_FOREIGN = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "Attention", "MultiHeadAttention"}
    | {"GroupQueryAttention", "RotaryEmbedding", "SimplifiedLayerNormalization", "Gelu"}
    | {"LayerNormalization", "RMSNormalization", "MatMulNBits"}
)
_IMPORTED_PREFIX = "TRT_"
# Types on which parsing or building failed, SM75 and SM80 alike (TensorRT-RTX 1.7).
REFUSED_TYPES: dict[str, tuple[ir.DataType, ...]] = {
    **dict.fromkeys(("Floor", "Ceil", "Round", "Sqrt", "Exp", "Tanh"), _INTEGERS),
    **dict.fromkeys(("Erf", "Reciprocal", "Relu"), _WIDE),
    **dict.fromkeys(("MatMul", "Gemm", "Einsum", "Softmax", "LayerNormalization"), _INTEGERS),
    **dict.fromkeys(("ReduceMean", "CumSum", "Gather"), (_INT8,)),
}
# All that passed with a uint8 tensor; Q and DQ are judged by their own checks.
_UINT8_OPS = ("Cast", "Equal", "Pow", "QuantizeLinear", "DequantizeLinear")


def _integer_ops(view: GraphView) -> Iterator[Hit]:
    for node in view.nodes:
        if node.op_type in INTEGER_OPS or node.op_type.startswith(_QLINEAR):
            yield Hit(name_of(node), node.op_type)


def _without_importer(view: GraphView) -> Iterator[Hit]:
    for node in view.nodes:
        if is_kind(node, *WITHOUT_IMPORTER):
            yield Hit(name_of(node), node.op_type)


def is_foreign(node: ir.Node) -> bool:
    """An operator of another domain that no importer of TensorRT-RTX takes by its name."""
    if node.domain in STANDARD_DOMAINS or is_own_plugin(node):
        return False
    if node.op_type.startswith(_IMPORTED_PREFIX):
        return False
    integer_op = node.op_type in INTEGER_OPS or node.op_type.startswith(_QLINEAR)
    return node.op_type not in IMPORTED_FOREIGN and not integer_op


def _foreign(view: GraphView) -> Iterator[Hit]:
    for node in view.nodes:
        if is_foreign(node):
            yield Hit(name_of(node), f"{node.op_type} of domain {node.domain}")


def _around_plugin(view: GraphView) -> Iterator[Hit]:
    for node in view.nodes:
        if not is_foreign(node) or not any(dequantizer_behind(v) for v in node.inputs):
            continue
        behind = [u for v in node.outputs for u in users(v) if is_kind(u, "QuantizeLinear")]
        side = "in front and behind" if behind else "in front"
        yield Hit(name_of(node), f"Q -> DQ {side} of {node.op_type}")


def _types(view: GraphView) -> Iterator[Hit]:
    for node in view.nodes:
        kind = dtype_of(source(node, 0))
        if kind is None or node.domain not in STANDARD_DOMAINS:
            continue
        if kind in REFUSED_TYPES.get(node.op_type, ()):
            yield Hit(name_of(node), f"{node.op_type} of {kind.name.lower()}")
        elif kind == TYPES.UINT8 and node.op_type not in _UINT8_OPS and not _is_layout(node):
            yield Hit(name_of(node), f"{node.op_type} of uint8")
        elif node.op_type == "Mod" and _mod_fails(node, kind):
            yield Hit(name_of(node), f"Mod with fmod=0 of {kind.name.lower()}")


def _is_layout(node: ir.Node) -> bool:
    """Operators that TensorRT moves through a DQ, so that uint8 never runs there."""
    return is_kind(node, "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity")


def _mod_fails(node: ir.Node, kind: ir.DataType) -> bool:
    return integer(node, "fmod", 0) == 0 and kind not in _WIDE


CHECKS = (
    Check(
        CheckInfo(
            id="integer-operator",
            severity="error",
            what="dynamic quantization and integer operators (MatMulInteger, QLinear…)",
            reason="TensorRT has no importer for them: only Q/DQ around float operators runs INT8",
            mend="calibrate statically and export in QDQ format: trt-int8 build does",
        ),
        _integer_ops,
    ),
    Check(
        CheckInfo(
            id="no-importer",
            severity="error",
            what="standard operators that TensorRT's parser does not know",
            reason="`OnnxParser.supports_operator` of TensorRT-RTX 1.7.1 says no",
            mend="export without them, or write a plugin of that name",
        ),
        _without_importer,
    ),
    Check(
        CheckInfo(
            id="custom-operator",
            severity="error",
            what="operators of other domains: plugins, ONNX Runtime's fusions",
            reason="the parser takes them for plugins: without a registered one of that name it "
            "stops, and TensorRT-RTX runs none but those given to it",
            mend="export without ONNX Runtime's optimizer; for a plugin of yours pass --plugin",
        ),
        _foreign,
    ),
    Check(
        CheckInfo(
            id="operator-type",
            severity="error",
            what="an operator on an integer type it does not take",
            reason="parsing or building fails: table of operators and types, SM75 and SM80 "
            "(TensorRT-RTX 1.7)",
            mend="cast to int32 (float for Floor, Sqrt, Exp, Softmax) in front of it",
        ),
        _types,
    ),
    Check(
        CheckInfo(
            id="pair-around-plugin",
            severity="warning",
            what="Q -> DQ in front of a plugin",
            reason="nothing fuses into a plugin: it reads float, and the pair only rounds (a "
            "common report of INT8 plugins)",
            mend="let the plugin take int8: Q -> plugin -> DQ, with the scale as attribute",
        ),
        _around_plugin,
    ),
)
