"""SmoothQuant in a PyTorch model: the same answers, and one divided tensor for all its readers."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.support.onnx_tiny import count, maker_of
from tests.support.tiny_transformers import annotated, text_model, tokens
from trt_int8.annotate.smoothing import smooth, smoothable
from trt_int8.annotate.torch_model import AnnotatedModel, annotate
from trt_int8.calibrate.torch_statistics import TorchTensors, apply_ranges
from trt_int8.errors import RangeError
from trt_int8.graph.export import export_onnx
from trt_int8.model.huggingface import TextModel
from trt_int8.spec.ranges import TensorRange
from trt_int8.spec.recipe import Recipe

Groups = tuple[tuple[str, ...], ...]
LAYER = "model.encoder.layer.0"
QKV = tuple(f"{LAYER}.attention.self.{name}.input" for name in ("query", "key", "value"))


def spread(channels: int, seed: int = 0) -> NDArray[np.float32]:
    """Factors between 1 / 8 and 8 that are no powers of two."""
    return np.exp2(np.random.default_rng(seed).uniform(-3, 3, channels)).astype(np.float32)


def one_layer() -> TextModel:
    return text_model(num_hidden_layers=1)


def run(model: TextModel) -> Tensor:
    with torch.no_grad():
        result: Tensor = model.wrapper(*tokens())[0]
    return result


def groups_of(model: TextModel, sites: AnnotatedModel) -> Groups:
    ids, mask = tokens()
    batch = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
    seen = TorchTensors(model.wrapper, model.input_names, sites).groups(batch)
    return smoothable(sites, seen)


def smoothed(model: TextModel, **recipe: Any) -> tuple[AnnotatedModel, Groups]:
    """All its groups, with factors of their own each."""
    sites = annotated(model, Recipe(**recipe))
    groups = groups_of(model, sites)
    linears = [sites.weights[group[0].removesuffix(".input")] for group in groups]
    sizes = zip(groups, linears, strict=True)
    each = {g: spread(linear.in_features, i) for i, (g, linear) in enumerate(sizes)}
    factors = {site: found for group, found in each.items() for site in group}
    smooth(sites, groups, factors)
    return sites, groups


def small(*modules: nn.Module, width: int = 17) -> tuple[nn.Sequential, AnnotatedModel]:
    """The modules one behind the other, annotated."""
    model = nn.Sequential(*modules).eval()
    return model, annotate(model, (torch.zeros(2, width),), Recipe(attention=False))


@pytest.mark.parametrize("family", ["Bert", "DistilBert"])
def test_a_model_gives_the_same_answers_up_to_rounding(family: str) -> None:
    model = text_model(family)
    before = run(model)
    smoothed(model)
    after = run(model)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=2e-5)
    assert not torch.equal(after, before)


def test_in_float64_a_linear_gives_the_same_to_1e_12() -> None:
    torch.manual_seed(0)
    model, sites = small(nn.Linear(17, 19))
    x = torch.randn(5, 17, dtype=torch.float64)
    before = model.double()(x)
    # Powers of two have exact reciprocals in float32.
    factors = np.exp2(np.random.default_rng(3).integers(-6, 7, 17)).astype(np.float32)
    smooth(sites, (("0.input",),), {"0.input": factors})
    torch.testing.assert_close(model(x), before, rtol=1e-12, atol=1e-12)


def test_the_quantizer_sees_the_divided_tensor_and_the_multiplied_weight() -> None:
    torch.manual_seed(0)
    model, sites = small(nn.Linear(17, 19))
    weight = sites.weights["0"].weight.detach().numpy().copy()
    factors, seen = spread(17), list[Tensor]()
    sites.activations["0.input"].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    smooth(sites, (("0.input",),), {"0.input": factors})
    x = torch.randn(5, 17)
    model(x)
    np.testing.assert_allclose(seen[0].numpy(), x.numpy() / factors, rtol=2e-7)
    np.testing.assert_allclose(
        sites.weights["0"].weight.detach().numpy(), weight * factors, rtol=2e-7
    )


def test_a_weight_left_as_it_was_would_show() -> None:
    model = one_layer()
    before = run(model)
    sites, groups = smoothed(model)
    linear = sites.weights[groups[0][0].removesuffix(".input")]
    with torch.no_grad():
        linear.weight /= torch.from_numpy(spread(64))
    assert not torch.allclose(run(model), before, rtol=1e-4, atol=2e-5)


def test_groups_are_inputs_of_linears_without_those_that_share_a_scale() -> None:
    model = one_layer()
    sites = annotated(model)
    groups = groups_of(model, sites)
    assert QKV in groups
    # Q, K and V, and the two of the feed-forward network; the output of the attention is not there.
    assert len(groups) == 3
    assert not [s for group in groups for s in group if s.endswith("attention.output.dense.input")]
    assert all(site.endswith(".input") for group in groups for site in group)


def test_without_int8_attention_its_output_can_be_smoothed_too() -> None:
    model = one_layer()
    groups = groups_of(model, annotated(model, Recipe(attention=False)))
    assert (f"{LAYER}.attention.output.dense.input",) in groups


def test_a_group_without_linears_is_left_out() -> None:
    _, sites = small(nn.Linear(17, 19))
    assert smoothable(sites, (("other.query",), ("0.input", "other.key"))) == (("0.input",),)


def test_q_k_and_v_read_the_very_same_divided_tensor() -> None:
    """Their statistics are collected once, and the export has one pair for them."""
    model = one_layer()
    sites, groups = smoothed(model)
    assert QKV in groups
    assert groups_of(model, sites) == groups


def test_the_export_has_one_mul_and_one_pair_for_q_k_and_v() -> None:
    counts = []
    for is_smoothed in (False, True):
        model = one_layer()
        sites, groups = smoothed(model) if is_smoothed else (annotated(model), ())
        ranges = {name: TensorRange(amax=4.0, peak=4.0) for name in sites.activations}
        apply_ranges(sites, ranges)
        graph = export_onnx(model, sites, quantized=True)
        counts.append([count(graph, kind) for kind in ("Mul", "QuantizeLinear")])
        query = next(
            n for n in graph.graph.node if n.name.endswith("layer.0/attention/self/query/MatMul")
        )
        pair = maker_of(graph, query.input[0])
        readers = [n for n in graph.graph.node if pair.output[0] in n.input]
        assert len(readers) == 3
    assert counts[1][0] == counts[0][0] + len(groups)
    assert counts[1][1] == counts[0][1]


def test_a_linear_that_stays_fp16_reads_the_tensor_and_its_weight_as_they_were() -> None:
    model = one_layer()
    name = f"{LAYER}.attention.self.key"
    kept = model.wrapper.get_submodule(name)
    weight, seen = kept.weight, list[Tensor]()
    before = weight.detach().clone()  # type: ignore[operator]
    kept.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))
    run(model)
    smoothed(model, keep=(name,))
    run(model)
    assert kept.weight is weight
    assert torch.equal(kept.weight, before)  # type: ignore[arg-type]
    assert torch.equal(seen[0], seen[-1])


class Tied(nn.Module):
    """The weight of the Linear is the table of the embedding."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(23, 17)
        self.norm = nn.LayerNorm(17)
        self.decoder = nn.Linear(17, 23, bias=False)
        self.decoder.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        result: Tensor = self.decoder(self.norm(self.table(ids)))
        return result


