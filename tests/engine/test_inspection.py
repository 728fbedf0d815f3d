from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.attention_block import build, coverage_of, saved_request
from tests.support.block_bundle import recorded
from tests.support.plans import (
    CONTEXT,
    OUT,
    QUERY,
    SCORES,
    UP,
    block_plan,
    computed,
    fusion,
    gemm,
    graph,
    stored,
    write_plan,
)
from trt_int8.engine import selftest
from trt_int8.engine.inspection import (
    inspect_confirmed,
    inspect_listing,
    inspect_plan,
    inspect_recorded,
)
from trt_int8.errors import CoverageError
from trt_int8.spec.build import BuildRequest
from trt_int8.spec.inspection import EngineInspection, InspectedMatMul


def of(inspection: EngineInspection, node: str) -> InspectedMatMul:
    return next(matmul for matmul in inspection.matmuls if matmul.node == node)


def one_gemm(folder: Path, *tensors: str, inputs: str = "a w") -> InspectedMatMul:
    part = graph(tensors, [gemm("f", inputs, "y", "f")])
    return inspect_plan(write_plan(folder / "x.engine", part)).matmuls[0]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> BuildRequest:
    """A real engine with one matmul left in FP16."""
    request = saved_request(tmp_path_factory.mktemp("inspect"), selftest.negative_control())
    build({"negative": request})
    return request


def test_a_real_engine_alone_tells_what_its_bundle_would(built: BuildRequest) -> None:
    path = Path(built.engine_path)
    alone, recorded = inspect_plan(path), coverage_of(built)
    assert (alone.sm, alone.plan_sms, alone.tensorrt_version) == (75, (75,), "1.7.1.116")
    assert (alone.int8_count, len(alone.counted)) == (5, 6)
    assert (recorded.int8_count, len(recorded.counted)) == (5, 6)
    (fallback,) = alone.fallbacks
    assert (fallback.node, fallback.operands) == ("out", ("half", "half"))
    assert (alone.attentions, alone.attentions_fused, alone.attentions_int8) == (None, 1, 1)


def test_a_real_engine_stores_exactly_the_weights_of_its_graph(built: BuildRequest) -> None:
    weights = {w.dtype: w.values for w in inspect_plan(Path(built.engine_path)).weights or ()}
    # Q, K and V are [64, 64] in INT8, the last Linear [64, 64] in FP16.
    assert (weights["int8"], weights["half"]) == (3 * 64 * 64, 64 * 64)


def test_a_position_bias_is_not_among_what_an_attention_multiplies(tmp_path: Path) -> None:
    block_plan(tmp_path / "x.engine")
    data = (tmp_path / "x.engine").read_bytes()
    # The fourth input of the attention becomes a float16 tensor, as DeBERTa's bias is.
    biased = data.replace(b'"q" "k" "v" "s"', b'"q" "k" "v" "o"')
    (tmp_path / "x.engine").write_bytes(biased)
    found = inspect_plan(tmp_path / "x.engine")
    assert biased != data
    assert (of(found, SCORES).runs, of(found, SCORES).operands) == ("int8", ("int8",) * 3)


def test_a_real_engine_confirms_its_record(built: BuildRequest) -> None:
    path, recorded = Path(built.engine_path), coverage_of(built)
    found = inspect_confirmed(recorded, path, "sm75/int8.engine")
    assert [m.runs for m in found.matmuls] == [n.runs for n in recorded.nodes]
    assert found.attentions_int8 == 1
    assert found.name == "sm75/int8"


def test_each_matmul_of_a_plan_is_judged_by_its_operands(tmp_path: Path) -> None:
    found = inspect_plan(block_plan(tmp_path / "x.engine", out_type="half"))
    assert {m.node: m.runs for m in found.matmuls} == {
        QUERY: "int8", SCORES: "int8", CONTEXT: "int8", OUT: "float", UP: "float",
    }  # fmt: skip
    assert of(found, OUT).reason == "the kernel multiplies half x half"
    assert (of(found, UP).operands, of(found, UP).constant_weight) == (("half", "half"), True)
    assert {m.role for m in found.matmuls} == {"linear", "attention"}


def test_an_int8_gemm_that_writes_half_is_a_hazard(tmp_path: Path) -> None:
    found = inspect_plan(block_plan(tmp_path / "x.engine"))
    assert [m.node for m in found.overflow_hazards] == [OUT]
    assert of(found, QUERY).output == "float"


def test_an_attention_without_int8_instructions_is_float(tmp_path: Path) -> None:
    found = inspect_plan(block_plan(tmp_path / "x.engine", traits="Turing_hmma_fp16"))
    assert (of(found, SCORES).runs, of(found, CONTEXT).runs) == ("float", "float")
    assert "no INT8 instructions" in of(found, SCORES).reason
    assert (found.attentions_fused, found.attentions_int8) == (1, 0)


@pytest.mark.parametrize("types", [("int8", "half"), ("half", "int8"), ("unknown", "int8")])
def test_one_operand_that_is_not_int8_makes_a_gemm_float(
    tmp_path: Path, types: tuple[str, str]
) -> None:
    tensors = (computed("a", types[0]), stored("w", types[1], "64 64", 4096))
    assert one_gemm(tmp_path, *tensors).runs == "float"


