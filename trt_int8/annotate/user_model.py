"""Models that a user annotated himself with pytorch-quantization's TensorQuantizers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from pytorch_quantization import utils as quant_utils
from pytorch_quantization.nn.modules.tensor_quantizer import TensorQuantizer
from torch import Tensor, nn

from trt_int8.annotate.torch_model import silent_absl
from trt_int8.errors import ModelError, TrtInt8Error

_BITS = 8
# What QuantLinear and its kin call their two quantizers.
_INPUT_OF, _WEIGHT_OF = "_input_quantizer", "_weight_quantizer"


@dataclass(frozen=True)
class Quantizers:
    """The quantizers that one forward pass of a model reaches.

    Attributes:
        active: names of those that quantize.
        disabled: names of those that the user switched off.
    """

    active: tuple[str, ...]
    disabled: tuple[str, ...]


def check_quantizers(model: nn.Module, call: Callable[[], object]) -> Quantizers:
    """Check that each quantizer the model reaches is static, symmetric and 8 bits wide.

    Args:
        model: annotated with pytorch-quantization, ranges loaded.
        call: runs the model once.

    Returns:
        The quantizers it reached; the others take no part in an export.

    Raises:
        ModelError: naming the first module that cannot run as INT8 in TensorRT, with the reason;
            or nothing is quantized.
    """
    reached, of_weights = reached_quantizers(model, call)
    for name, quantizer in reached.items():
        if not quantizer._disabled:
            _check(name, quantizer, weight=name in of_weights)
    active = [name for name, quantizer in reached.items() if not quantizer._disabled]
    disabled = [name for name, quantizer in reached.items() if quantizer._disabled]
    _check_halves(active, disabled)
    if not active:
        state = "all are disabled" if disabled else "it has none"
        raise ModelError(
            f"{type(model).__name__} reaches no active TensorQuantizer ({state})",
            wanted="a model annotated with pytorch-quantization",
            todo="call quant_modules.initialize() before you build the model, and enable() them",
        )
    return Quantizers(tuple(active), tuple(disabled))


def reached_quantizers(
    model: nn.Module, call: Callable[[], object]
) -> tuple[dict[str, TensorQuantizer], frozenset[str]]:
    """TensorQuantizers that one call of the model runs.

    Returns:
        Them by name, in the order of the modules; and the names of those that quantize a weight.
    """
    named = {n: m for n, m in model.named_modules() if isinstance(m, TensorQuantizer)}
    seen: dict[int, bool] = {}

    def note(module: nn.Module, inputs: tuple[object, ...]) -> None:
        seen[id(module)] = bool(inputs) and isinstance(inputs[0], nn.Parameter)

    hooks = [quantizer.register_forward_pre_hook(note) for quantizer in named.values()]
    # A quantizer without a range fails in a forward pass of some settings: only pass through.
    states = [(q, q._disabled) for q in named.values()]
    try:
        for quantizer in named.values():
            quantizer._disabled = True
        with torch.no_grad():
            call()
    finally:
        for quantizer, disabled in states:
            quantizer._disabled = disabled
        for hook in hooks:
            hook.remove()
    reached = {name: quantizer for name, quantizer in named.items() if id(quantizer) in seen}
    return reached, frozenset(name for name, q in reached.items() if seen[id(q)])


@contextlib.contextmanager
def fit_for_export(model: nn.Module) -> Iterator[None]:
    """For a while, let quantizers export as native Q/DQ with usable scales; then undo it.

    A weight quantizer without a range gets that of its weight, which is what it would compute at
    each call; a channel of zeros gets the smallest range of the others, since no scale may be 0.
    """
    native = TensorQuantizer.use_fb_fake_quant
    TensorQuantizer.use_fb_fake_quant = True
    made: list[TensorQuantizer] = []
    kept: list[tuple[TensorQuantizer, Tensor]] = []
    try:
        with silent_absl():
            for name, module in model.named_modules():
                quantizer = getattr(module, _WEIGHT_OF, None)
                weight = getattr(module, "weight", None)
                if not isinstance(quantizer, TensorQuantizer) or not isinstance(weight, Tensor):
                    continue
                if quantizer.amax is None and not quantizer._learn_amax:
                    quantizer.register_buffer("_amax", _amax_of(quantizer, weight))
                    made.append(quantizer)
                if quantizer.amax is not None and bool((quantizer.amax == 0).any()):
                    kept.append((quantizer, quantizer.amax))
                    quantizer._amax = _filled(quantizer.amax, name)
            yield
    finally:
        TensorQuantizer.use_fb_fake_quant = native
        for quantizer, amax in reversed(kept):
            quantizer._amax = amax
        for quantizer in made:
            del quantizer._amax


def _amax_of(quantizer: TensorQuantizer, weight: Tensor) -> Tensor:
    axis = quantizer.axis
    kept = () if axis is None else axis if isinstance(axis, (tuple, list)) else (axis,)
    reduced = [i for i in range(weight.dim()) if i not in [k % weight.dim() for k in kept]]
    amax: Tensor = quant_utils.reduce_amax(weight, axis=reduced if kept else None, keepdims=True)
    return amax.detach()


def _filled(amax: Tensor, name: str) -> Tensor:
    positive = amax[amax > 0]
    if positive.numel() == 0:
        raise _refusal(f"{name}.{_WEIGHT_OF}", "has amax 0", "weights that are not all zero")
    return torch.where(amax > 0, amax, positive.min())


def _check(name: str, quantizer: TensorQuantizer, *, weight: bool) -> None:
    own = weight and name.rpartition(".")[2] == _WEIGHT_OF
    problems = _problem_of_state(quantizer), _problem_of_range(quantizer, weight=weight, own=own)
    for problem in problems:
        if problem is not None:
            raise _refusal(name, *problem)


def _problem_of_state(quantizer: TensorQuantizer) -> tuple[str, str] | None:
    if quantizer._if_calib or not quantizer._if_quant:
        return "is still calibrating (enable_calib or disable_quant)", "calibration to be finished"
    if quantizer.num_bits != _BITS:
        return f"has num_bits={quantizer.num_bits}", "8 bits"
    if quantizer.unsigned:
        return "is unsigned", "signed int8 (TensorRT has no uint8 matmul)"
    if not quantizer.fake_quant:
        return "has fake_quant=False", "fake quantization, which keeps tensors float"
    return None


def _problem_of_range(
    quantizer: TensorQuantizer, *, weight: bool, own: bool
) -> tuple[str, str] | None:
    if quantizer._learn_amax:
        return None
    amax = quantizer.amax
    if amax is None:
        # Of the weight of its module, the export finds the range.
        if own:
            return None
        return "has no amax (it would quantize dynamically)", "a static range"
    if not bool((torch.isfinite(amax) & (amax >= 0)).all()):
        return "has an amax that is negative, NaN or infinite", "amax > 0"
    if own:
        return None
    if not weight and amax.numel() > 1:
        return f"has {amax.numel()} ranges on an activation", "one range per tensor (axis=None)"
    if not bool((amax > 0).all()):
        return "has amax 0", "amax > 0"
    return None


def _check_halves(active: list[str], disabled: list[str]) -> None:
    """Refuse a layer of which only one of weight and input is quantized: it cannot run INT8."""
    off = set(disabled)
    for name in active:
        owner, _, leaf = name.rpartition(".")
        other = {_INPUT_OF: _WEIGHT_OF, _WEIGHT_OF: _INPUT_OF}.get(leaf)
        if other is not None and f"{owner}.{other}" in off:
            raise _refusal(
                f"{owner}.{other}",
                f"is disabled while {leaf.lstrip('_')} is not",
                "both, for an INT8 matmul, or neither",
            )


def _refusal(name: str, what: str, wanted: str) -> TrtInt8Error:
    return ModelError(
        f"the quantizer {name!r} {what}",
        wanted=wanted,
        todo="load its range (load_calib_amax), set its QuantDescriptor, or disable() it",
    )
