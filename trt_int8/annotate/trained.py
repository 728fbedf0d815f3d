"""Put the quantizers that a checkpoint has ranges for back into its Linear layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pytorch_quantization.nn.modules.quant_linear import QuantLinear
from torch import nn

from trt_int8.annotate.torch_model import AnnotatedModel, quant_linear, silent_absl
from trt_int8.errors import ModelError
from trt_int8.spec.ranges import TensorRange

Ranges = dict[str, NDArray[np.float32]]
_INPUT, _WEIGHT = "._input_quantizer", "._weight_quantizer"


@dataclass(frozen=True)
class TrainedModel:
    """A model with the quantizers of its checkpoint.

    Attributes:
        annotated: the quantizers, with their ranges.
        ranges: of the activations, by site name.
        left_out: modules of the checkpoint that have ranges and stay float here.
    """

    annotated: AnnotatedModel
    ranges: dict[str, TensorRange]
    left_out: tuple[str, ...]


def restore_quantizers(model: nn.Module, backbone: Any, ranges: Ranges) -> TrainedModel:
    """Replace each Linear that the checkpoint has ranges for, in place.

    Args:
        model: the module that is exported.
        backbone: the transformers model inside it, which the names of the checkpoint are of.
        ranges: amax by quantizer name; float32 [] or, of a weight, [N].

    Raises:
        ModelError: a quantizer has no place in the architecture, or a range is not usable.
    """
    place = _places(model, backbone)
    activations, weights, left_out = {}, {}, []
    with silent_absl():
        for owner in dict.fromkeys(_owner(name, place, backbone) for name in ranges):
            module = place.get(_shortest(owner, place, backbone))
            amax = ranges.get(f"{owner}{_INPUT}")
            if not isinstance(module, nn.Linear) or amax is None:
                left_out.append(owner)
                continue
            name = next(name for name, m in model.named_modules() if m is module)
            quantized = _restored(module, owner, ranges)
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, quantized)
            activations[f"{name}.input"] = quantized.input_quantizer
            weights[name] = quantized
    if not weights:
        raise ModelError(
            f"no quantizer of the checkpoint is of a Linear of {type(backbone).__name__}"
            f" (it has ranges for {', '.join(left_out[:3])})",
            wanted="ranges of QuantLinear layers",
            todo="export the model yourself with export_annotated, and pass the .onnx file",
        )
    annotated = AnnotatedModel(activations, weights)
    annotated.enable(quantize=False)
    found = {name: float(q.amax) for name, q in activations.items()}
    kept = {name: TensorRange(amax=amax, peak=amax) for name, amax in found.items()}
    return TrainedModel(annotated, kept, tuple(left_out))


def _places(model: nn.Module, backbone: Any) -> dict[str, nn.Module]:
    """The modules by the names that a checkpoint of the backbone has for them."""
    modules = {id(module) for module in model.modules()}
    return {name: m for name, m in backbone.named_modules() if id(m) in modules}


def _shortest(owner: str, place: dict[str, nn.Module], backbone: Any) -> str:
    """The name of a module here; a task model has its backbone under a prefix, e.g. `bert.`."""
    prefix = f"{getattr(backbone, 'base_model_prefix', '')}."
    spellings = (owner, owner.removeprefix(prefix), f"{prefix}{owner}")
    return next((name for name in spellings if name in place), owner)


def _owner(name: str, place: dict[str, nn.Module], backbone: Any) -> str:
    """The module whose input or weight a quantizer is for."""
    for suffix in (_INPUT, _WEIGHT):
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    owner = name.rpartition(".")[0]
    if _shortest(owner, place, backbone) in place:
        raise ModelError(
            f"the checkpoint has a range for {name!r}, which {type(backbone).__name__} has not",
            wanted="quantizers of Linear layers only (quant_modules.initialize())",
            todo="export your own model class with export_annotated, and pass the .onnx file",
        )
    return owner


def _restored(linear: nn.Linear, owner: str, ranges: Ranges) -> QuantLinear:
    quantized = quant_linear(linear)
    amax = _checked(f"{owner}{_INPUT}", ranges[f"{owner}{_INPUT}"], 1)
    quantized.input_quantizer.amax = float(amax.reshape(()))
    channels = quantized.weight_quantizer.amax.cpu().numpy().reshape(-1)
    given = ranges.get(f"{owner}{_WEIGHT}")
    if given is not None:
        wide = np.broadcast_to(given, channels.shape) if given.size == 1 else given
        known = _checked(f"{owner}{_WEIGHT}", wide, channels.size, zeros=True)
        # A channel of zeros has no range of its own; no scale may be 0.
        channels = np.where(known > 0, known, channels)
    quantized.weight_quantizer.amax = channels.reshape(-1, 1).tolist()
    return quantized


def _checked(
    name: str, amax: NDArray[np.float32], size: int, *, zeros: bool = False
) -> NDArray[np.float32]:
    low = amax.min(initial=np.inf)
    if amax.size != size or not np.isfinite(amax).all() or low < 0 or (low == 0 and not zeros):
        raise ModelError(
            f"the checkpoint's range of {name!r} is {np.array2string(amax.reshape(-1)[:3])}"
            f" ({amax.size} values)",
            wanted=f"{size} finite values > 0",
            todo="calibrate or train the model again, and save it",
        )
    return amax
