"""The coverage reader on engines that TensorRT-RTX really builds, whole and damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.support.attention_block import (
    build,
    coverage_of,
    not_int8,
    request_for,
    saved_request,
    without_pair,
)
from trt_int8.engine import selftest
from trt_int8.engine.plan_text import read_plan
from trt_int8.errors import CoverageError
from trt_int8.evaluate.compare import run
from trt_int8.spec.coverage import EngineCoverage

SMS = (75, 80)
NODES = ["q", "k", "v", "scores", "context", "out"]
# DequantizeLinear taken out: matmuls that lose INT8, attentions still fused in one INT8 kernel.
# One attention pair less un-fuses it; the other BMM stays INT8.
LOSSES = {
    "x_dq": ({"q", "k", "v"}, 1),
    "q/weight/DequantizeLinear": ({"q"}, 1),
    "k/weight/DequantizeLinear": ({"k"}, 1),
    "v/weight/DequantizeLinear": ({"v"}, 1),
    "q_t_dq": ({"scores"}, 0),
    "k_t_dq": ({"scores"}, 0),
    "v_t_dq": ({"context"}, 0),
    "p_dq": ({"context"}, 0),
    "flatten_dq": ({"out"}, 0),
    "out/weight/DequantizeLinear": ({"out"}, 1),
}


@pytest.fixture(scope="module")
def controls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, EngineCoverage]:
    """Coverage of both controls for each target, by "positive 75" and so on."""
    folder = tmp_path_factory.mktemp("controls")
    makers = {"positive": selftest.positive_control, "negative": selftest.negative_control}
    requests = {}
    for name, make in makers.items():
        onnx.save(make(), str(folder / f"{name}.onnx"))
        for sm in SMS:
            requests[f"{name} {sm}"] = request_for(folder / f"{name}.onnx", sm)
    build(requests)
    assert [read_plan(Path(r.engine_path)).sms for r in requests.values()] == [(75,), (80,)] * 2
    return {label: coverage_of(request) for label, request in requests.items()}


@pytest.mark.parametrize("sm", SMS)
def test_the_positive_control_runs_int8_everywhere(
    controls: dict[str, EngineCoverage], sm: int
) -> None:
    coverage = controls[f"positive {sm}"]
    assert [node.node for node in coverage.nodes if node.runs == "int8"] == NODES
    assert (coverage.attentions, coverage.attentions_fused, coverage.attentions_int8) == (1, 1, 1)
    assert coverage.fraction == 1.0


@pytest.mark.parametrize("sm", SMS)
def test_gemm_outputs_are_float_so_that_no_accumulator_overflows_half(
    controls: dict[str, EngineCoverage], sm: int
) -> None:
    nodes = {node.node: node for node in controls[f"positive {sm}"].nodes}
    assert {nodes[name].output for name in ("q", "k", "v", "out")} == {"float"}
    assert all(nodes[name].constant_weight for name in ("q", "k", "v", "out"))


@pytest.mark.parametrize("sm", SMS)
def test_the_negative_control_loses_int8_in_its_last_linear_only(
    controls: dict[str, EngineCoverage], sm: int
) -> None:
    coverage = controls[f"negative {sm}"]
    assert not_int8(coverage) == {"out"}
    assert coverage.int8_count == 5


@pytest.mark.parametrize("sm", SMS)
def test_the_self_test_accepts_what_the_two_controls_give(
    controls: dict[str, EngineCoverage], sm: int
) -> None:
    selftest.check(controls[f"positive {sm}"], controls[f"negative {sm}"])


@pytest.mark.parametrize("sm", SMS)
@pytest.mark.parametrize("pair", LOSSES)
def test_taking_out_one_qdq_pair_loses_exactly_its_matmuls(
    pair: str, sm: int, tmp_path: Path
) -> None:
    request = saved_request(tmp_path, without_pair(selftest.positive_control(), pair), sm)
    build({"damaged": request})
    coverage = coverage_of(request)
    lost, fused = LOSSES[pair]
    assert not_int8(coverage) == lost
    assert {node.runs for node in coverage.nodes if node.node in lost} == {"float"}
    assert (coverage.attentions_fused, coverage.attentions_int8) == (fused, fused)


def test_every_pair_of_the_positive_control_is_taken_out_once() -> None:
    nodes = selftest.positive_control().graph.node
    assert {node.name for node in nodes if node.op_type == "DequantizeLinear"} == set(LOSSES)


def test_the_self_test_refuses_int8_seen_everywhere_in_the_negative_control(
    controls: dict[str, EngineCoverage],
) -> None:
    positive = controls["positive 75"]
    with pytest.raises(CoverageError, match=r"self-test for SM75 saw INT8 in .*'out'.*'out'"):
        selftest.check(positive, positive)


def test_the_self_test_refuses_a_reader_that_misses_int8(
    controls: dict[str, EngineCoverage],
) -> None:
    negative = controls["negative 80"]
    with pytest.raises(CoverageError, match=r"SM80 saw INT8 .* wanted .*1 fused INT8 attention"):
        selftest.check(negative, negative)


def test_the_self_test_refuses_an_attention_that_is_not_one_kernel(
    controls: dict[str, EngineCoverage],
) -> None:
    unfused = controls["positive 75"].model_copy(update={"attentions_int8": 0})
    with pytest.raises(CoverageError, match=", 0 fused INT8 attention"):
        selftest.check(unfused, controls["negative 75"])


def test_the_controls_compute_nearly_the_same_in_onnx_runtime(tmp_path: Path) -> None:
    outputs = []
    x = np.random.default_rng(3).standard_normal((2, 17, 64)).astype(np.float32)
    for make in (selftest.positive_control, selftest.negative_control):
        onnx.save(make(), str(tmp_path / "control.onnx"))
        batches = [{"x": x}]
        outputs.append(run(tmp_path / "control.onnx", batches, lambda: None)[0]["out"])  # type: ignore[arg-type]
    difference = np.abs(outputs[0] - outputs[1]).max()
    assert 0 < difference < 0.1 * np.abs(outputs[1]).max()
