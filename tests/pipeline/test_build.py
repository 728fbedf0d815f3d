"""The main job end to end on a two-layer BERT, with real TensorRT-RTX engines."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
import pytest

from tests.pipeline.conftest import Built, tiny_options
from trt_int8.engine.manifest_reader import read_manifest
from trt_int8.errors import BundleError, GraphError, ShapeError, TargetError
from trt_int8.pipeline import build
from trt_int8.pipeline.build import run_build
from trt_int8.pipeline.progress import SilentReporter
from trt_int8.spec.manifest import Policy
from trt_int8.spec.recipe import Recipe
from trt_int8.spec.shapes import parse_shapes
from trt_int8.spec.targets import parse_targets

pytestmark = pytest.mark.xdist_group("tiny-bundle")

# Two layers of 6 Linear and 2 attention matmuls.
MATMULS, ATTENTIONS = 16, 2


def digests(folder: Path, *suffixes: str) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.suffix in suffixes
    }


def test_every_matmul_runs_int8_on_both_targets(built: Built) -> None:
    int8 = [engine for engine in built.outcome.coverage if engine.precision == "int8"]
    assert [engine.sm for engine in int8] == [75, 80]
    assert [engine.int8_count for engine in int8] == [MATMULS, MATMULS]
    assert [engine.attentions_int8 for engine in int8] == [ATTENTIONS, ATTENTIONS]


def test_no_gemm_writes_half_from_an_int8_accumulator(built: Built) -> None:
    nodes = [n for e in built.outcome.coverage if e.precision == "int8" for n in e.nodes]
    assert {n.output for n in nodes if not n.fused_attention} == {"float"}


def test_every_linear_weight_is_a_constant_of_the_engine(built: Built) -> None:
    nodes = [n for e in built.outcome.coverage for n in e.nodes if n.role == "linear"]
    assert {n.constant_weight for n in nodes} == {True}


def test_the_fp16_twin_runs_nothing_in_int8_but_fuses_attention(built: Built) -> None:
    fp16 = [engine for engine in built.outcome.coverage if engine.precision == "fp16"]
    assert [(e.int8_count, e.attentions_fused) for e in fp16] == [(0, ATTENTIONS)] * 2


def test_the_manifest_lists_every_file_of_the_bundle(built: Built) -> None:
    manifest = read_manifest(built.outcome.bundle)
    present = {
        str(p.relative_to(built.outcome.bundle))
        for p in built.outcome.bundle.rglob("*")
        if p.is_file()
    }
    assert present == set(manifest.files) | {"manifest.json"}
    assert {engine.path for engine in manifest.engines} <= present


def test_a_met_policy_recommends_int8(built: Built) -> None:
    assert built.outcome.manifest.verdict.failures == ()
    assert built.outcome.manifest.verdict.recommended == "int8"


def test_the_policy_output_is_the_sentence_embedding(built: Built) -> None:
    accuracy = built.outcome.accuracy
    assert accuracy.primary_output == "sentence_embedding"
    assert accuracy.samples == 6  # every fourth of 24 texts
    assert accuracy.of("fp16", "fp32").cosine_mean > 0.999
    assert accuracy.of("int8", "fp32").sqnr_db < accuracy.of("fp16", "fp32").sqnr_db


def test_the_int8_file_keeps_weights_as_int8_and_scales_as_float32(built: Built) -> None:
    model = onnx.load(str(built.outcome.bundle / "model.int8.onnx"))
    tensors = {t.name: t for t in model.graph.initializer}
    dequantized = [n for n in model.graph.node if n.op_type == "DequantizeLinear"]
    weights = [tensors[n.input[0]] for n in dequantized if n.input[0] in tensors]
    assert len(weights) == 12
    assert {t.data_type for t in weights} == {onnx.TensorProto.INT8}
    scales = {tensors[n.input[1]].data_type for n in dequantized}
    assert scales == {onnx.TensorProto.FLOAT}


def test_the_report_needs_no_other_file(built: Built) -> None:
    page = (built.outcome.bundle / "report.html").read_text(encoding="utf-8")
    assert "Policy met" in page
    assert page.count("<svg") == 2
    for fetched in ('src="http', 'href="http', "@import", "<script"):
        assert fetched not in page


def test_two_runs_give_the_same_engines_and_onnx_files(built: Built, tmp_path: Path) -> None:
    again = built.options.model_copy(update={"out": tmp_path / "again"})
    run_build(again, SilentReporter())
    first = digests(built.outcome.bundle, ".engine", ".onnx")
    assert len(first) == 6
    assert digests(tmp_path / "again", ".engine", ".onnx") == first


def test_a_linear_only_recipe_meets_the_default_policy_with_its_linears(
    tiny_inputs: Path, tmp_path: Path
) -> None:
    options = tiny_options(
        tiny_inputs,
        out=tmp_path / "linear",
        recipe=Recipe(name="linear", attention=False),
        targets=parse_targets("t4"),
    )
    outcome = run_build(options, SilentReporter())
    assert outcome.coverage[0].int8_count == 12
    left = [node.role for node in outcome.coverage[0].nodes if node.left_float]
    assert left == ["attention"] * 4
    assert outcome.manifest.verdict.failures == ()
    assert outcome.manifest.verdict.recommended == "int8"
    assert (tmp_path / "linear" / "sm75" / "fp16.engine").is_file()


def test_an_unreachable_cosine_recommends_fp16(tiny_inputs: Path, tmp_path: Path) -> None:
    options = tiny_options(
        tiny_inputs,
        out=tmp_path / "strict",
        targets=parse_targets("t4"),
        policy=Policy(min_cosine=1.0),
    )
    outcome = run_build(options, SilentReporter())
    (failure,) = outcome.manifest.verdict.failures
    assert failure.startswith("mean cosine of sentence_embedding against FP16 is 0.99")


def test_a_second_run_takes_its_ranges_from_the_cache(tiny_inputs: Path, tmp_path: Path) -> None:
    options = tiny_options(
        tiny_inputs, out=tmp_path / "a", targets=parse_targets("t4"), cache=tmp_path / "cache"
    )
    first = run_build(options, SilentReporter())
    reporter = SilentReporter()
    second = run_build(options.model_copy(update={"out": tmp_path / "b"}), reporter)
    assert any(note.startswith("ranges taken from") for note in reporter.notes)
    ranges = [(o.bundle / "ranges.json").read_bytes() for o in (first, second)]
    assert ranges[0] == ranges[1]


def test_texts_cut_shorter_do_not_share_a_cache(tiny_inputs: Path, tmp_path: Path) -> None:
    options = tiny_options(
        tiny_inputs, out=tmp_path / "a", targets=parse_targets("t4"), cache=tmp_path / "cache"
    )
    run_build(options, SilentReporter())
    shorter = parse_shapes("batch=1:2:4,seq=4:6:8")
    run_build(
        options.model_copy(update={"out": tmp_path / "b", "shapes": shorter}), SilentReporter()
    )
    assert len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"targets": parse_targets("h100")}, TargetError, "SM90, which TensorRT-RTX does not have"),
        ({"shapes": parse_shapes("seq=1:2:41")}, ShapeError, "wanted at most 40"),
        ({"shapes": parse_shapes("seq=1:2:4")}, ShapeError, "dynamic axis 'batch'"),
    ],
)
def test_a_wrong_option_stops_before_anything_is_written(
    tiny_inputs: Path, tmp_path: Path, changes: dict[str, object], error: type, text: str
) -> None:
    options = tiny_options(tiny_inputs, out=tmp_path / "new" / "bundle", **changes)
    with pytest.raises(error, match=text):
        run_build(options, SilentReporter())
    assert list(tmp_path.iterdir()) == []


def test_an_old_bundle_is_kept_unless_forced(built: Built) -> None:
    before = digests(built.outcome.bundle, ".engine")
    with pytest.raises(BundleError, match="already holds a bundle"):
        run_build(built.options, SilentReporter())
    assert digests(built.outcome.bundle, ".engine") == before


def test_tensorrt_builds_only_for_the_card_in_this_machine(
    tiny_inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "check_available", lambda flavour: None)
    monkeypatch.setattr(build, "local_sm", lambda: 86)
    options = tiny_options(tiny_inputs, out=tmp_path / "b", flavour="tensorrt")
    with pytest.raises(TargetError, match="target 't4' is SM75, the card in this machine is SM86"):
        run_build(options, SilentReporter())


def test_a_model_too_large_for_one_file_is_refused_and_leaves_nothing(
    tiny_inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(model: onnx.ModelProto, path: str) -> None:
        raise ValueError("The proto size is larger than the 2 GB limit")

    monkeypatch.setattr(onnx, "save", refuse)
    options = tiny_options(tiny_inputs, out=tmp_path / "new" / "b")
    with pytest.raises(GraphError, match=r"cannot be written as one file .*2 GB limit"):
        run_build(options, SilentReporter())
    assert list(tmp_path.iterdir()) == []
