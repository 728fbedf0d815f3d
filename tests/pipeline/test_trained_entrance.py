"""Hugging Face folders that carry the ranges of quantization-aware training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.pipeline.conftest import tiny_options
from tests.support.onnx_tiny import constants_of, maker_of
from tests.support.tiny_folder import write_bert, write_texts
from tests.support.user_models import write_trained_bert
from trt_int8.errors import ModelError
from trt_int8.model.onnx_matmuls import find_matmuls
from trt_int8.model.quantizers import quantizer_ranges
from trt_int8.model.source import resolve_source
from trt_int8.pipeline.build import run_build
from trt_int8.pipeline.data import PreparedModel
from trt_int8.pipeline.prepare import prepare
from trt_int8.pipeline.progress import SilentReporter
from trt_int8.spec.manifest import Policy
from trt_int8.spec.ranges import RangeTable
from trt_int8.spec.targets import parse_targets

LINEARS = 12
SITE = "encoder.layer.1.attention.output.dense"


@pytest.fixture
def trained(tmp_path: Path) -> Any:
    write_texts(tmp_path / "texts.txt")
    return write_trained_bert(tmp_path / "bert")


def prepared(folder: Path, **changes: object) -> tuple[PreparedModel, list[str]]:
    reporter = SilentReporter()
    options = tiny_options(folder, **changes)
    return prepare(resolve_source(options.model), options, reporter), reporter.notes


def edit(folder: Path, **changes: torch.Tensor | None) -> None:
    """Change tensors of a checkpoint; None drops one. Dots in names are written as __."""
    tensors = load_file(folder / "model.safetensors")
    for name, value in changes.items():
        key = name.replace("__", ".")
        tensors.pop(key, None)
        if value is not None:
            tensors[key] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_checkpoint_without_quantizers_has_no_ranges(tmp_path: Path) -> None:
    assert quantizer_ranges(resolve_source(str(write_bert(tmp_path / "bert")))) == {}


def test_the_ranges_of_a_checkpoint_are_read_by_quantizer(trained: Any, tmp_path: Path) -> None:
    ranges = quantizer_ranges(resolve_source(str(tmp_path / "bert")))
    assert len(ranges) == 2 * LINEARS
    module = trained.get_submodule(SITE)
    assert ranges[f"{SITE}._input_quantizer"] == module._input_quantizer._amax.item()
    weights = module._weight_quantizer._amax.reshape(-1).numpy()
    np.testing.assert_array_equal(ranges[f"{SITE}._weight_quantizer"], weights)


def test_a_learned_range_is_its_farther_end(trained: Any, tmp_path: Path) -> None:
    key = f"{SITE}._input_quantizer.".replace(".", "__")
    edit(
        tmp_path / "bert",
        **{
            f"{key}_amax": None,
            f"{key}clip__clip_value_min": torch.tensor(-2.5),
            f"{key}clip__clip_value_max": torch.tensor(1.5),
        },
    )
    ranges = quantizer_ranges(resolve_source(str(tmp_path / "bert")))
    assert ranges[f"{SITE}._input_quantizer"] == 2.5


def test_pytorch_files_are_read_too(trained: Any, tmp_path: Path) -> None:
    folder = tmp_path / "bert"
    before = quantizer_ranges(resolve_source(str(folder)))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    after = quantizer_ranges(resolve_source(str(folder)))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_a_damaged_weight_file_is_refused(trained: Any, tmp_path: Path) -> None:
    file = tmp_path / "bert" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ModelError, match="is damaged"):
        quantizer_ranges(resolve_source(str(tmp_path / "bert")))


def test_the_linears_are_int8_with_the_ranges_of_the_checkpoint(
    trained: Any, tmp_path: Path
) -> None:
    done, notes = prepared(tmp_path)
    assert any("those of 12 Linear layers are kept, nothing is calibrated" in n for n in notes)
    sites = find_matmuls(done.int8)
    assert sum(site.wanted_int8 for site in sites) == LINEARS
    constants = constants_of(done.int8)
    (product,) = [
        n for n in done.int8.graph.node if n.op_type == "MatMul" and "1/attention/output" in n.name
    ]
    module = trained.get_submodule(SITE)
    activation, weight = (maker_of(done.int8, name) for name in product.input)
    amax = np.float32(module._input_quantizer._amax.item())
    np.testing.assert_allclose(constants[activation.input[1]], amax / 127, rtol=1e-6)
    rows = module._weight_quantizer._amax.reshape(-1).numpy()
    np.testing.assert_allclose(constants[weight.input[1]], rows / 127, rtol=1e-6)


def test_the_codes_are_the_trained_weights_in_the_trained_ranges(
    trained: Any, tmp_path: Path
) -> None:
    done, _ = prepared(tmp_path)
    (product,) = [
        n for n in done.int8.graph.node if n.op_type == "MatMul" and "1/attention/output" in n.name
    ]
    codes = constants_of(done.int8)[maker_of(done.int8, product.input[1]).input[0]]
    module = trained.get_submodule(SITE)
    steps = module._weight_quantizer._amax.numpy() / np.float32(127)
    expected = np.clip(np.rint(module.weight.detach().numpy() / steps), -128, 127)
    np.testing.assert_array_equal(codes, expected.T)
    # Ranges are 0.9 of the largest weight, so both ends are reached.
    assert np.abs(codes.astype(int)).max() >= 127


def test_the_range_table_of_a_bundle_names_the_checkpoint(trained: Any, tmp_path: Path) -> None:
    done, _ = prepared(tmp_path)
    assert done.ranges is not None
    assert (done.ranges.method, len(done.ranges.ranges)) == ("checkpoint", LINEARS)
    RangeTable.model_validate_json(done.ranges.to_json())


def test_all_linears_run_int8_in_the_engine_of_a_checkpoint(trained: Any, tmp_path: Path) -> None:
    policy = Policy(min_coverage=0.75, min_cosine=0.9)
    options = tiny_options(tmp_path, policy=policy, targets=parse_targets("t4"))
    outcome = run_build(options, SilentReporter())
    int8 = [engine for engine in outcome.coverage if engine.precision == "int8"]
    assert [(e.sm, e.int8_count, len(e.counted)) for e in int8] == [(75, 12, 16)]
    assert outcome.manifest.verdict.failures == ()


def test_ranges_under_the_prefix_of_a_task_model_find_their_layers(tmp_path: Path) -> None:
    write_texts(tmp_path / "texts.txt")
    write_trained_bert(tmp_path / "bert", "ForSequenceClassification")
    done, notes = prepared(tmp_path)
    # The pooler and the classifier (N = 2) were trained with ranges too.
    assert sum(site.wanted_int8 for site in find_matmuls(done.int8)) == LINEARS + 2
    assert not any("of no Linear" in note for note in notes)


def test_a_layer_with_a_weight_range_alone_stays_float_and_is_named(
    trained: Any, tmp_path: Path
) -> None:
    edit(tmp_path / "bert", **{f"{SITE}._input_quantizer._amax".replace(".", "__"): None})
    done, notes = prepared(tmp_path)
    assert sum(site.wanted_int8 for site in find_matmuls(done.int8)) == LINEARS - 1
    assert any(f"of no Linear with an input range here: {SITE}" in note for note in notes)


def test_a_quantizer_without_a_place_in_the_architecture_is_refused(
    trained: Any, tmp_path: Path
) -> None:
    key = "encoder__layer__0__attention__self__query_quantizer___amax"
    edit(tmp_path / "bert", **{key: torch.tensor(1.0)})
    with pytest.raises(ModelError, match=r"attention\.self\.query_quantizer', which BertModel has"):
        prepared(tmp_path)


@pytest.mark.parametrize("amax", [0.0, -1.0, float("nan"), float("inf")])
def test_a_range_that_is_no_range_is_refused_by_name(
    trained: Any, tmp_path: Path, amax: float
) -> None:
    key = f"{SITE}._input_quantizer._amax".replace(".", "__")
    edit(tmp_path / "bert", **{key: torch.tensor(amax)})
    with pytest.raises(ModelError, match=r"attention\.output\.dense\._input_quantizer' is"):
        prepared(tmp_path)


def test_ranges_given_beside_those_of_the_checkpoint_are_refused(
    trained: Any, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="leave --ranges out"):
        prepared(tmp_path, ranges=tmp_path / "ranges.json")
