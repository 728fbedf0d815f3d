"""Our statistics and estimators inside a user's own pytorch-quantization script.

    use_calibrators(model, example=batch)      # the one new line, before calibration

The rest of the script stays as pytorch-quantization's user guide has it: `enable_calib`, forward
passes, `load_calib_amax("entropy")`, `load_calib_amax("percentile", percentile=99.99)`, or any
method of ours such as `load_calib_amax("sqnr")`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pytorch_quantization.nn.modules.tensor_quantizer import TensorQuantizer
from torch import Tensor, nn

from trt_int8.calibrate.collector import Collector, probe_batch
from trt_int8.calibrate.estimate.choose import find_range
from trt_int8.calibrate.statistics import Needs, TensorStatistics
from trt_int8.calibrate.texts import TokenArrays
from trt_int8.calibrate.token_axes import PROBES
from trt_int8.errors import RecipeError
from trt_int8.model.inputs import MASK_NAME
from trt_int8.spec.methods import parse_method
from trt_int8.spec.ranges import AffineRange

# What pytorch-quantization calls the settings, and what we call them.
_SETTINGS = {"percentile": "p", "stride": "stride", "start_bin": "start"}


class StreamingCalibrator:
    """Calibrator of one TensorQuantizer: exact, in constant memory, padding left out."""

    def __init__(self, name: str, collector: Collector) -> None:
        """Collect under this name in a collector that the calibrators of a model share."""
        self.name, self._collector = name, collector
        self._probe: int | None = None

    @property
    def statistics(self) -> TensorStatistics | None:
        """What was collected; None before any value."""
        return self._collector.statistics.get(self.name)

    def collect(self, x: Tensor) -> None:
        """Add one batch.

        Raises:
            RangeError: it holds NaN or infinity, or has padding that cannot be found.
        """
        if self._probe is not None:
            self._collector.probe(self.name, x, self._probe)
        else:
            self._collector.observe(self.name, x)

    def compute_amax(self, method: str = "max", **settings: float) -> Tensor | None:
        """Amax of all values so far, as `TensorQuantizer.load_calib_amax` asks for it.

        Args:
            method: a symmetric method of `spec.methods`.
            settings: `percentile`, `stride`, `start_bin`, as pytorch-quantization calls them.

        Returns:
            A float32 tensor of shape []; None before any value.

        Raises:
            RecipeError: the method or a setting is unknown, or its ranges are not symmetric.
            RangeError: there were only zeros.
        """
        if self.statistics is None:
            return None
        unknown = [key for key in settings if key not in _SETTINGS]
        if unknown:
            raise RecipeError(
                f"load_calib_amax was given {unknown[0]!r}",
                wanted=f"only {', '.join(_SETTINGS)}",
                todo="leave it out",
            )
        known = parse_method(method).kind.settings
        given = {_SETTINGS[key]: value for key, value in settings.items()}
        listed = ",".join(f"{key}={float(value)!r}" for key, value in given.items() if key in known)
        chosen = parse_method(
            f"{method}{',' if ':' in method else ':'}{listed}" if listed else method
        )
        found = find_range(self.name, self.statistics, chosen)
        if isinstance(found, AffineRange):
            raise RecipeError(
                f"method {method!r} gives asymmetric ranges",
                wanted="a symmetric one: a TensorQuantizer has no zero point",
                todo="choose another method",
            )
        return torch.tensor(found.amax, dtype=torch.float32)

    def reset(self) -> None:
        """Forget all values."""
        self._collector.statistics.pop(self.name, None)


def use_calibrators(model: nn.Module, example: Mapping[str, Any] | None = None) -> None:
    """Give every per-tensor TensorQuantizer of a model our calibrator.

    Quantizers per channel (weights) keep theirs. From now on the calibrators see the
    `attention_mask` of each call of the model and leave its padding out.

    Args:
        model: annotated with pytorch-quantization.
        example: one batch of int64 [B, S] arrays or tensors by argument name; the model is called
            with its tokens in two sizes, to learn which axes of each tensor are batch and tokens.
            Needed if batches are padded.

    Raises:
        RecipeError: the model has no TensorQuantizer with a calibrator.
    """
    collector = Collector(Needs(histogram=True, rows=True))
    calibrators = []
    for name, module in model.named_modules():
        if isinstance(module, TensorQuantizer) and module.axis is None and module._num_bits == 8:
            module._calibrator = StreamingCalibrator(name, collector)
            calibrators.append(module)
    if not calibrators:
        raise RecipeError(
            f"{type(model).__name__} has no per-tensor TensorQuantizer",
            wanted="a model annotated with pytorch-quantization",
            todo="call quant_modules.initialize() before you build it",
        )
    if example is not None:
        _learn_axes(model, calibrators, example)
    _Watch(collector).attach(model)


def _learn_axes(
    model: nn.Module, quantizers: list[TensorQuantizer], example: Mapping[str, Any]
) -> None:
    arrays: TokenArrays = {
        name: value.cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        for name, value in example.items()
    }
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    before = [(q._if_calib, q._if_quant, q._disabled) for q in quantizers]
    try:
        for number, size in enumerate(PROBES):
            for quantizer in quantizers:
                quantizer._calibrator._probe = number
                quantizer._if_calib, quantizer._if_quant, quantizer._disabled = True, False, False
            batch = probe_batch(arrays, size)
            with torch.no_grad():
                model(**{name: torch.from_numpy(a).to(device) for name, a in batch.items()})
    finally:
        for quantizer, switches in zip(quantizers, before, strict=True):
            quantizer._calibrator._probe = None
            quantizer._if_calib, quantizer._if_quant, quantizer._disabled = switches


class _Watch:
    """Tells the collector of each call of the model, and of its padding."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self._batch = 0

    def attach(self, model: nn.Module) -> None:
        self._names = list(inspect.signature(model.forward).parameters)
        model.register_forward_pre_hook(self._begin, with_kwargs=True)

    def _begin(self, _: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        given = dict(zip(self._names, args, strict=False)) | options
        mask = given.get(MASK_NAME)
        # Whether there is padding is asked when a calibrator looks, not while a model is traced.
        padding = mask.to(torch.bool) if isinstance(mask, Tensor) and mask.ndim == 2 else None
        self._collector.begin(self._batch, padding)
        self._batch += 1