def test_an_operand_that_is_not_described_is_not_int8(tmp_path: Path) -> None:
    matmul = one_gemm(tmp_path, computed("a", "int8"))
    assert (matmul.runs, matmul.operands) == ("float", ("int8", "unknown"))


def test_a_weight_that_is_made_at_run_time_is_told_from_a_product_of_activations(
    tmp_path: Path,
) -> None:
    made = one_gemm(tmp_path, computed("a", "int8"), computed("w", "int8", "64 48"))
    assert (made.constant_weight, made.role) == (False, "linear")
    product = one_gemm(tmp_path, computed("a", "int8"), computed("w", "int8", '"B" 2 32 "S"'))
    assert (product.constant_weight, product.role) == (None, None)


def test_a_small_weight_is_not_counted(tmp_path: Path) -> None:
    tensors = (computed("a", "half"), stored("w", "half", "64 7", 896))
    assert one_gemm(tmp_path, *tensors).role == "small"


def test_a_fused_gemm_of_unknown_operands_has_no_proof(tmp_path: Path) -> None:
    part = graph([computed("a", "int8")], [fusion("__myl_FcAdd", "a w", "y", "fc")])
    (matmul,) = inspect_plan(write_plan(tmp_path / "x.engine", part)).matmuls
    assert (matmul.node, matmul.runs) == ("fc", "unmapped")
    assert matmul.reason == "the engine does not say what this fused kernel multiplies"


def test_what_does_not_hold_in_every_profile_does_not_hold(tmp_path: Path) -> None:
    parts = [
        graph(
            [computed("a", dtype), stored("w", dtype, "64 64", 4096)],
            [gemm(f"f{mark}", "a w", "y", "f")],
        )
        for mark, dtype in (("", "int8"), (" [profile 1]", "half"))
    ]
    (matmul,) = inspect_plan(write_plan(tmp_path / "x.engine", *parts)).matmuls
    assert (matmul.runs, matmul.reason) == (
        "float",
        "profile 1: the kernel multiplies half x half",
    )


def test_a_record_that_its_plan_confirms_stays(tmp_path: Path) -> None:
    found = inspect_confirmed(recorded(), block_plan(tmp_path / "x.engine"), "x")
    assert [m.runs for m in found.matmuls] == ["int8"] * 4 + ["float"]
    assert (found.attentions_int8, found.tensorrt_version) == (1, "1.7.1.116")


def test_a_record_that_its_plan_contradicts_is_disputed(tmp_path: Path) -> None:
    found = inspect_confirmed(recorded(), block_plan(tmp_path / "x", out_type="half"), "x")
    assert [m.node for m in found.matmuls if m.runs == "disputed"] == [OUT]
    assert of(found, OUT).reason == "the bundle's coverage.json says int8, its plan does not"


def test_an_attention_that_the_plan_contradicts_is_no_int8_attention(tmp_path: Path) -> None:
    plan = block_plan(tmp_path / "x", traits="Turing_hmma_fp16")
    found = inspect_confirmed(recorded(), plan, "x")
    assert {m.node for m in found.matmuls if m.runs == "disputed"} == {SCORES, CONTEXT}
    assert found.attentions_int8 == 0


def test_an_engine_for_another_target_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CoverageError, match=r"'x' says it is for SM 80; wanted SM75"):
        inspect_confirmed(recorded(), block_plan(tmp_path / "x.engine", mask=2), "x")


def test_an_engine_that_cannot_be_read_shows_its_record_alone(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"ftrt")
    found = inspect_recorded(recorded(), tmp_path / "x", "sm75/int8.engine")
    assert (found.kernels, found.weights, found.plan_sms, found.size_bytes) == (None, None, None, 4)
    assert found.int8_count == 4


def tensor(name: str, dtype: str) -> dict[str, str]:
    return {"Name": name, "Datatype": dtype, "Format": "Row major"}


def listing(path: Path, *layers: dict[str, object]) -> Path:
    path.write_text(json.dumps({"Layers": layers}), encoding="utf-8")
    return path


def listed_gemm(weight: str) -> dict[str, object]:
    return {
        "Name": "fc_myl0_1", "LayerType": "gemm", "Metadata": "[ONNX Layer: fc]",
        "Inputs": [tensor("a", "Int8")], "Constants": [tensor("w", weight)],
        "Outputs": [tensor("y", "Float")],
    }  # fmt: skip


@pytest.mark.parametrize(("weight", "runs"), [("Int8", "int8"), ("Half", "float")])
def test_a_listing_of_the_engine_inspector_is_judged_too(
    tmp_path: Path, weight: str, runs: str
) -> None:
    found = inspect_listing(listing(tmp_path / "l.json", listed_gemm(weight)))
    (matmul,) = found.matmuls
    assert (matmul.node, matmul.role, matmul.runs) == ("fc", "linear", runs)
    assert (found.size_bytes, found.weights) == (None, None)


def test_a_listing_with_opaque_layers_is_refused(tmp_path: Path) -> None:
    opaque: dict[str, object] = {
        "Name": "{ForeignNode[a...b]}",
        "LayerType": "Myelin",
        "Inputs": [],
        "Outputs": [],
    }
    with pytest.raises(CoverageError, match=r"one opaque ForeignNode; .* TensorRT 10 or later"):
        inspect_listing(listing(tmp_path / "l.json", listed_gemm("Int8"), opaque))