def test_a_tied_table_stays_as_it_was() -> None:
    model, ids = Tied().eval(), torch.arange(20).reshape(4, 5)
    sites = annotate(model, (ids,), Recipe(attention=False))
    table, before = model.table.weight.detach().clone(), model(ids)
    smooth(sites, (("decoder.input",),), {"decoder.input": spread(17)})
    assert torch.equal(model.table.weight, table)
    assert not torch.equal(model.decoder.weight, table)
    torch.testing.assert_close(model(ids), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("trained", [True, False])
def test_a_weight_goes_on_wanting_gradients_or_not(trained: bool) -> None:
    _, sites = small(nn.Linear(17, 19))
    sites.weights["0"].weight.requires_grad_(trained)
    smooth(sites, (("0.input",),), {"0.input": spread(17)})
    assert sites.weights["0"].weight.requires_grad is trained


def test_a_linear_used_in_each_layer_divides_what_it_reads_in_each() -> None:
    torch.manual_seed(0)
    shared = nn.Linear(17, 17)
    model, sites = small(shared, nn.Tanh(), shared, nn.Tanh(), shared)
    x = torch.randn(5, 17)
    before = model(x)
    smooth(sites, (("0.input",),), {"0.input": spread(17)})
    torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 16, 18])
def test_another_number_of_channels_is_refused(channels: int) -> None:
    _, sites = small(nn.Linear(17, 19))
    with pytest.raises(RangeError, match=f"{channels} smoothing factors for '0.input'; wanted one"):
        smooth(sites, (("0.input",),), {"0.input": spread(channels)})


def test_factors_of_a_part_of_a_group_are_refused() -> None:
    _, sites = small(nn.Linear(17, 17), nn.Linear(17, 17))
    with pytest.raises(RangeError, match=r"some readers of one tensor, not for '1\.input'"):
        smooth(sites, (("0.input", "1.input"),), {"0.input": spread(17)})


@pytest.mark.parametrize("site", ["2.input", "0", "nothing"])
def test_factors_of_anything_but_a_site_of_a_group_are_refused(site: str) -> None:
    _, sites = small(nn.Linear(17, 17), nn.Linear(17, 17), nn.Linear(17, 17))
    with pytest.raises(RangeError, match=f"17 smoothing factors for '{site}'"):
        smooth(sites, (("0.input", "1.input"),), {site: spread(17)})


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_of_the_model_divides_too_and_shares_nothing_half_read(copied: Any) -> None:
    torch.manual_seed(0)
    model, sites = small(nn.Linear(17, 19))
    x = torch.randn(5, 17)
    before = model(x)
    smooth(sites, (("0.input",),), {"0.input": spread(17)})
    other = copied(model)
    torch.testing.assert_close(other(x), before, rtol=1e-4, atol=1e-5)
    assert torch.equal(other(x), model(x))


def test_readers_in_a_pickled_model_still_share_one_tensor() -> None:
    model = one_layer()
    sites, groups = smoothed(model)
    wrapper, sites = pickle.loads(pickle.dumps((model.wrapper, sites)))
    assert groups_of(replace(model, wrapper=wrapper), sites) == groups


def test_lifted_the_model_is_as_it_was_to_the_last_bit_and_smoothed_again_afterwards() -> None:
    torch.manual_seed(0)
    model, sites = small(nn.Linear(17, 19), nn.Linear(19, 23))
    x = torch.randn(5, 17)
    before = model(x)
    done = smooth(
        sites, (("0.input",), ("1.input",)), {"0.input": spread(17), "1.input": spread(19)}
    )
    after = model(x)
    with done.lifted():
        assert torch.equal(model(x), before)
    assert torch.equal(model(x), after)
    assert not torch.equal(after, before)


def test_an_error_while_lifted_leaves_the_model_smoothed() -> None:
    torch.manual_seed(0)
    model, sites = small(nn.Linear(17, 19))
    x = torch.randn(5, 17)
    done = smooth(sites, (("0.input",),), {"0.input": spread(17)})
    after = model(x)
    with pytest.raises(ZeroDivisionError), done.lifted():
        raise ZeroDivisionError
    assert torch.equal(model(x), after)
