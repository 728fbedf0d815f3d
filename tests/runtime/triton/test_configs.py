"""Configurations against files written by hand, and as NVIDIA's protobuf message reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.runtime.triton.protobuf import read_config
from tests.runtime.triton.tiny import (
    CLASSES,
    ONE_PROFILE,
    TWO_PROFILES,
    classifier,
    make_bundle,
    settings_of,
    tagger,
)
from trt_int8.errors import RequestError
from trt_int8.runtime.triton.export import export_triton
from trt_int8.runtime.triton.options import TritonOptions
from trt_int8.spec.build import Flavour
from trt_int8.spec.manifest import EngineEntry
from trt_int8.spec.shapes import InputShape
from trt_int8.spec.text import TextSettings

GOLDEN = Path(__file__).parent / "golden"


def golden(name: str) -> Any:
    return read_config(GOLDEN / f"{name}.pbtxt")


def exported(tmp_path: Path, options: TritonOptions, **changes: Any) -> Path:
    bundle = make_bundle(tmp_path / "bundle", **changes)
    return export_triton(bundle, tmp_path / "repo", options).folder


def config_of(repo: Path, name: str = "tiny") -> Any:
    return read_config(repo / name / "config.pbtxt")


def test_engines_for_two_cards_give_the_configuration_written_by_hand(tmp_path: Path) -> None:
    options = TritonOptions(device="cuda:0,1", instances=2, queue_delay_us=250)
    assert config_of(exported(tmp_path, options, text=CLASSES)) == golden("tensorrt")


@pytest.mark.parametrize(("model", "file"), [("text", "ensemble"), ("tokenizer", "tokenizer")])
def test_strings_are_served_as_written_by_hand(tmp_path: Path, model: str, file: str) -> None:
    repo = exported(tmp_path, TritonOptions(instances=2, text=True), text=CLASSES)
    assert config_of(repo, f"tiny_{model}") == golden(file)


def test_the_graph_for_a_card_gives_the_configuration_written_by_hand(tmp_path: Path) -> None:
    options = TritonOptions(backend="onnxruntime")
    made = config_of(exported(tmp_path, options, flavour=Flavour.RTX))
    warm = [sample.name for sample in made.model_warmup]
    assert warm == [f"batch_{b}_of_{s}" for s in (8, 16, 20) for b in (1, 6)]
    del made.model_warmup[:]
    assert made == golden("onnxruntime_cuda")


def test_the_negative_control_of_the_golden_files_differs(tmp_path: Path) -> None:
    repo = exported(tmp_path, TritonOptions(device="cuda:0,1", instances=3, queue_delay_us=250))
    assert config_of(repo) != golden("tensorrt")


def test_an_engine_of_several_profiles_offers_all_and_no_shape_crosses_one(tmp_path: Path) -> None:
    config = config_of(exported(tmp_path, TritonOptions(), profiles=TWO_PROFILES))
    assert list(config.instance_group[0].profile) == ["0", "1"]
    specs = config.optimization.cuda.graph_spec
    shapes = [(spec.batch_size, *spec.input["input_ids"].dim) for spec in specs]
    assert shapes == [(1, 8), (4, 8), (1, 16), (4, 16), (1, 24), (2, 24)]
    warm = [(one.batch_size, *one.inputs["input_ids"].dims) for one in config.model_warmup]
    assert warm == [(1, 8), (6, 8), (1, 16), (6, 16), (1, 24), (3, 24)]


def test_a_smaller_batch_limits_everything(tmp_path: Path) -> None:
    config = config_of(exported(tmp_path, TritonOptions(max_batch=3)))
    assert config.max_batch_size == 3
    assert {spec.batch_size for spec in config.optimization.cuda.graph_spec} == {1, 3}
    assert {sample.batch_size for sample in config.model_warmup} == {1, 3}
    assert not config.dynamic_batching.preferred_batch_size


def test_a_batch_beyond_the_profiles_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"--max-batch 7; wanted at most 6"):
        exported(tmp_path, TritonOptions(max_batch=7))


def test_one_engine_of_this_machine_is_the_default_file(tmp_path: Path) -> None:
    engine = EngineEntry(path="sm80/int8.engine", sm=None, precision="int8")
    repo = exported(tmp_path, TritonOptions(), engines=(engine,))
    config = config_of(repo)
    assert config.default_model_filename == "model.plan"
    assert not config.cc_model_filenames
    assert (repo / "tiny" / "1" / "model.plan").read_bytes() == b"80int8"


def test_one_card_can_be_chosen_and_the_fp16_twin_too(tmp_path: Path) -> None:
    repo = exported(tmp_path, TritonOptions(sm=80, precision="fp16"))
    assert dict(config_of(repo).cc_model_filenames) == {"8.0": "model_sm80.plan"}
    assert [path.name for path in (repo / "tiny" / "1").iterdir()] == ["model_sm80.plan"]
    assert (repo / "tiny" / "1" / "model_sm80.plan").read_bytes() == b"80fp16"


def test_openvino_gets_whole_shapes_for_its_batches_have_one_size(tmp_path: Path) -> None:
    config = config_of(exported(tmp_path, TritonOptions(device="cpu", backend="openvino")))
    assert config.backend == "openvino"
    assert config.max_batch_size == 0
    assert config.default_model_filename == "model.onnx"
    assert [list(one.dims) for one in config.input] == [[-1, -1], [-1, -1]]
    assert [list(one.dims) for one in config.output] == [[-1, 3]]
    assert not config.HasField("dynamic_batching")
    shapes = [tuple(one.inputs["input_ids"].dims) for one in config.model_warmup]
    assert shapes == [(1, 8), (6, 8), (1, 16), (6, 16), (1, 20), (6, 20)]
    assert {one.batch_size for one in config.model_warmup} == {1}


def test_openvino_refuses_a_largest_batch(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="batches of one size only"):
        exported(tmp_path, TritonOptions(device="cpu", backend="openvino", max_batch=4))


def test_a_fixed_batch_is_an_axis_like_any_other(tmp_path: Path) -> None:
    sizes = ((2, 8), (2, 16), (2, 20))
    shapes = tuple(
        InputShape(name=name, min=sizes[0], opt=sizes[1], max=sizes[2])
        for name in ("input_ids", "attention_mask")
    )
    config = config_of(exported(tmp_path, TritonOptions(), graph=classifier(2), profiles=(shapes,)))
    assert config.max_batch_size == 0
    assert [list(one.dims) for one in config.input] == [[2, -1], [2, -1]]
    specs = config.optimization.cuda.graph_spec
    assert {spec.batch_size for spec in specs} == {0}
    assert [list(spec.input["input_ids"].dim) for spec in specs] == [[2, 8], [2, 16], [2, 20]]


def test_one_number_per_sample_is_reshaped(tmp_path: Path) -> None:
    graph = classifier()
    graph.graph.node[-1].output[0] = "all"
    graph.graph.node.append(
        onnx.helper.make_node("ReduceSum", ["all", "axis"], ["logits"], keepdims=0)
    )
    kind = graph.graph.output[0].type.tensor_type
    del kind.shape.dim[1]
    output = config_of(exported(tmp_path, TritonOptions(device="cpu"), graph=graph)).output[0]
    assert list(output.dims) == [1]
    assert output.HasField("reshape")
    assert list(output.reshape.shape) == []


def test_tags_come_with_mask_and_characters(tmp_path: Path) -> None:
    text = CLASSES.model_copy(update={"task": "token-classification"})
    repo = exported(tmp_path, TritonOptions(text=True), graph=tagger(), text=text)
    outputs = {one.name: list(one.dims) for one in config_of(repo, "tiny_text").output}
    assert outputs == {
        "scores": [-1, 3],
        "label": [-1, 1],
        "attention_mask": [-1],
        "offsets": [-1, 2],
    }
    assert settings_of(repo / "tiny_tokenizer")["offsets"] is True


def test_hidden_states_come_with_the_mask_and_without_a_third_model(tmp_path: Path) -> None:
    text = TextSettings(task="features")
    repo = exported(tmp_path, TritonOptions(text=True), graph=tagger(), text=text)
    outputs = [one.name for one in config_of(repo, "tiny_text").output]
    assert outputs == ["logits", "attention_mask"]
    assert not (repo / "tiny_scores").exists()


def test_texts_are_cut_to_what_tokenizer_and_profiles_both_take(tmp_path: Path) -> None:
    long = CLASSES.model_copy(update={"max_tokens": 512})
    repo = exported(tmp_path, TritonOptions(text=True), text=long)
    found = settings_of(repo / "tiny_tokenizer")
    assert found["max_tokens"] == ONE_PROFILE[0][0].max[1] == 20
    assert found["lengths"] == [8, 16, 20]
    assert found["inputs"]["input_ids"]["pad"] == 1
    assert found["inputs"]["attention_mask"]["pad"] == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "bundle without a tokenizer"),
        ({"text": TextSettings(task="question-answering")}, "a question with a context"),
    ],
)
def test_strings_that_cannot_be_served_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        exported(tmp_path, TritonOptions(text=True), **changes)
    assert not (tmp_path / "repo").exists()


def test_labels_are_one_line_each(tmp_path: Path) -> None:
    text = CLASSES.model_copy(update={"labels": ("a\nb", "c", "ü")})
    repo = exported(tmp_path, TritonOptions(), text=text)
    assert (repo / "tiny" / "labels.txt").read_text(encoding="utf-8") == "a b\nc\nü\n"


def test_classes_without_names_are_called_as_transformers_calls_them(tmp_path: Path) -> None:
    text = CLASSES.model_copy(update={"labels": ()})
    repo = exported(tmp_path, TritonOptions(text=True), text=text)
    assert settings_of(repo / "tiny_scores")["labels"] == ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert not (repo / "tiny" / "labels.txt").exists()


def test_another_number_of_names_than_of_classes_is_refused(tmp_path: Path) -> None:
    text = CLASSES.model_copy(update={"labels": ("a", "b")})
    with pytest.raises(RequestError, match="3 logits and has 2 labels"):
        exported(tmp_path, TritonOptions(text=True), text=text)
    assert not (tmp_path / "repo").exists()
