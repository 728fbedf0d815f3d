"""Put pytorch-quantization's TensorQuantizers into a PyTorch model, by recipe."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from absl import logging as absl_logging
from pytorch_quantization.nn.modules.quant_linear import QuantLinear
from pytorch_quantization.nn.modules.tensor_quantizer import TensorQuantizer
from pytorch_quantization.tensor_quant import QuantDescriptor
from torch import Tensor, nn

from trt_int8.annotate.attention import QUANTIZERS, AttentionSites, attention_modules
from trt_int8.annotate.attention_sizes import attention_sizes
from trt_int8.annotate.guard import AttentionGuard
from trt_int8.annotate.keep import check_keep
from trt_int8.errors import RecipeError
from trt_int8.numerics import channel_amax
from trt_int8.spec.recipe import Recipe
from trt_int8.spec.rules import ATTENTION_SITES, KEPT, PlacementNote, is_kept, is_too_small


@dataclass(frozen=True)
class AnnotatedModel:
    """Where the quantizers of a model are.

    Attributes:
        activations: by site name, for example `encoder.layer.0.output.dense.input`.
        weights: by module name; per output channel.
        same_scale: sites that see the same values, in another layout.
        notes: Linears and attentions that stay FP16 although the recipe has them, and why.
    """

    activations: dict[str, TensorQuantizer]
    weights: dict[str, QuantLinear]
    notes: tuple[PlacementNote, ...] = ()
    same_scale: tuple[tuple[str, ...], ...] = ()

    def enable(self, *, quantize: bool, collect: bool = False) -> None:
        """Switch all quantizers: `collect` statistics and/or `quantize`."""
        with silent_absl():
            for quantizer in self.activations.values():
                _switch(quantizer, quantize=quantize, collect=collect)
            for linear in self.weights.values():
                _switch(linear.weight_quantizer, quantize=quantize, collect=False)


def annotate(
    model: nn.Module,
    probe: tuple[Tensor, ...],
    recipe: Recipe,
    guard: AttentionGuard | None = None,
) -> AnnotatedModel:
    """Insert quantizers in place, all switched off.

    Args:
        model: called with `probe` once, to see which modules compute attention.
        probe: inputs for one forward pass.
        recipe: what to quantize; the switches that need a graph are not looked at.
        guard: targets and lengths; an attention that no fused INT8 kernel serves stays FP16. None
            to quantize every attention.

    Raises:
        RecipeError: no tensor of the model matches the recipe, or a `keep` pattern matches no
            Linear and no attention.
    """
    activations: dict[str, TensorQuantizer] = {}
    weights: dict[str, QuantLinear] = {}
    linears, attentions = _linears(model), attention_modules(model, probe, model)
    names = [name for found in linears.values() for name in found]
    check_keep(recipe, names + [name for name, _ in attentions])
    refused: dict[str, str] = {}
    if guard is not None and recipe.attention:
        sizes = attention_sizes(model, probe, attentions)
        refused = {name: why for name, size in sizes.items() if (why := guard.refusal(size))}
    with silent_absl():
        for linear, found in linears.items() if recipe.linear else ():
            if _is_chosen(linear, found, recipe):
                quantized = quant_linear(linear)
                for name in found:
                    _replace(model, name, quantized)
                activations[f"{found[0]}.input"] = quantized.input_quantizer
                weights[found[0]] = quantized
        for name, module in attentions if recipe.attention else ():
            if not is_kept(name, recipe.keep) and name not in refused:
                sites = {s: _quantizer() for s in ATTENTION_SITES}
                setattr(module, QUANTIZERS, AttentionSites(sites).eval())
                activations |= {f"{name}.{site}": q for site, q in sites.items()}
    quantizable = (names if recipe.linear else []) + [n for n, _ in attentions if recipe.attention]
    kept = [name for name in quantizable if is_kept(name, recipe.keep)]
    notes = [PlacementNote(node=name, rule="keep", reason=KEPT) for name in kept] + [
        PlacementNote(node=name, rule="attention-limits", reason=why)
        for name, why in refused.items()
        if name not in kept
    ]
    if not activations:
        why = f" ({notes[0].node!r}: {notes[0].reason})" if notes else ""
        raise RecipeError(
            f"recipe {recipe.name!r} matches no layer of {type(model).__name__}{why}",
            wanted="at least one Linear or attention to quantize",
            todo="check 'keep' and the recipe's switches",
        )
    annotated = AnnotatedModel(activations, weights, tuple(notes))
    annotated.enable(quantize=False)
    return replace(annotated, same_scale=_same_values(model, probe, activations))


def _same_values(
    model: nn.Module, probe: tuple[Tensor, ...], activations: dict[str, TensorQuantizer]
) -> tuple[tuple[str, ...], ...]:
    """Attention outputs [B, N, S, D] and the Linear inputs [B, S, N * D] that they become."""
    seen: dict[str, Tensor] = {}

    def look(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, given: seen.update({name: given[0]})

    hooks = [q.register_forward_pre_hook(look(name)) for name, q in activations.items()]
    try:
        with torch.no_grad():
            model(*probe)
    finally:
        for hook in hooks:
            hook.remove()
    found = []
    for name in (name for name in seen if name.endswith(".context")):
        flat = seen[name].transpose(1, 2).flatten(2)
        same = [
            other
            for other, x in seen.items()
            if other.endswith(".input") and x.shape == flat.shape and torch.equal(x, flat)
        ]
        found += [(name, *same)] if same else []
    return tuple(found)


def _linears(model: nn.Module) -> dict[nn.Linear, list[str]]:
    """Each Linear with all its names: a shared one has several."""
    found: dict[nn.Linear, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if type(module) is nn.Linear:
            found.setdefault(module, []).append(name)
    return found


def _is_chosen(linear: nn.Linear, names: list[str], recipe: Recipe) -> bool:
    small = is_too_small(linear.in_features, linear.out_features)
    return not small and not any(is_kept(name, recipe.keep) for name in names)


def quant_linear(linear: nn.Linear) -> QuantLinear:
    """A QuantLinear with the very parameters of a Linear, and ranges of its weight [N, K]."""
    quantized = QuantLinear(
        linear.in_features,
        linear.out_features,
        bias=linear.bias is not None,
        quant_desc_input=QuantDescriptor(num_bits=8),
        quant_desc_weight=QuantDescriptor(num_bits=8, axis=(0,)),
    )
    quantized.weight, quantized.bias = linear.weight, linear.bias
    amax = channel_amax(linear.weight.detach().cpu().numpy(), axis=0)
    quantized.weight_quantizer.amax = amax.reshape(-1, 1).tolist()
    return quantized.eval()


def _quantizer() -> TensorQuantizer:
    return TensorQuantizer(QuantDescriptor(num_bits=8))


def _switch(quantizer: TensorQuantizer, *, quantize: bool, collect: bool) -> None:
    quantizer.enable()
    (quantizer.enable_quant if quantize else quantizer.disable_quant)()
    (quantizer.enable_calib if collect else quantizer.disable_calib)()
    if not quantize and not collect:
        quantizer.disable()


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


@contextlib.contextmanager
def silent_absl() -> Iterator[None]:
    """pytorch-quantization logs a warning per quantizer through absl; hush it for a while."""
    before = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.ERROR)
    try:
        yield
    finally:
        absl_logging.set_verbosity(before)
