from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pipeline.conftest import Built
from tests.support.block_bundle import (
    make_block_bundle,
    recorded,
    recorded_half,
    write_coverage,
    write_manifest,
)
from tests.support.plans import OUT, UP, block_plan
from trt_int8.errors import TrtInt8Error
from trt_int8.pipeline.inspect import choose, run_inspect
from trt_int8.spec.build import Flavour
from trt_int8.spec.inspection import Inspection
from trt_int8.spec.manifest import MANIFEST_NAME
from trt_int8.spec.plugins import PluginEntry


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_block_bundle(tmp_path / "bundle")


def refusal(path: Path) -> str:
    with pytest.raises(TrtInt8Error) as refused:
        run_inspect(path)
    return str(refused.value)


def test_a_bundle_shows_each_engine_with_its_figures(bundle: Path) -> None:
    found = run_inspect(bundle)
    assert (found.source, found.model, found.notes) == ("bundle", "my <model>", ())
    int8, fp16 = found.engines
    assert (int8.name, fp16.name) == ("sm75/int8", "sm75/fp16")
    assert (int8.int8_count, len(int8.counted), fp16.int8_count) == (4, 5, 0)
    assert (int8.attentions, int8.attentions_fused, int8.attentions_int8) == (1, 1, 1)
    assert [m.node for m in int8.fallbacks] == [UP]
    assert found.twin_of(int8) is fp16
    assert found.twin_of(fp16) is None


def test_a_bundle_with_plugin_nodes_says_which_and_who_runs_them(bundle: Path) -> None:
    entry = PluginEntry(id="trt_int8::int8_attention", version="1", nodes=6, source_sha256="ab")
    write_manifest(bundle, plugins=(entry,))
    assert run_inspect(bundle).notes == (
        "plugin nodes in model.int8.onnx: 6 trt_int8::int8_attention; TensorRT-RTX runs none: its"
        " engines have the operators that they stand for",
    )


def test_a_bundle_shows_the_bytes_of_its_graphs_and_engines(bundle: Path) -> None:
    found = run_inspect(bundle)
    assert [(g.precision, [(w.dtype, w.size_bytes) for w in g.weights]) for g in found.onnx] == [
        ("int8", [("int8", 77)]),
        ("fp16", [("half", 154)]),
    ]
    sizes = [(bundle / f"sm75/{p}.engine").stat().st_size for p in ("int8", "fp16")]
    assert [engine.size_bytes for engine in found.engines] == sizes
    weights = {w.dtype: w.size_bytes for w in found.engines[0].weights or ()}
    assert weights == {"int8": 16384, "half": 10240, "float": 4}


def test_what_was_found_comes_back_whole_from_json(bundle: Path) -> None:
    found = run_inspect(bundle)
    text = found.to_json()
    assert Inspection.model_validate_json(text) == found
    assert json.loads(text)["format"] == "trt_int8-inspection-1"


def test_an_inspection_of_another_format_is_refused(bundle: Path) -> None:
    text = run_inspect(bundle).to_json().replace("inspection-1", "inspection-2")
    with pytest.raises(ValueError, match="trt_int8-inspection-1"):
        Inspection.model_validate_json(text)


def test_a_bare_engine_is_read_without_its_bundle(bundle: Path) -> None:
    found = run_inspect(bundle / "sm75" / "int8.engine")
    assert (found.source, found.model, found.onnx) == ("engine", None, ())
    (engine,) = found.engines
    assert (engine.name, engine.int8_count, len(engine.counted)) == ("int8.engine", 4, 5)
    assert "no ONNX file beside it" in found.notes[0]


def test_a_record_that_the_engine_contradicts_is_shown_as_disputed(bundle: Path) -> None:
    block_plan(bundle / "sm75" / "int8.engine", out_type="half")
    write_manifest(bundle)
    engine = run_inspect(bundle).engines[0]
    assert [m.node for m in engine.matmuls if m.runs == "disputed"] == [OUT]


def test_a_tensorrt_bundle_shows_what_was_recorded_and_says_what_is_missing(tmp_path: Path) -> None:
    bundle = make_block_bundle(tmp_path / "bundle")
    (bundle / "sm75").rename(bundle / "local")
    for name in ("int8", "fp16"):
        (bundle / "local" / f"{name}.engine").write_bytes(b"ftrt of another kind")
    write_coverage(bundle, recorded(None), recorded_half(None))
    write_manifest(bundle, flavour=Flavour.TENSORRT)
    found = run_inspect(bundle)
    assert [e.name for e in found.engines] == ["local/int8", "local/fp16"]
    assert (found.engines[0].kernels, found.engines[0].int8_count) == (None, 4)
    assert "--exportLayerInfo" in found.notes[0]


