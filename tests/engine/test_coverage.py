from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trt_int8.engine.coverage import Evidence, cover
from trt_int8.engine.evidence import EngineLayer, EngineTensor, LayerKind
from trt_int8.engine.plan_text import PlanOperator
from trt_int8.model.onnx_matmuls import MatMulSite
from trt_int8.spec.coverage import EngineCoverage, NodeCoverage

LINEAR = MatMulSite("fc", "linear", None, wanted_int8=True)
SCORES = MatMulSite("scores", "attention", 0, wanted_int8=True)
CONTEXT = MatMulSite("context", "attention", 0, wanted_int8=True)


def tensors(prefix: str, dtypes: str) -> tuple[EngineTensor, ...]:
    return tuple(EngineTensor(f"{prefix}{i}", d) for i, d in enumerate(dtypes.split()))


def layer(
    nodes: str, inputs: str, constants: str = "", outputs: str = "float", kind: LayerKind = "gemm"
) -> EngineLayer:
    names = tuple(nodes.split())
    ins, consts, outs = tensors("i", inputs), tensors("c", constants), tensors("o", outputs)
    return EngineLayer(f"kernel of {nodes}", kind, ins, consts, outs, names)


def attention(inputs: str, outputs: str = "int8") -> EngineLayer:
    return layer("scores context", inputs, "", outputs, "attention")


def operator(nodes: str, operands: str, kind: str = "gemm", *, bmms: bool = False) -> PlanOperator:
    return PlanOperator(kind, tuple(operands.split()), tuple(nodes.split()), bmms)


def judged(
    sites: tuple[MatMulSite, ...],
    layers: tuple[EngineLayer, ...],
    operators: tuple[PlanOperator, ...] | None = None,
) -> EngineCoverage:
    return cover(sites, Evidence("test", "0", layers, operators), "int8", 75)


def only(*layers: EngineLayer, operators: tuple[PlanOperator, ...] | None = None) -> NodeCoverage:
    return judged((LINEAR,), layers, operators).nodes[0]


def test_an_int8_gemm_with_a_constant_weight_is_int8() -> None:
    node = only(layer("fc", "int8", "int8"))
    assert (node.runs, node.operands, node.output) == ("int8", ("int8", "int8"), "float")
    assert (node.constant_weight, node.reason) == (True, "")


def test_a_weight_that_is_computed_at_run_time_is_reported() -> None:
    assert only(layer("fc", "int8 int8")).constant_weight is False


@pytest.mark.parametrize("types", ["half half", "int8 half", "half int8", "int8 unknown", "int8"])
def test_one_operand_that_is_not_int8_makes_it_float(types: str) -> None:
    node = only(layer("fc", types))
    assert node.runs == "float"
    assert node.reason.startswith("Q/DQ is there, but TensorRT chose a ")


def test_a_matmul_without_qdq_says_so() -> None:
    bare = dataclasses.replace(LINEAR, wanted_int8=False)
    node = judged((bare,), (layer("fc", "half", "half"),)).nodes[0]
    assert node.reason == "no Q/DQ on both operands in the ONNX file (runs half x half)"


def test_a_fused_kernel_that_casts_its_operands_before_the_gemm_is_not_int8() -> None:
    """`__myl_CastMulCastFc` dequantizes first: int8 comes in, half is multiplied."""
    casting = dataclasses.replace(layer("fc", "int8", "int8"), name="__myl_CastMulCastFc_myl0_2")
    node = only(casting)
    assert (node.runs, node.operands) == ("float", ("unknown", "unknown"))
    assert node.reason.endswith("kernel casts first and multiplies unknown x unknown")


def test_the_plan_tells_what_a_casting_kernel_multiplies() -> None:
    """The plan has the fused operator and the GEMM inside it, both with the node's name."""
    casting = dataclasses.replace(layer("fc", "int8", "half"), name="__myl_CastMulCastFc_myl0_2")
    operators = (operator("fc", "int8 half"), operator("fc", "half half"))
    node = only(casting, operators=operators)
    assert (node.runs, node.operands) == ("float", ("half", "half"))
    assert node.reason.endswith("multiplies half x half")


@pytest.mark.parametrize("name", ["__myl_FcAddDivCastErfMul_myl0_3", "/CastMul/Fc/MatMul_myl0_1"])
def test_a_cast_after_the_gemm_or_in_a_node_name_does_not_matter(name: str) -> None:
    plain = dataclasses.replace(layer("fc", "int8", "int8"), name=name)
    assert only(plain).runs == "int8"


