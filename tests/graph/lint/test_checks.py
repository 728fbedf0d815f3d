"""Each check strikes where its fault is, and keeps silent on the same graph without it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.support.lint_faults import (
    Make,
    bare,
    bias,
    blocked,
    cast_scale,
    codes,
    concat,
    consumers,
    epilogue,
    half_product,
    idle,
    miscounted,
    narrow,
    per_channel,
    residual,
    run_time_scale,
    scale,
    table,
    twice,
    unequal,
    weight,
)
from tests.support.lint_graphs import (
    H,
    attention,
    function_model,
    quantized_linear,
    renamed,
    with_activation,
)
from tests.support.lint_odd import (
    branch,
    dynamic,
    float_linear,
    foreign,
    fused_attention,
    half_linear,
    large,
    masked,
    norm,
    on_type,
    plain,
    product,
    sum_of,
    transposed,
    without_output,
    wrong_attribute,
)
from trt_int8.graph.lint.run import ALL_CHECKS, UNJUDGED, lint_model
from trt_int8.spec.lint import Goal, LintReport
from trt_int8.spec.shapes import parse_shapes


def judge(
    model: onnx.ModelProto, sms: tuple[int, ...] = (75, 80), shapes: str = "batch=1:2:4,seq=8:16:40"
) -> LintReport:
    return lint_model(model, Path("model.onnx"), Goal(sms=sms, shapes=parse_shapes(shapes)))


GOOD = quantized_linear
BF16, F16, F32 = TensorProto.BFLOAT16, TensorProto.FLOAT16, TensorProto.FLOAT
# check, where it strikes, the graph with the fault, the graph without
CASES: list[tuple[str, str, Make, Make]] = [
    ("broken-graph", "nobody", lambda: without_output(GOOD()), GOOD),
    ("missing-data", "w", large(8), half_linear),
    ("invalid-onnx", "", wrong_attribute, plain("Relu")),
    ("zero-point", "quant", scale(0.02, zero=np.int8(3)), scale(0.02)),
    ("zero-point", "quant", scale(0.02, zero=np.uint8(128)), scale(0.02)),
    ("uint8", "quant", scale(0.02, zero=np.uint8(0)), scale(0.02)),
    ("uint8", "quant", scale(0.02, zero=None), scale(0.02)),
    ("quantized-type", "w_dq", codes(TensorProto.INT4, np.ones(H * H, int)), GOOD),
    ("quantized-type", "w_dq", codes(TensorProto.FLOAT8E4M3FN, np.ones(H * H)), GOOD),
    ("blocked-scale", "w_dq", blocked(32), blocked(H)),
    ("scale-value", "quant", scale(0.0), scale(1e-30)),
    ("scale-value", "quant", scale(-0.1), scale(0.1)),
    ("scale-value", "quant", scale(np.nan), scale(0.1)),
    ("scale-value", "quant", scale(np.inf), scale(0.1)),
    ("scale-count", "w_dq", miscounted(H - 1), miscounted(H)),
    ("half-scale", "quant", scale(0.02, np.float16), scale(0.02)),
    ("tiny-scale", "linear", half_product(1e-3, 1e-3), half_product(0.1, 0.01)),
    ("run-time-scale", "quant", lambda: with_activation(run_time_scale),
     lambda: with_activation(cast_scale)),
    ("channel-activation", "node_quantizelinear_2", lambda: with_activation(per_channel), GOOD),
    ("weight-scale-axis", "linear", weight("along K"), weight("int8, turned")),
    ("unequal-pair", "dequant", unequal(0.02, 0.03), unequal(0.02, 0.02)),
    ("one-operand", "linear", weight("float"), weight("plain")),
    ("one-operand", "linear", concat(0.02, 0.03), concat(0.02, 0.02)),
    ("turned-weight", "linear", weight("turned"), weight("plain")),
    ("turned-weight", "linear", weight("turned"), weight("int8, turned")),
    ("int32-dequantize", "bias_dq", bias("int32"), bias("int8")),
    ("quantized-bias", "bias_add", bias("int8"), bias("float")),
    ("int8-constant", "pick", table(False), table(True)),
    ("concat-scales", "both", concat(0.02, 0.03), concat(0.02, 0.02)),
    ("pair-in-epilogue", "node_dequantizelinear_10", epilogue("pair", "bias"), epilogue("bias")),
    ("pair-in-epilogue", "node_dequantizelinear_11", epilogue("bias", "pair", "relu"),
     epilogue("bias", "relu")),
    ("pair-in-epilogue", "node_dequantizelinear_11", epilogue("bias", "pair", "gelu"),
     epilogue("bias", "gelu")),
    ("residual-both-arms", "sum", residual(True, True), residual(False, True)),
    ("pair-per-consumer", "node_quantizelinear_3", consumers(False), consumers(True)),
    ("pair-per-consumer", "node_quantizelinear_3", consumers(False, 0.03), consumers(True)),
    ("requantized", "node_quantizelinear_4", twice(False, 0.03), twice(False, None)),
    ("requantized", "node_quantizelinear_5", twice(True, 0.02), twice(True, None)),
    ("small-matmul", "linear", narrow(15), narrow(16)),
    ("bare-quantize", "bare", bare(True), bare(False)),
    ("pair-without-matmul", "node_dequantizelinear_10", idle(False), idle(True)),
    ("attention-bmm1-only", "softmax", lambda: attention(missing=("softmax", "value")), attention),
    ("attention-bmm2-only", "softmax", lambda: attention(missing=("query", "key")), attention),
    ("attention-operand", "softmax", lambda: attention(missing=("key",)), attention),
    ("attention-operand", "softmax", lambda: attention(missing=("value",)), attention),
    ("attention-softmax", "softmax", lambda: attention(missing=("softmax",)), attention),
    ("attention-output", "softmax", lambda: attention(missing=("context",)), attention),
    ("attention-float", "softmax",
     lambda: attention(missing=("query", "key", "value", "softmax")), attention),
    ("scores-before-mask", "node_quantizelinear_35", lambda: attention(scores="before"),
     lambda: attention(scores="after")),
    ("softmax-scale", "node_dequantizelinear_38", lambda: attention(softmax=1 / 255), attention),
    ("attention-head-size", "softmax", lambda: attention(size=48), lambda: attention(size=16)),
    ("attention-one-head", "softmax", lambda: attention(heads=1), attention),
    ("packed-projection", "packed", lambda: attention(packed="split"),
     lambda: attention(packed="paired split")),
    ("attention-operator", "odd", fused_attention, attention),
    ("float32-matmul", "linear", float_linear(), half_linear),
    ("bfloat16", "linear", product(BF16), product(F16)),
    ("mixed-types", "odd", sum_of(F32), sum_of(F16)),
    ("nan-constant", "far", masked(np.nan, np.float16), masked(-6e4, np.float16)),
    ("half-layernorm", "mean", norm("primitives"), norm("float")),
    ("half-layernorm", "mean", norm("primitives"), norm("operator")),
    ("half-sum", "square", norm("rms"), norm("operator")),
    ("beyond-half", "far", masked(-np.inf, np.float16), masked(-65504, np.float16)),
    ("beyond-half", "far", masked(-3e38, np.float32, cast=True), masked(-6e4, np.float32)),
    ("opset21-transpose", "node_dequantizelinear_3", transposed(21), transposed(20)),
    ("integer-operator", "odd", dynamic("DynamicQuantizeLinear"), GOOD),
    ("no-importer", "odd", on_type("BitwiseAnd", TensorProto.INT32, "b"),
     on_type("Add", TensorProto.INT32, "b")),
    ("custom-operator", "odd", foreign("FastGelu", "com.microsoft"), plain("Relu")),
    ("custom-operator", "odd", foreign("FastGelu", "com.microsoft"), foreign("TRT_Any", "trt")),
    ("operator-type", "odd", on_type("Relu", TensorProto.INT32),
     on_type("Abs", TensorProto.INT32)),
    ("operator-type", "odd", on_type("Add", TensorProto.UINT8, "b"),
     on_type("Equal", TensorProto.UINT8, "b")),
    ("operator-type", "odd", on_type("Mod", F32, "b"), on_type("Mod", F32, "b", fmod=1)),
    ("pair-around-plugin", "odd", foreign("Mine", "mine", pair=True), foreign("Mine", "mine")),
    ("plugin-node", "odd", foreign("int8_attention", "trt_int8"), foreign("TRT_Any", "trt")),
    ("repeated-qdq-name", "dequant", lambda: renamed(scale(0.1)(), quant="dequant"), scale(0.1)),
    ("function-called-twice", "local::Block", lambda: function_model(2),
     lambda: function_model(1)),
    ("function-overload", "local::Block", lambda: function_model(1, "a"),
     lambda: function_model(1)),
    ("old-opset", "", float_linear(12), float_linear(13)),
    ("control-flow", "choice", branch(True), branch(False)),
    ("unnamed-node", "node_of_matmul_7", lambda: renamed(GOOD(), linear=""), GOOD),
    ("repeated-name", "linear", lambda: renamed(GOOD(), close="linear"), GOOD),
    ("fixed-axes", "x", float_linear(shape=(2, 7, H)), float_linear()),
    ("nothing-quantized", "", half_linear, GOOD),
]  # fmt: skip
IDS = [f"{index} {case[0]}" for index, case in enumerate(CASES)]
# Judged by tests of their own: they need a file, a profile or a check that breaks.
ELSEWHERE = {"attention-length", "too-large", UNJUDGED.id}


@pytest.mark.parametrize(("check", "node", "bad", "good"), CASES, ids=IDS)
def test_a_fault_is_found_at_its_node_and_not_in_the_sound_graph(
    check: str, node: str, bad: Make, good: Make
) -> None:
    assert node in [finding.node for finding in judge(bad()).of_check(check)]
    assert judge(good()).of_check(check) == ()


@pytest.mark.parametrize(("check", "node", "bad", "good"), CASES, ids=IDS)
def test_no_check_falls_over_these_graphs(check: str, node: str, bad: Make, good: Make) -> None:
    for make in (bad, good):
        assert judge(make()).of_check(UNJUDGED.id) == ()


def test_every_check_has_a_case() -> None:
    assert {case[0] for case in CASES} | ELSEWHERE == {info.id for info in ALL_CHECKS}


def test_every_check_has_an_id_of_its_own_and_says_why_and_what_to_do() -> None:
    assert len({info.id for info in ALL_CHECKS}) == len(ALL_CHECKS)
    assert all(info.what and info.reason and info.mend for info in ALL_CHECKS)


SOUND = [GOOD, attention, lambda: attention(packed="paired split"), concat(0.02, 0.02)]


@pytest.mark.parametrize("make", SOUND)
def test_sound_graphs_have_no_findings_at_all(make: Make) -> None:
    report = judge(make())
    assert (report.findings, report.stopped) == ((), "")
