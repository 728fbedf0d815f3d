"""Policy decisions on hand-made evidence."""

from __future__ import annotations

import math

import pytest

from trt_int8.pipeline.verdict import judge
from trt_int8.spec.accuracy import AccuracyReport, OutputError, PairAccuracy
from trt_int8.spec.build import Precision
from trt_int8.spec.coverage import EngineCoverage, NodeCoverage, ProfileCoverage, Role, Runs
from trt_int8.spec.manifest import Policy


def node(name: str, runs: Runs, role: Role = "linear", reason: str = "") -> NodeCoverage:
    return NodeCoverage(
        node=name,
        role=role,
        wanted_int8=True,
        runs=runs,
        operands=(),
        output="float",
        constant_weight=True,
        kernel="k",
        fused_attention=False,
        reason=reason,
    )


def engine(*nodes: NodeCoverage, precision: Precision = "int8", fused: int = 0) -> EngineCoverage:
    return EngineCoverage(
        sm=75,
        precision=precision,
        evidence="test",
        tensorrt_version="1",
        nodes=nodes,
        attentions=2,
        attentions_fused=fused,
        attentions_int8=0,
    )


def accuracy(cosine: float) -> AccuracyReport:
    error = OutputError(
        output="y", max_abs=0, mean_abs=0, cosine_mean=cosine, cosine_min=cosine, sqnr_db=1
    )
    pairs = tuple(
        PairAccuracy(reference=r, measured=m, outputs=(error,))
        for m, r in (("fp16", "fp32"), ("int8", "fp32"), ("int8", "fp16"))
    )
    return AccuracyReport(primary_output="y", samples=1, pairs=pairs, cosines=(cosine,))


def left(name: str) -> NodeCoverage:
    return node(name, "float").model_copy(update={"wanted_int8": False, "left_float": True})


def test_what_is_left_in_float_on_purpose_is_not_counted() -> None:
    verdict = judge(Policy(), [engine(node("a", "int8"), left("b"))], accuracy(1.0))
    assert verdict.failures == ()


def test_a_failure_tells_how_many_are_left_in_float_on_purpose() -> None:
    nodes = (node("a", "int8"), node("b", "float", reason="why"), left("c"))
    (failure,) = judge(Policy(), [engine(*nodes)], accuracy(1.0)).failures
    assert "1 of 2 matmuls run INT8 on SM75 (1 more are left in float on purpose)" in failure


def test_an_engine_without_any_int8_matmul_fails() -> None:
    (failure,) = judge(Policy(), [engine(left("a"))], accuracy(1.0)).failures
    assert failure == "no matmul runs INT8 on SM75: all are left in float on purpose"


@pytest.mark.parametrize("runs", ["float", "unmapped", "disputed"])
def test_anything_but_proven_int8_fails_full_coverage(runs: Runs) -> None:
    verdict = judge(Policy(), [engine(node("a", "int8"), node("b", runs))], accuracy(1.0))
    assert verdict.recommended == "fp16"
    assert "1 of 2 matmuls run INT8 on SM75" in verdict.failures[0]
    assert "not INT8: b" in verdict.failures[0]


def test_small_and_other_matmuls_do_not_count() -> None:
    nodes = (node("a", "int8"), node("head", "float", "small"), node("x", "float", "other"))
    assert judge(Policy(), [engine(*nodes)], accuracy(1.0)).recommended == "int8"


def test_a_lower_coverage_bar_accepts_a_part() -> None:
    covered = engine(*[node(f"n{i}", "int8") for i in range(3)], node("b", "float"))
    assert judge(Policy(min_coverage=0.75), [covered], accuracy(1.0)).failures == ()
    assert judge(Policy(min_coverage=0.76), [covered], accuracy(1.0)).failures != ()


def test_many_missing_nodes_are_counted_not_all_named() -> None:
    covered = engine(*[node(f"n{i}", "float", reason="why") for i in range(9)])
    (failure,) = judge(Policy(), [covered], accuracy(1.0)).failures
    assert failure.endswith("n5 and 3 more (why)")


@pytest.mark.parametrize("cosine", [0.9699, math.nan, -1.0])
def test_a_low_or_undefined_cosine_fails(cosine: float) -> None:
    verdict = judge(Policy(), [engine(node("a", "int8"))], accuracy(cosine))
    assert verdict.recommended == "fp16"
    assert "--min-cosine" in verdict.failures[0]


def test_a_cosine_at_the_bar_passes() -> None:
    assert judge(Policy(), [engine(node("a", "int8"))], accuracy(0.97)).failures == ()


@pytest.mark.parametrize(
    ("in_int8", "in_fp16", "warns"), [(0, 2, True), (2, 2, False), (0, 0, False)]
)
def test_int8_attention_that_is_split_where_fp16_is_not_is_a_warning(
    in_int8: int, in_fp16: int, warns: bool
) -> None:
    engines = [
        engine(node("a", "int8"), fused=in_int8),
        engine(node("a", "float"), precision="fp16", fused=in_fp16),
    ]
    verdict = judge(Policy(), engines, accuracy(1.0))
    assert verdict.recommended == "int8"
    assert bool(verdict.warnings) == warns
    assert all(
        "SM75: 0 of 2 attentions are one kernel in INT8, 2 in FP16" in w for w in verdict.warnings
    )


def test_an_int8_weight_that_is_no_constant_is_a_warning() -> None:
    loose = node("loose", "int8").model_copy(update={"constant_weight": False})
    (warning,) = judge(Policy(), [engine(node("a", "int8"), loose)], accuracy(1.0)).warnings
    assert warning == (
        "SM75: 1 weights are no constants of the engine (they are quantized again at every"
        " inference): loose"
    )


def test_an_int8_gemm_that_writes_half_is_a_warning_fused_attention_is_not() -> None:
    half = node("risky", "int8").model_copy(update={"output": "half"})
    fused = half.model_copy(update={"node": "bmm", "fused_attention": True})
    floats = node("f", "float").model_copy(update={"output": "half"})
    verdict = judge(Policy(min_coverage=0.5), [engine(half, fused, floats)], accuracy(1.0))
    (warning,) = verdict.warnings
    assert warning.endswith("which the raw accumulator may overflow: risky")


def parts(**fused: int) -> tuple[ProfileCoverage, ...]:
    return tuple(
        ProfileCoverage(profile=name, int8=1, attentions_fused=count, attentions_int8=0)
        for name, count in fused.items()
    )


def test_only_the_profile_that_splits_attention_is_warned_of() -> None:
    engines = [
        engine(node("a", "int8"), fused=0).model_copy(update={"profiles": parts(short=2, long=0)}),
        engine(node("a", "float"), precision="fp16", fused=2).model_copy(
            update={"profiles": parts(short=2, long=2)}
        ),
    ]
    (warning,) = judge(Policy(), engines, accuracy(1.0)).warnings
    assert warning.startswith("SM75, profile long: 0 of 2 attentions are one kernel in INT8, 2 in")


def test_what_the_plan_left_out_is_a_warning() -> None:
    verdict = judge(Policy(), [engine(node("a", "int8"))], accuracy(1.0), ("left out",))
    assert (verdict.warnings, verdict.recommended) == (("left out",), "int8")


def test_an_int8_bmm_that_writes_half_applies_its_one_scale_first() -> None:
    bmm = node("bmm", "int8", "attention").model_copy(update={"output": "half"})
    assert judge(Policy(), [engine(bmm)], accuracy(1.0)).warnings == ()