def test_a_node_that_no_kernel_names_is_unmapped_not_int8() -> None:
    node = only(layer("other", "int8", "int8"))
    assert (node.runs, node.kernel) == ("unmapped", "")
    assert node.reason == "no kernel of the engine names this node"


def test_a_dequantize_kernel_that_carries_the_name_proves_nothing() -> None:
    assert only(layer("fc", "int8", "int8", kind="other")).runs == "unmapped"


@pytest.mark.parametrize("first", ["int8", "half"])
def test_all_kernels_of_a_node_must_be_int8(first: str) -> None:
    second = {"int8": "half", "half": "int8"}[first]
    assert only(layer("fc", first, "int8"), layer("fc", second, "int8")).runs == "float"


def test_evidence_that_agrees_is_int8() -> None:
    operators = (operator("fc", "int8 int8"),)
    assert only(layer("fc", "int8", "int8"), operators=operators).runs == "int8"


@pytest.mark.parametrize(
    ("types", "operators", "reason"),
    [
        ("int8", (operator("fc", "int8 half"),), "log says int8, the plan says float"),
        ("int8", (), "log says int8, the plan says nothing"),
        ("int8", (operator("other", "int8 int8"),), "log says int8, the plan says nothing"),
        ("half", (operator("fc", "int8 int8"),), "log says float, the plan says int8"),
        (
            "int8",
            (operator("fc", "int8 int8"), operator("fc", "half half")),
            "the plan says float",
        ),
    ],
)
def test_evidence_that_contradicts_itself_is_disputed(
    types: str, operators: tuple[PlanOperator, ...], reason: str
) -> None:
    node = only(layer("fc", types, "int8"), operators=operators)
    assert node.runs == "disputed"
    assert reason in node.reason


def test_a_fused_int8_attention_counts_once_with_both_matmuls() -> None:
    operators = (operator("scores context", "int8 int8 int8 int64", "attention", bmms=True),)
    coverage = judged((SCORES, CONTEXT), (attention("int8 int8 int8"),), operators)
    assert [node.runs for node in coverage.nodes] == ["int8", "int8"]
    assert (coverage.attentions, coverage.attentions_fused, coverage.attentions_int8) == (1, 1, 1)


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ("half half half", "half"),
        ("int8 int8 half", "int8"),
        ("int8 int8 int8", "half"),
        ("int8 int8 int8", ""),
        ("int8 int8", "int8"),
        ("int8 int8 int8 int8", "int8"),
    ],
)
def test_a_fused_attention_needs_int8_in_q_k_v_and_output(inputs: str, outputs: str) -> None:
    coverage = judged((SCORES, CONTEXT), (attention(inputs, outputs),))
    assert [node.runs for node in coverage.nodes] == ["float", "float"]
    assert (coverage.attentions_fused, coverage.attentions_int8) == (1, 0)


@pytest.mark.parametrize("inputs", ["int64 int8 int8 int32 int8 bool", "half int8 int8 int8"])
def test_shapes_and_a_mask_beside_q_k_v_do_not_matter(inputs: str) -> None:
    assert judged((SCORES, CONTEXT), (attention(inputs),)).attentions_int8 == 1


def test_an_attention_operand_of_unknown_type_is_not_skipped() -> None:
    coverage = judged((SCORES, CONTEXT), (attention("int8 unknown int8 int8"),))
    assert coverage.attentions_int8 == 0


def test_an_unknown_type_in_the_plans_attention_is_not_skipped() -> None:
    operators = (operator("scores context", "int8 int8 int8 unknown", "attention", bmms=True),)
    coverage = judged((SCORES, CONTEXT), (attention("int8 int8 int8"),), operators)
    assert {node.runs for node in coverage.nodes} == {"disputed"}


def test_an_attention_without_int8_instructions_in_the_plan_is_disputed() -> None:
    operators = (operator("scores context", "int8 int8 int8", "attention", bmms=False),)
    coverage = judged((SCORES, CONTEXT), (attention("int8 int8 int8"),), operators)
    assert {node.runs for node in coverage.nodes} == {"disputed"}
    assert coverage.attentions_int8 == 0


def test_int8_matmuls_in_two_kernels_are_not_a_fused_attention() -> None:
    layers = (layer("scores", "int8 int8"), layer("context", "int8 int8"))
    coverage = judged((SCORES, CONTEXT), layers)
    assert [node.runs for node in coverage.nodes] == ["int8", "int8"]
    assert (coverage.attentions, coverage.attentions_fused) == (1, 0)


def test_two_attention_kernels_for_one_attention_are_not_fused() -> None:
    halves = tuple(
        dataclasses.replace(attention("int8 int8 int8"), name=node, onnx_nodes=(node,))
        for node in ("scores", "context")
    )
    assert judged((SCORES, CONTEXT), halves).attentions_fused == 0