def test_a_real_bundle_shows_what_its_build_recorded(built: Built) -> None:
    found = run_inspect(built.outcome.bundle)
    assert [(e.int8_count, len(e.counted), e.attentions_int8) for e in found.engines] == [
        (c.int8_count, len(c.counted), c.attentions_int8) for c in built.outcome.coverage
    ]
    # Two layers: Q, K, V and output [64, 64], feed-forward [64, 80] and [80, 64].
    int8 = 2 * (4 * 64 * 64 + 2 * 64 * 80)
    for engine in found.engines:
        values = {weights.dtype: weights.values for weights in engine.weights or ()}
        assert values.get("int8", 0) == (int8 if engine.precision == "int8" else 0)


def test_a_real_engine_alone_shows_the_int8_matmuls_of_its_bundle(built: Built) -> None:
    bundle, recorded_now = built.outcome.bundle, built.outcome.coverage
    for entry, coverage in zip(built.outcome.manifest.engines, recorded_now, strict=True):
        (alone,) = run_inspect(bundle / entry.path).engines
        proven = {m.node for m in alone.matmuls if m.runs == "int8"}
        assert proven == {n.node for n in coverage.nodes if n.runs == "int8"}


def change_engine(bundle: Path) -> None:
    path = bundle / "sm75" / "int8.engine"
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def cut_engine(bundle: Path) -> None:
    path = bundle / "sm75" / "int8.engine"
    path.write_bytes(path.read_bytes()[:-1])
    write_manifest(bundle)


def garbage_engine(bundle: Path) -> None:
    (bundle / "sm75" / "int8.engine").write_bytes(bytes(range(256)) * 3)
    write_manifest(bundle)


def other_target(bundle: Path) -> None:
    block_plan(bundle / "sm75" / "int8.engine", mask=2)
    write_manifest(bundle)


def other_format(bundle: Path) -> None:
    path = bundle / MANIFEST_NAME
    known = json.loads(path.read_text())
    path.write_text(json.dumps(known | {"format": "trt_int8-bundle-99"}))


def garbage_coverage(bundle: Path) -> None:
    (bundle / "coverage.json").write_text('[{"sm": 75}]')
    write_manifest(bundle)


def forget_coverage_of_one(bundle: Path) -> None:
    write_coverage(bundle, recorded())
    write_manifest(bundle)


def lose_coverage(bundle: Path) -> None:
    (bundle / "coverage.json").unlink()
    write_manifest(bundle)


def garbage_onnx(bundle: Path) -> None:
    (bundle / "model.int8.onnx").write_bytes(b"\xff\xff\xff\xff")
    write_manifest(bundle)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (change_engine, "file 'sm75/int8.engine' of bundle .* was changed"),
        (lambda b: (b / "sm75" / "fp16.engine").unlink(), "'sm75/fp16.engine' .* is missing"),
        (lambda b: (b / MANIFEST_NAME).unlink(), "has no manifest.json; wanted a bundle"),
        (cut_engine, "plan 'int8.engine' has [0-9]+ bytes; wanted [0-9]+"),
        (garbage_engine, "'int8.engine' is not a plan"),
        (other_target, "'sm75/int8.engine' says it is for SM 80; wanted SM75"),
        (other_format, "manifest of .* has the format .*; wanted trt_int8-bundle-3"),
        (garbage_coverage, r"coverage.json of .* cannot be read \(0.precision"),
        (forget_coverage_of_one, "says nothing of engine 'sm75/fp16.engine'"),
        (lose_coverage, "lists no coverage.json"),
        (garbage_onnx, "'model.int8.onnx' of bundle .* is no ONNX file"),
    ],
)
def test_a_damaged_bundle_is_refused_with_the_reason(
    bundle: Path, damage: Callable[[Path], None], why: str
) -> None:
    run_inspect(bundle)
    damage(bundle)
    with pytest.raises(TrtInt8Error, match=why):
        run_inspect(bundle)


@pytest.mark.parametrize("data", [b"", b"ftrt", b"\x08\x08\x12\x07pytorch", b"vtrt"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.engine").write_bytes(data)
    said = refusal(tmp_path / "x.engine")
    assert "not a TensorRT-RTX engine" in said or "is not a plan" in said


def test_a_path_with_nothing_is_refused(tmp_path: Path) -> None:
    assert "no file or folder" in refusal(tmp_path / "gone")
    assert "has no manifest.json" in refusal(tmp_path)


def test_json_that_lists_no_layers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "l.json").write_text('{"a": 1}')
    assert "not JSON with 'Layers'" in refusal(tmp_path / "l.json")


@pytest.mark.parametrize("name", ["sm75/fp16", "SM75/FP16.engine", "sm75 fp16"])
def test_one_engine_is_chosen_by_its_name(bundle: Path, name: str) -> None:
    found = run_inspect(bundle)
    assert choose(found, name) == (found.engines[1],)
    assert choose(found, None) == found.engines


def test_an_unknown_engine_is_refused_with_the_known_ones(bundle: Path) -> None:
    with pytest.raises(TrtInt8Error, match="no engine 'sm80/int8' here; wanted one of sm75/int8"):
        choose(run_inspect(bundle), "sm80/int8")
