"""A user's annotated model and his trained checkpoints, to ONNX and to engines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from pytorch_quantization.nn import TensorQuantizer

from tests.pipeline.conftest import tiny_options
from tests.support.onnx_tiny import constants_of, run_ort
from tests.support.tiny_folder import write_texts, write_tokenizer
from tests.support.tiny_transformers import tiny_backbone, tokens
from tests.support.user_models import (
    calibrate,
    calibrated_block,
    quantized_modules,
)
from trt_int8.errors import BundleError, ModelError
from trt_int8.graph.normalize import normalize
from trt_int8.model.onnx_matmuls import find_matmuls
from trt_int8.pipeline.user_entrance import build_annotated, export_annotated
from trt_int8.spec.targets import parse_targets


def feeds(batch: int = 4, length: int = 13, seed: int = 3) -> dict[str, torch.Tensor]:
    return dict(zip(("input_ids", "attention_mask"), tokens(batch, length, seed), strict=True))


def as_arrays(given: dict[str, torch.Tensor]) -> dict[str, np.ndarray[tuple[int, ...], np.dtype]]:
    return {name: value.numpy() for name, value in given.items()}


def test_a_users_block_gives_a_graph_whose_matmuls_all_have_int8_operands(tmp_path: Path) -> None:
    done = export_annotated(calibrated_block(), feeds(), tmp_path / "block.onnx")
    graph = onnx.load(str(done.path))
    assert (done.inputs, done.outputs) == (("input_ids", "attention_mask"), ("hidden",))
    sites = find_matmuls(graph)
    assert [s.role for s in sites].count("attention") == 2
    assert all(s.wanted_int8 for s in sites)
    assert len(sites) == 6


def test_the_graph_computes_what_pytorchs_native_fake_quantization_does(tmp_path: Path) -> None:
    model, given = calibrated_block(), feeds()
    done = export_annotated(model, given, tmp_path / "block.onnx")
    other = feeds(batch=2, length=5, seed=8)
    with torch.no_grad():
        TensorQuantizer.use_fb_fake_quant = True
        try:
            expected = model(**other)["hidden"].numpy()
        finally:
            TensorQuantizer.use_fb_fake_quant = False
    found = run_ort(onnx.load(str(done.path)), as_arrays(other))[0]
    # One code may differ where x / scale is at a tie; a whole row never.
    assert np.mean(np.abs(found - expected) > 1e-4) < 0.02
    assert np.abs(found - expected).max() < 0.05


def test_the_ranges_in_the_graph_are_those_of_the_model(tmp_path: Path) -> None:
    model = calibrated_block()
    done = export_annotated(model, feeds(), tmp_path / "block.onnx")
    constants = constants_of(onnx.load(str(done.path)))
    scales = {np.float32(a).tobytes() for a in constants.values() if a.dtype == "f4" and a.ndim < 1}
    amax = np.float32(model.query_quantizer.amax.item())
    assert np.float32(amax / np.float32(127)).tobytes() in scales


def test_the_file_is_in_normal_form_already(tmp_path: Path) -> None:
    done = export_annotated(calibrated_block(), feeds(), tmp_path / "block.onnx")
    graph = onnx.load(str(done.path))
    assert normalize(graph).SerializeToString() == graph.SerializeToString()


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = calibrated_block().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    export_annotated(model, feeds(), tmp_path / "block.onnx")
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(module.training for module in model.modules())


def test_positional_examples_are_named_by_the_models_arguments(tmp_path: Path) -> None:
    done = export_annotated(calibrated_block(), tokens(), tmp_path / "block.onnx")
    assert done.inputs == ("input_ids", "attention_mask")


def test_a_transformers_model_made_under_quant_modules_is_taken(tmp_path: Path) -> None:
    with quantized_modules():
        model = tiny_backbone("Bert", "ForSequenceClassification")
    model.set_attn_implementation("eager")
    model.config.use_cache = False
    calibrate(model)
    done = export_annotated(model, feeds(), tmp_path / "bert.onnx")
    sites = find_matmuls(onnx.load(str(done.path)))
    linears = [site for site in sites if site.role == "linear"]
    assert done.outputs == ("logits",)
    assert len(linears) == 13
    assert all(site.wanted_int8 for site in linears)


def test_an_example_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    wrong = {"input_ids": torch.ones(2, 3, dtype=torch.int64)}
    with pytest.raises(ModelError, match="Block does not run on the example"):
        export_annotated(calibrated_block(), wrong, tmp_path / "block.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_model_in_half_precision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"'table\.weight' is in half precision"):
        export_annotated(calibrated_block().half(), feeds(), tmp_path / "block.onnx")


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot be written"):
        export_annotated(calibrated_block(), feeds(), tmp_path / "none" / "block.onnx")


def test_every_matmul_of_a_users_block_runs_int8_in_an_engine(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    write_texts(tmp_path / "texts.txt")
    options = tiny_options(
        tmp_path,
        model="block",
        tokenizer=tmp_path,
        out=tmp_path / "bundle",
        targets=parse_targets("t4"),
    )
    outcome = build_annotated(calibrated_block(), feeds(), options)
    (int8,) = [engine for engine in outcome.coverage if engine.precision == "int8"]
    assert (int8.int8_count, len(int8.counted)) == (6, 6)
    assert outcome.manifest.model == "block"
