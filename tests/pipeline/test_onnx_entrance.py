"""ONNX files as input: float, Q/DQ, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

from tests.pipeline.conftest import Built, tiny_options
from tests.support.onnx_tiny import Tiny
from tests.support.tiny_folder import write_tokenizer
from trt_int8.errors import GraphError, ModelError
from trt_int8.graph.export import export_float
from trt_int8.model.huggingface import load_text_model
from trt_int8.model.source import resolve_source
from trt_int8.pipeline.build import run_build
from trt_int8.pipeline.onnx_entrance import load_onnx
from trt_int8.pipeline.progress import SilentReporter
from trt_int8.spec.targets import parse_targets

pytestmark = pytest.mark.xdist_group("tiny-bundle")


@pytest.fixture(scope="module")
def float_file(tiny_inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("float")
    model = load_text_model(resolve_source(str(tiny_inputs / "bert")))
    model.backbone.set_attn_implementation("eager")
    onnx.save(export_float(model), str(folder / "model.onnx"))
    write_tokenizer(folder)
    return folder / "model.onnx"


def test_a_float_file_reaches_the_coverage_of_the_pytorch_entrance(
    tiny_inputs: Path, float_file: Path, tmp_path: Path
) -> None:
    options = tiny_options(tiny_inputs, model=str(float_file), out=tmp_path / "bundle")
    outcome = run_build(options, SilentReporter())
    int8 = [e for e in outcome.coverage if e.precision == "int8"]
    assert [(e.int8_count, e.attentions_int8) for e in int8] == [(16, 2), (16, 2)]
    assert outcome.manifest.verdict.failures == ()


def test_a_file_with_qdq_keeps_its_own_ranges(
    tiny_inputs: Path, float_file: Path, tmp_path: Path
) -> None:
    first = run_build(
        tiny_options(tiny_inputs, model=str(float_file), out=tmp_path / "first"), SilentReporter()
    )
    from trt_int8.annotate.onnx_model import plan_onnx
    from trt_int8.graph.insert import insert_qdq
    from trt_int8.spec.ranges import RangeTable
    from trt_int8.spec.recipe import Recipe

    table = RangeTable.model_validate_json((first.bundle / "ranges.json").read_bytes())
    model = onnx.load(str(float_file))
    quantized = tmp_path / "model.qdq.onnx"
    onnx.save(insert_qdq(model, plan_onnx(model, Recipe()), table.ranges), str(quantized))
    options = tiny_options(
        tiny_inputs,
        model=str(quantized),
        out=tmp_path / "second",
        tokenizer=float_file.parent,
        targets=parse_targets("t4"),
    )
    second = run_build(options, SilentReporter())
    assert second.coverage[0].int8_count == 16
    assert not (second.bundle / "ranges.json").exists()
    ours, theirs = (o.accuracy.of("int8", "fp16").cosine_mean for o in (first, second))
    assert theirs == pytest.approx(ours, abs=2e-3)


@pytest.fixture
def asymmetric_file(float_file: Path, tmp_path: Path) -> Path:
    """The float file, quantized by ONNX Runtime with zero points."""
    fills = {"input_ids": 7, "attention_mask": 1, "token_type_ids": 0}
    inputs = [value.name for value in onnx.load(str(float_file)).graph.input]
    rows = iter([{name: np.full((2, 9), fills[name]) for name in inputs}])

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, NDArray[np.int64]] | None:
            return next(rows, None)

    path = tmp_path / "asymmetric.onnx"
    quantize_static(str(float_file), str(path), Reader(), quant_format=QuantFormat.QDQ)
    return path


def test_an_asymmetric_file_is_refused_with_the_option_that_takes_it(
    tiny_inputs: Path, float_file: Path, asymmetric_file: Path, tmp_path: Path
) -> None:
    options = tiny_options(
        tiny_inputs,
        model=str(asymmetric_file),
        out=tmp_path / "refused",
        tokenizer=float_file.parent,
    )
    with pytest.raises(GraphError, match=r"zero point that is not 0.*--requantize"):
        run_build(options, SilentReporter())


def test_requantize_takes_out_foreign_pairs_and_calibrates_anew(
    tiny_inputs: Path, float_file: Path, asymmetric_file: Path, tmp_path: Path
) -> None:
    options = tiny_options(
        tiny_inputs,
        model=str(asymmetric_file),
        out=tmp_path / "anew",
        tokenizer=float_file.parent,
        targets=parse_targets("t4"),
        requantize=True,
    )
    outcome = run_build(options, SilentReporter())
    assert outcome.coverage[0].int8_count == 16
    assert (outcome.bundle / "ranges.json").is_file()


def test_a_cut_file_is_refused(float_file: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(float_file.read_bytes()[:5000])
    with pytest.raises(ModelError, match="is not a valid ONNX file"):
        load_onnx(cut)


def test_an_old_opset_is_converted(tmp_path: Path) -> None:
    tiny = Tiny()
    tiny.op("Squeeze", tiny.op("Unsqueeze", "x", axes=[0]), axes=[0], out="y")
    onnx.save(tiny.build({"x": [3, 5]}, {"y": [3, 5]}, opset=11), str(tmp_path / "old.onnx"))
    assert load_onnx(tmp_path / "old.onnx").opset_import[0].version == 13


def test_an_old_opset_that_cannot_be_converted_is_refused(float_file: Path, tmp_path: Path) -> None:
    model = onnx.load(str(float_file))
    model.opset_import[0].version = 7
    del model.graph.node[:]
    model.graph.node.append(onnx.helper.make_node("NoSuchOperator", ["input_ids"], ["y"]))
    del model.graph.output[:]
    onnx.save(model, str(tmp_path / "old.onnx"))
    with pytest.raises((GraphError, ModelError), match=r"opset 13 or newer|is not a valid ONNX"):
        load_onnx(tmp_path / "old.onnx")


def test_a_file_without_a_tokenizer_is_refused(
    tiny_inputs: Path, float_file: Path, tmp_path: Path
) -> None:
    lonely = tmp_path / "a" / "b" / "model.onnx"
    lonely.parent.mkdir(parents=True)
    lonely.write_bytes(float_file.read_bytes())
    options = tiny_options(tiny_inputs, model=str(lonely), out=tmp_path / "bundle")
    with pytest.raises(ModelError, match=r"no tokenizer in .*pass --tokenizer FOLDER"):
        run_build(options, SilentReporter())


def test_the_fp16_twin_of_a_bundle_is_no_input(
    tiny_inputs: Path, built: Built, tmp_path: Path
) -> None:
    twin = str(built.outcome.bundle / "model.fp16.onnx")
    options = tiny_options(tiny_inputs, model=twin, out=tmp_path / "bundle")
    with pytest.raises(GraphError, match="holds float16 or bfloat16 tensors"):
        run_build(options, SilentReporter())


def test_a_qdq_file_in_half_precision_is_taken(
    tiny_inputs: Path, built: Built, tmp_path: Path
) -> None:
    options = tiny_options(
        tiny_inputs,
        model=str(built.outcome.bundle / "model.int8.onnx"),
        tokenizer=tiny_inputs / "bert",
        out=tmp_path / "bundle",
        targets=parse_targets("t4"),
    )
    outcome = run_build(options, SilentReporter())
    assert (outcome.coverage[0].int8_count, outcome.coverage[0].attentions_int8) == (16, 2)