def test_only_linear_and_attention_matmuls_count_for_the_policy() -> None:
    sites = (LINEAR, MatMulSite("tiny", "small", None, wanted_int8=False), SCORES)
    coverage = judged(sites, (layer("fc", "int8", "int8"), layer("tiny", "half", "half")))
    assert (coverage.int8_count, len(coverage.counted), coverage.fraction) == (1, 2, 0.5)


def test_a_model_without_counted_matmuls_is_wholly_covered() -> None:
    assert judged((), ()).fraction == 1.0


_DTYPES = st.sampled_from(["int8", "half", "float", "unknown", "fp8", "int32"])


@given(st.lists(_DTYPES, min_size=2, max_size=2), st.lists(_DTYPES, min_size=2, max_size=2))
@settings(max_examples=80)
def test_a_gemm_is_int8_only_if_log_and_plan_both_say_int8_twice(
    log: list[str], plan: list[str]
) -> None:
    node = only(layer("fc", " ".join(log)), operators=(operator("fc", " ".join(plan)),))
    assert (node.runs == "int8") == (log == plan == ["int8", "int8"])


def in_profile(listed: EngineLayer, profile: int) -> EngineLayer:
    return dataclasses.replace(listed, profile=profile)


def covered(
    sites: tuple[MatMulSite, ...],
    *layers: EngineLayer,
    operators: tuple[PlanOperator, ...] | None = None,
) -> EngineCoverage:
    """With two profiles, called short and long."""
    evidence = Evidence("test", "0", layers, operators)
    return cover(sites, evidence, "int8", 75, ("short", "long"))


INT8, HALF = layer("fc", "int8", "int8"), layer("fc", "half", "half")


@pytest.mark.parametrize(
    ("short", "long", "runs", "reason"),
    [
        (INT8, INT8, "int8", ""),
        (INT8, HALF, "float", "profile long: Q/DQ is there, but TensorRT chose a half x half"),
        (HALF, INT8, "float", "profile short: Q/DQ is there"),
        (HALF, HALF, "float", "Q/DQ is there"),
        (INT8, None, "unmapped", "profile long: no kernel of the engine names this node"),
        (None, INT8, "unmapped", "profile short: no kernel"),
    ],
)
def test_a_matmul_is_int8_only_if_it_is_in_every_profile(
    short: EngineLayer | None, long: EngineLayer | None, runs: str, reason: str
) -> None:
    layers = [in_profile(each, n) for n, each in enumerate((short, long)) if each is not None]
    coverage = covered((LINEAR,), *layers)
    assert coverage.nodes[0].runs == runs
    assert coverage.nodes[0].reason.startswith(reason)
    assert [part.int8 for part in coverage.profiles] == [each is INT8 for each in (short, long)]


def test_a_layer_of_no_known_profile_proves_nothing() -> None:
    layers = (INT8, in_profile(INT8, 1), in_profile(INT8, -1))
    assert covered((LINEAR,), *layers).nodes[0].runs == "unmapped"


def test_the_plan_must_agree_in_each_profile() -> None:
    said = operator("fc", "int8 int8")
    node = covered((LINEAR,), INT8, in_profile(INT8, 1), operators=(said,)).nodes[0]
    assert (node.runs, node.reason) == (
        "disputed",
        "profile long: the builder's log says int8, the plan says nothing",
    )
    both = (said, dataclasses.replace(said, profile=1))
    assert covered((LINEAR,), INT8, in_profile(INT8, 1), operators=both).nodes[0].runs == "int8"


def test_an_attention_fused_in_one_profile_alone_is_not_a_fused_attention() -> None:
    split = tuple(in_profile(layer(name, "int8 int8"), 1) for name in ("scores", "context"))
    coverage = covered((SCORES, CONTEXT), attention("int8 int8 int8"), *split)
    assert [node.runs for node in coverage.nodes] == ["int8", "int8"]
    assert (coverage.attentions_fused, coverage.attentions_int8) == (0, 0)
    assert not any(node.fused_attention for node in coverage.nodes)
    assert [(p.profile, p.attentions_fused, p.attentions_int8) for p in coverage.profiles] == [
        ("short", 1, 1),
        ("long", 0, 0),
    ]


def test_a_weight_that_is_computed_in_one_profile_is_reported() -> None:
    loose = in_profile(layer("fc", "int8 int8"), 1)
    assert covered((LINEAR,), INT8, loose).nodes[0].constant_weight is False


def test_one_profile_alone_has_no_figures_of_its_own() -> None:
    assert judged((LINEAR,), (INT8,)).profiles == ()
