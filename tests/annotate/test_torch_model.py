"""Quantizers in a PyTorch model: where they are, and what they change."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from absl import logging as absl_logging
from pytorch_quantization.nn.modules.quant_linear import QuantLinear
from torch import Tensor, nn

from tests.support.tiny_transformers import annotated, text_model, tokens
from trt_int8.annotate.torch_model import annotate, silent_absl
from trt_int8.errors import RecipeError
from trt_int8.model.huggingface import TextModel
from trt_int8.spec.recipe import Recipe
from trt_int8.spec.rules import ATTENTION_SITES

LINEARS = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)
LAYERS = [f"model.encoder.layer.{i}" for i in (0, 1)]
LINEAR_SITES = {f"{layer}.{linear}.input" for layer in LAYERS for linear in LINEARS}
ATTENTIONS = {f"{layer}.attention.self.{site}" for layer in LAYERS for site in ATTENTION_SITES}


def run(model: TextModel) -> Tensor:
    with torch.no_grad():
        result: Tensor = model.wrapper(*tokens())[0]
    return result


def load_max(model: TextModel, recipe: Recipe) -> None:
    """Annotate, collect maxima over one batch, and switch quantization on."""
    sites = annotated(model, recipe)
    sites.enable(quantize=False, collect=True)
    run(model)
    with silent_absl():
        for quantizer in sites.activations.values():
            quantizer.load_calib_amax()
    sites.enable(quantize=True)


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (Recipe(), LINEAR_SITES | ATTENTIONS),
        (Recipe(attention=False), LINEAR_SITES),
        (Recipe(linear=False), ATTENTIONS),
        (Recipe(keep=("*.attention.self*",)), {s for s in LINEAR_SITES if ".self." not in s}),
        (
            Recipe(keep=("*.layer.0.*",)),
            {s for s in LINEAR_SITES | ATTENTIONS if ".layer.1." in s},
        ),
    ],
    ids=["all", "linear", "attention", "keep attention", "keep a layer"],
)
def test_the_recipe_chooses_the_sites(recipe: Recipe, expected: set[str]) -> None:
    assert set(annotated(text_model(), recipe).activations) == expected


def test_each_attention_output_shares_its_scale_with_the_linear_that_reads_it() -> None:
    assert annotated(text_model(), Recipe()).same_scale == tuple(
        (f"{layer}.attention.self.context", f"{layer}.attention.output.dense.input")
        for layer in LAYERS
    )


def test_without_the_linear_an_attention_output_shares_no_scale() -> None:
    recipe = Recipe(keep=("*.attention.output.dense",))
    assert annotated(text_model(), recipe).same_scale == ()


def test_each_quantized_linear_has_a_weight_quantizer_too() -> None:
    sites = annotated(text_model(), Recipe())
    assert {f"{name}.input" for name in sites.weights} == LINEAR_SITES


def test_a_recipe_that_matches_nothing_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"'linear\+attention' matches no layer of ExportWrapper"):
        annotated(text_model(), Recipe(keep=("*",)))


def test_a_layer_narrower_than_16_is_left_alone() -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 15), nn.Linear(15, 64))
    sites = annotate(model, (torch.zeros(2, 16),), Recipe(attention=False))
    assert list(sites.weights) == ["0"]
    assert [type(layer) for layer in model] == [QuantLinear, nn.Linear, nn.Linear]


def test_a_subclass_of_linear_is_left_alone() -> None:
    class Special(nn.Linear):
        """Has a forward of its own."""

    model = nn.Sequential(nn.Linear(16, 16), Special(16, 16))
    assert list(annotate(model, (torch.zeros(2, 16),), Recipe(attention=False)).weights) == ["0"]


def test_a_linear_without_bias_keeps_none() -> None:
    model = nn.Sequential(nn.Linear(17, 19, bias=False))
    annotate(model, (torch.zeros(2, 17),), Recipe(attention=False))
    quantized = model[0]
    assert isinstance(quantized, QuantLinear)
    assert quantized.bias is None
    assert list(quantized.weight.shape) == [19, 17]


@pytest.mark.parametrize("family", ["Bert", "Roberta", "DistilBert", "Electra"])
def test_quantizers_that_are_off_change_no_bit(family: str) -> None:
    model = text_model(family)
    before = run(model)
    annotated(model, Recipe())
    assert torch.equal(run(model), before)


@pytest.mark.parametrize("family", ["Bert", "Roberta", "DistilBert", "Electra"])
def test_quantizers_that_are_on_change_the_answer_a_little(family: str) -> None:
    model = text_model(family)
    before = run(model)
    load_max(model, Recipe())
    after = run(model)
    noise_db = 10 * torch.log10((before**2).sum() / ((before - after) ** 2).sum())
    assert 20 < float(noise_db) < 60


def test_switching_quantization_off_again_restores_every_bit() -> None:
    model = text_model()
    before = run(model)
    sites = annotated(model, Recipe())
    for quantizer in sites.activations.values():
        quantizer.amax = 1.0
    sites.enable(quantize=True)
    assert not torch.equal(run(model), before)
    sites.enable(quantize=False)
    assert torch.equal(run(model), before)


def test_collecting_statistics_changes_no_bit() -> None:
    model = text_model()
    before = run(model)
    sites = annotated(model, Recipe())
    sites.enable(quantize=False, collect=True)
    assert torch.equal(run(model), before)


def test_a_quantized_linear_computes_the_contract() -> None:
    torch.manual_seed(1)
    linear, x = nn.Linear(21, 18), torch.randn(5, 21)
    w, b = linear.weight.detach().numpy().copy(), linear.bias.detach().numpy().copy()
    model = nn.Sequential(linear)
    sites = annotate(model, (x,), Recipe(attention=False))
    sites.activations["0.input"].amax = 2.0
    sites.enable(quantize=True)
    step, steps = np.float32(2 / 127), np.abs(w).max(axis=1, keepdims=True) / np.float32(127)
    rounded_x = np.clip(np.rint(x.numpy() / step), -128, 127) * step
    expected = rounded_x @ (np.rint(w / steps) * steps).T + b
    # One input may fall on the other side of a rounding boundary: a step times a weight.
    found = model(x).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=float(step * np.abs(w).max()) * 1.01)
    assert np.median(np.abs(found - expected)) < 1e-5


def test_the_input_tensors_are_not_touched() -> None:
    model = text_model()
    load_max(model, Recipe())
    inputs = tokens()
    model.wrapper(*inputs)
    assert all(torch.equal(a, b) for a, b in zip(inputs, tokens(), strict=True))


def test_a_quantizer_does_not_write_into_its_input() -> None:
    model = nn.Sequential(nn.Linear(16, 16))
    sites = annotate(model, (torch.zeros(2, 16),), Recipe(attention=False))
    sites.activations["0.input"].amax = 1.0
    sites.enable(quantize=True)
    x = torch.linspace(-3, 3, 32).reshape(2, 16)
    copy = x.clone()
    model(x)
    assert torch.equal(x, copy)


def test_the_parameters_stay_the_same_objects() -> None:
    model = text_model()
    before = {id(p) for p in model.wrapper.parameters()}
    annotated(model, Recipe())
    assert {id(p) for p in model.wrapper.parameters()} == before


def test_the_model_stays_in_eval_mode() -> None:
    model = text_model()
    annotated(model, Recipe())
    assert not any(module.training for module in model.wrapper.modules())


def test_the_range_of_a_weight_is_its_largest_value_per_output_channel() -> None:
    linear = nn.Linear(16, 16, bias=False)
    with torch.no_grad():
        linear.weight.fill_(0.5)
        linear.weight[3, 7] = -2.0
    model = nn.Sequential(linear)
    found = annotate(model, (torch.zeros(2, 16),), Recipe(attention=False))
    amax = found.weights["0"].weight_quantizer.amax
    assert amax.shape == (16, 1)
    assert amax.flatten().tolist() == [2.0 if row == 3 else 0.5 for row in range(16)]


def test_a_shared_linear_is_quantized_once_and_everywhere() -> None:
    shared = nn.Linear(16, 16)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    annotate(model, (torch.zeros(2, 16),), Recipe(attention=False))
    assert [type(layer) for layer in model] == [QuantLinear, nn.ReLU, QuantLinear]
    assert model[0] is model[2]


def test_a_linear_under_two_names_is_replaced_under_both() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(16, 16)
            self.second = self.first

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.second(self.first(x))
            return result

    model = Twice()
    sites = annotate(model, (torch.zeros(2, 16),), Recipe(attention=False))
    assert list(sites.weights) == ["first"]
    assert type(model.first) is QuantLinear
    assert model.second is model.first


@pytest.mark.parametrize("name", ["0", "2"])
def test_a_shared_linear_is_kept_by_either_name(name: str) -> None:
    shared = nn.Linear(16, 16)
    model = nn.Sequential(shared, nn.Linear(16, 16), shared)
    sites = annotate(model, (torch.zeros(2, 16),), Recipe(attention=False, keep=(name,)))
    assert list(sites.weights) == ["1"]


def test_a_keep_pattern_without_a_match_is_refused_by_its_text() -> None:
    recipe = Recipe(keep=("*.layer.0.*", "*.layer.7.*"))
    with pytest.raises(RecipeError, match=r"'\*\.layer\.7\.\*', which matches nothing"):
        annotated(text_model(), recipe)


def test_a_keep_pattern_for_an_attention_is_no_error_without_attention() -> None:
    recipe = Recipe(attention=False, keep=("*.attention.self",))
    assert set(annotated(text_model(), recipe).activations) == LINEAR_SITES


def test_absl_speaks_again_after_silence_even_if_the_body_fails() -> None:
    before = absl_logging.get_verbosity()
    with silent_absl():
        assert absl_logging.get_verbosity() == absl_logging.ERROR
    assert absl_logging.get_verbosity() == before
    with pytest.raises(KeyError), silent_absl():
        raise KeyError
    assert absl_logging.get_verbosity() == before
