"""What the linter says, against engines that TensorRT-RTX really builds: no check is folklore."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from tests.graph.lint.test_checks import judge
from tests.support.attention_block import build, coverage_of, not_int8, saved_request
from tests.support.lint_faults import (
    Make,
    bias,
    blocked,
    concat,
    per_channel,
    run_time_scale,
    scale,
    table,
    weight,
)
from tests.support.lint_graphs import (
    attention,
    function_model,
    quantized_linear,
    renamed,
    with_activation,
)
from tests.support.lint_odd import dynamic, float_linear, foreign, on_type, product, sum_of
from trt_int8.engine import selftest
from trt_int8.errors import EngineError
from trt_int8.graph.lint.fix import mend
from trt_int8.spec.coverage import EngineCoverage

pytestmark = pytest.mark.slow

INT32, UINT8 = onnx.TensorProto.INT32, onnx.TensorProto.UINT8
# Found as an error, and refused with these words.
REFUSED: list[tuple[str, Make, str]] = [
    ("zero-point", scale(0.02, zero=3), "Non-zero zero point is not supported"),
    ("scale-value", scale(0.0), "Scale coefficients must all be positive"),
    ("blocked-scale", blocked(32), "CHECK"),
    ("int32-dequantize", bias("int32"), "input has type Int32"),
    ("int8-constant", table(False), "only allowed before DQ"),
    ("float32-matmul", float_linear(), "FP32 GEMM is not supported"),
    ("mixed-types", sum_of(onnx.TensorProto.FLOAT), "must have same input types"),
    ("bfloat16", product(onnx.TensorProto.BFLOAT16), "HW-specific datatypes: b16"),
    ("integer-operator", dynamic("DynamicQuantizeLinear"), "DynamicQuantizeLinear"),
    ("no-importer", on_type("BitwiseAnd", INT32, "b"), "BitwiseAnd"),
    ("custom-operator", foreign("FastGelu", "com.microsoft"), "FastGelu"),
    ("operator-type", on_type("Relu", INT32), "unsupported input type of INT32"),
    (
        "repeated-qdq-name",
        lambda: renamed(quantized_linear(), node_quantizelinear_2="node_dequantizelinear_3"),
        "new name is already in use",
    ),
    ("function-called-twice", lambda: function_model(2), "new name is already in use"),
]
# Found as a warning; it builds, and these matmuls do not run INT8.
FLOAT: list[tuple[str, Make, set[str]]] = [
    ("one-operand", weight("float"), {"linear"}),
    ("weight-scale-axis", weight("along K"), {"linear"}),
    ("channel-activation", lambda: with_activation(per_channel), {"linear"}),
    ("run-time-scale", lambda: with_activation(run_time_scale), {"linear"}),
    ("concat-scales", concat(0.02, 0.03), {"linear"}),
    ("packed-projection", lambda: attention(packed="split"), {"packed"}),
]
# Found as a warning; the attention is then not one INT8 kernel.
UNFUSED: list[tuple[str, Make]] = [
    ("attention-bmm1-only", lambda: attention(missing=("softmax", "value"))),
    ("attention-bmm2-only", lambda: attention(missing=("query", "key"))),
    ("attention-operand", lambda: attention(missing=("key",))),
    ("attention-softmax", lambda: attention(missing=("softmax",))),
    ("attention-output", lambda: attention(missing=("context",))),
    ("scores-before-mask", lambda: attention(scores="before")),
    ("attention-head-size", lambda: attention(size=48)),
    ("attention-one-head", lambda: attention(heads=1)),
]
# No warning: everything that has Q/DQ runs INT8, attentions in one kernel.
SOUND: dict[str, Make] = {
    "linear": quantized_linear,
    "attention": attention,
    "attention, head size 16": lambda: attention(size=16),
    "scores behind the mask": lambda: attention(scores="after"),
    "packed, a pair in front of the Split": lambda: attention(packed="paired split"),
    "weight int8 -> DQ -> Transpose": weight("int8, turned"),
    "concat of one scale": concat(0.02, 0.02),
}


def built(model: onnx.ModelProto, folder: Path) -> EngineCoverage:
    request = saved_request(folder, model)
    build({"model": request})
    return coverage_of(request)


@pytest.mark.parametrize(("check", "make", "words"), REFUSED, ids=[c[0] for c in REFUSED])
def test_what_is_an_error_is_refused(check: str, make: Make, words: str, tmp_path: Path) -> None:
    model = make()
    assert {f.severity for f in judge(model).of_check(check)} == {"error"}
    with pytest.raises(EngineError, match=words):
        built(model, tmp_path)


@pytest.mark.parametrize(("check", "make", "nodes"), FLOAT, ids=[c[0] for c in FLOAT])
def test_what_is_said_to_run_in_half_does(
    check: str, make: Make, nodes: set[str], tmp_path: Path
) -> None:
    model = make()
    assert judge(model).of_check(check)
    assert not_int8(built(model, tmp_path)) == nodes


@pytest.mark.parametrize(("check", "make"), UNFUSED, ids=[c[0] for c in UNFUSED])
def test_what_is_said_not_to_fuse_does_not(check: str, make: Make, tmp_path: Path) -> None:
    model = make()
    assert judge(model).of_check(check)
    assert built(model, tmp_path).attentions_int8 == 0


@pytest.mark.parametrize("name", SOUND)
def test_what_has_no_warning_runs_int8_and_fused(name: str, tmp_path: Path) -> None:
    model = SOUND[name]()
    report = judge(model)
    assert report.count("error") == report.count("warning") == 0
    coverage = built(model, tmp_path)
    assert not_int8(coverage) == set()
    assert coverage.attentions_int8 == coverage.attentions


def test_uint8_is_taken_without_a_word_as_int8(tmp_path: Path) -> None:
    model = scale(0.02, zero=UINT8 * 0)()
    zero = next(t for t in model.graph.initializer if t.name == "z")
    zero.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(zero).astype("u1"), "z"))
    assert judge(model).of_check("uint8")
    assert not_int8(built(model, tmp_path)) == set()


def test_half_scales_give_half_outputs_and_float_scales_do_not(tmp_path: Path) -> None:
    from tests.support.lint_faults import half_product

    model = half_product(0.1, 0.01)()
    assert judge(model).of_check("half-scale")
    assert [n.output for n in built(model, tmp_path).nodes] == ["half"]
    mended = mend(model, frozenset({"half-scale"})).model
    assert judge(mended).of_check("half-scale") == ()
    assert [(n.runs, n.output) for n in built(mended, tmp_path).nodes] == [("int8", "float")]


def test_the_blocks_of_the_self_test_have_what_their_names_say() -> None:
    positive, negative = (
        judge(make()) for make in (selftest.positive_control, selftest.negative_control)
    )
    assert positive.findings == ()
    assert [(f.check, f.node) for f in negative.findings] == [("one-operand", "out")]
