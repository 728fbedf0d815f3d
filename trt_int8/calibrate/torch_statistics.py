"""Collect the statistics of an annotated PyTorch model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

import torch
from pytorch_quantization.nn.modules.tensor_quantizer import TensorQuantizer
from torch import Tensor, nn

from trt_int8.annotate.attention import register_primitive_attention
from trt_int8.annotate.torch_model import AnnotatedModel, silent_absl
from trt_int8.calibrate.collector import (
    Collector,
    NumberedBatches,
    Statistics,
    padding_mask,
    probe_batch,
)
from trt_int8.calibrate.estimate.weights import weight_amax
from trt_int8.calibrate.statistics import Needs
from trt_int8.calibrate.texts import TokenArrays
from trt_int8.calibrate.token_axes import PROBES
from trt_int8.errors import RangeError
from trt_int8.spec.ranges import TensorRange
from trt_int8.spec.recipe import WeightMethod


class TorchTensors:
    """The tensors that the quantizers of a model see; calibration looks, and changes nothing."""

    def __init__(
        self, wrapper: nn.Module, input_names: tuple[str, ...], annotated: AnnotatedModel
    ) -> None:
        """Keep what is needed to run the model.

        Args:
            wrapper: called with one int64 [B, S] tensor per input name.
            input_names: in the order of the wrapper's arguments.
            annotated: where its quantizers are.
        """
        self._wrapper, self._input_names, self._annotated = wrapper, input_names, annotated

    def collect(
        self, batches: NumberedBatches, needs: Needs, advance: Callable[[], None]
    ) -> Statistics:
        """Run the float model over the batches.

        Args:
            batches: (number in the data set, int64 [B, S] arrays); padding is left out.
            needs: which statistics.
            advance: called after each batch.

        Raises:
            RangeError: a site or an output is NaN or infinite.
        """
        register_primitive_attention()  # this may be another process than the one that annotated
        collector = Collector(needs)
        with torch.no_grad(), self._watched() as sites:
            for number, size in enumerate(PROBES) if batches else ():
                sites.see = partial(_probe, collector, number)
                # A model that cannot take such short inputs has tensors of unknown axes.
                with contextlib.suppress(RuntimeError, IndexError, ValueError):
                    self._run(probe_batch(batches[0][1], size))
            sites.see = collector.observe
            for number, batch in batches:
                mask = padding_mask(batch)
                collector.begin(number, mask)
                _check(self._run(batch), mask)
                advance()
        return collector.statistics

    def groups(self, batch: TokenArrays) -> tuple[tuple[str, ...], ...]:
        """Sites that see the very same tensor (Q, K and V of one attention), all sites once.

        Args:
            batch: int64 [B, S] arrays to run the model on.
        """
        seen: dict[str, Tensor] = {}
        with torch.no_grad(), self._watched() as sites:
            sites.see = seen.setdefault
            # All tensors of this run are held at once, so one text.
            self._run({name: array[:1] for name, array in batch.items()})
        found: list[tuple[Tensor, list[str]]] = []
        for name, x in seen.items():
            same = next((names for other, names in found if other is x), None)
            if same is None:
                found.append((x, [name]))
            else:
                same.append(name)
        return tuple(tuple(names) for _, names in found)

    def _run(self, batch: TokenArrays) -> tuple[Tensor, ...]:
        arrays = (torch.from_numpy(batch[name]) for name in self._input_names)
        outputs: tuple[Tensor, ...] = self._wrapper(*arrays)
        return outputs

    @contextlib.contextmanager
    def _watched(self) -> Iterator[_Sites]:
        sites = _Sites()
        for name, quantizer in self._annotated.activations.items():
            quantizer._calibrator = _Site(name, sites)
        self._annotated.enable(quantize=False, collect=True)
        try:
            yield sites
        finally:
            self._annotated.enable(quantize=False)
            for quantizer in self._annotated.activations.values():
                quantizer._calibrator = None


class _Sites:
    """Where the sites of a model send what they see."""

    def __init__(self) -> None:
        self.see: Callable[[str, Tensor], object] = lambda name, x: None


class _Site:
    """Takes the place of a TensorQuantizer's calibrator."""

    def __init__(self, name: str, sites: _Sites) -> None:
        self._name, self._sites = name, sites

    def collect(self, x: Tensor) -> None:
        self._sites.see(self._name, x)


def _probe(collector: Collector, number: int, name: str, x: Tensor) -> None:
    collector.probe(name, x, number)


def _check(outputs: tuple[Tensor, ...], mask: Tensor | None) -> None:
    """Refuse NaN and infinity; in an output per token, padding is not looked at."""
    for output in outputs:
        looked_at = output
        if mask is not None and output.shape[:2] == mask.shape:
            looked_at = output[mask]
        if not bool(torch.isfinite(looked_at).all()):
            raise RangeError(
                "the float model gives NaN or infinity on a calibration text",
                wanted="finite outputs",
                todo="check the model and the calibration texts",
            )


def apply_ranges(annotated: AnnotatedModel, ranges: dict[str, TensorRange]) -> None:
    """Load ranges into the quantizers.

    Raises:
        RangeError: a site has no range.
    """
    missing = sorted(set(annotated.activations) - set(ranges))
    if missing:
        raise RangeError(
            f"no range for {missing[0]!r} ({len(missing)} missing)",
            wanted="one per quantized tensor",
            todo="calibrate this model with this recipe",
        )
    amax = {name: ranges[name].amax for name in annotated.activations}
    for group in annotated.same_scale:  # with one scale, one of their Q/DQ pairs is enough
        amax |= dict.fromkeys(group, max(amax[name] for name in group))
    with silent_absl():
        for name, quantizer in annotated.activations.items():
            _set_amax(quantizer, amax[name])


def apply_weight_ranges(annotated: AnnotatedModel, method: WeightMethod) -> None:
    """Load ranges per output channel into the weight quantizers."""
    with silent_absl():
        for linear in annotated.weights.values():
            weight = linear.weight.detach().cpu().numpy()
            amax = weight_amax(weight, 0, method).reshape(-1, 1)
            linear.weight_quantizer.amax = amax.tolist()


def _set_amax(quantizer: TensorQuantizer, amax: float) -> None:
    quantizer.amax = amax
