"""The PyTorch entrance: which way a model takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from tests.pipeline.conftest import tiny_options
from tests.support.tiny_folder import write_tokenizer
from tests.support.tiny_transformers import VOCABULARY
from trt_int8.calibrate.texts import Texts, read_texts
from trt_int8.errors import RecipeError
from trt_int8.model.onnx_matmuls import find_matmuls
from trt_int8.model.source import ModelSource, resolve_source
from trt_int8.pipeline.data import PreparedModel
from trt_int8.pipeline.onnx_entrance import OnnxEntrance
from trt_int8.pipeline.options import BuildOptions
from trt_int8.pipeline.progress import SilentReporter
from trt_int8.pipeline.ranges import choose_ranges
from trt_int8.pipeline.torch_entrance import TorchEntrance, enter_torch
from trt_int8.spec.recipe import Recipe


def prepare_torch(
    source: ModelSource, options: BuildOptions, reporter: SilentReporter, texts: Texts
) -> PreparedModel:
    entrance = enter_torch(source, options, reporter, texts)
    return entrance.finish(choose_ranges(entrance, options, reporter), reporter)


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    config = transformers.GPT2Config(
        n_embd=32, n_layer=1, n_head=2, vocab_size=VOCABULARY, n_positions=40
    )
    torch.manual_seed(0)
    transformers.GPT2Model(config).save_pretrained(tmp_path / "gpt2")
    write_tokenizer(tmp_path / "gpt2")
    return tmp_path / "gpt2"


def test_linears_of_another_class_are_quantized_in_the_graph(tiny_inputs: Path, gpt2: Path) -> None:
    reporter, texts = SilentReporter(), read_texts(tiny_inputs / "texts.txt")
    source, options = resolve_source(str(gpt2)), tiny_options(tiny_inputs)
    prepared = prepare_torch(source, options, reporter, texts)
    assert "GPT2Model has linear code of its own: quantizing the exported graph" in reporter.notes
    sites = find_matmuls(prepared.int8)
    # c_attn is cut into Q, K and V.
    assert [s.role for s in sites].count("linear") == 6
    assert all(s.wanted_int8 for s in sites)


def test_a_float_answer_is_that_of_the_model_and_ranges_change_it(tiny_inputs: Path) -> None:
    texts, options = read_texts(tiny_inputs / "texts.txt"), tiny_options(tiny_inputs)
    source = resolve_source(str(tiny_inputs / "bert"))
    entrance = enter_torch(source, options, SilentReporter(), texts)
    assert isinstance(entrance, TorchEntrance)
    ranges = choose_ranges(entrance, options, SilentReporter()).ranges
    batches = entrance.data.held_out
    exact, rounded, again = (entrance.answers(r, batches) for r in (None, ranges, None))
    name = "sentence_embedding"
    assert [len(answer[name]) for answer in exact] == [len(b["input_ids"]) for b in batches]
    difference = max(np.abs(a[name] - b[name]).max() for a, b in zip(exact, rounded, strict=True))
    assert 1e-5 < difference < 0.1
    assert all(np.array_equal(a[name], b[name]) for a, b in zip(exact, again, strict=True))


def test_on_demand_any_model_is_quantized_in_its_graph(tiny_inputs: Path) -> None:
    reporter, texts = SilentReporter(), read_texts(tiny_inputs / "texts.txt")
    source, options = resolve_source(str(tiny_inputs / "bert")), tiny_options(tiny_inputs)
    entrance = enter_torch(source, options, reporter, texts, as_graph=True)
    assert isinstance(entrance, OnnxEntrance)
    assert reporter.notes[-1] == "quantizing the exported graph"


def test_all_ranges_are_of_tensors_in_the_graph(tiny_inputs: Path) -> None:
    texts, options = read_texts(tiny_inputs / "texts.txt"), tiny_options(tiny_inputs)
    source = resolve_source(str(tiny_inputs / "bert"))
    prepared = prepare_torch(source, options, SilentReporter(), texts)
    assert prepared.ranges is not None
    assert not [name for name in prepared.ranges.ranges if "pooler" in name]
    used = {s.node for s in find_matmuls(prepared.int8) if s.role == "linear"}
    linears = [n for n in prepared.ranges.ranges if n.endswith(".input")]
    assert {"/" + n.removesuffix(".input").replace(".", "/") for n in linears} == {
        n.removesuffix("/MatMul").replace("layer.", "layer/") for n in used
    }


def test_a_misspelt_keep_is_refused(tiny_inputs: Path) -> None:
    texts = read_texts(tiny_inputs / "texts.txt")
    options = tiny_options(tiny_inputs, recipe=Recipe(keep=("*.layers.0.*",)))
    source = resolve_source(str(tiny_inputs / "bert"))
    with pytest.raises(RecipeError, match=r"the pattern '\*\.layers\.0\.\*'"):
        prepare_torch(source, options, SilentReporter(), texts)


def test_inputs_that_the_exporter_drops_are_not_asked_for(
    tiny_inputs: Path, tmp_path: Path
) -> None:
    # DeBERTa-v2 without token types ignores token_type_ids; its position tables are constants
    # in front of projections.
    config = transformers.DebertaV2Config(
        vocab_size=VOCABULARY,
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=80,
        max_position_embeddings=40,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        max_relative_positions=16,
    )
    torch.manual_seed(0)
    transformers.DebertaV2Model(config).save_pretrained(tmp_path / "deberta")
    write_tokenizer(tmp_path / "deberta")
    options = tiny_options(tiny_inputs)
    texts, source = (
        read_texts(tiny_inputs / "texts.txt"),
        resolve_source(str(tmp_path / "deberta")),
    )
    prepared = prepare_torch(source, options, SilentReporter(), texts)
    names = {value.name for value in prepared.int8.graph.input}
    assert names == {"input_ids", "attention_mask"}
    assert {shape.name for shape in prepared.shapes} == names
    assert all(set(batch) == names for batch in prepared.held_out)
