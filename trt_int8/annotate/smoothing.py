"""SmoothQuant in a PyTorch model: quantized Linears divide what they read."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_quantization.nn.modules.quant_linear import QuantLinear
from torch import Tensor, nn

from trt_int8.annotate.torch_model import AnnotatedModel
from trt_int8.errors import RangeError

Group = tuple[str, ...]
_SUFFIX = ".input"


def smoothable(annotated: AnnotatedModel, groups: tuple[Group, ...]) -> tuple[Group, ...]:
    """The inputs of Linears among sites that see one tensor, without those that share a scale.

    Args:
        annotated: the quantizers.
        groups: sites that see the very same tensor.

    Returns:
        Groups of site names; attention outputs are left out, for the attention kernel writes them.
    """
    barred = {site for group in annotated.same_scale for site in group}
    chosen = [
        tuple(site for site in group if _linear(annotated, site) is not None) for group in groups
    ]
    return tuple(group for group in chosen if group and not barred & set(group))


def smooth(
    annotated: AnnotatedModel,
    groups: tuple[Group, ...],
    factors: Mapping[str, NDArray[np.float32]],
) -> Smoothed:
    """Divide inputs of Linears by factors and multiply their weights, in place.

    The model computes the same as before, up to float rounding.

    Args:
        annotated: its QuantLinears get weights of their own: a matrix that something else uses too
            (an embedding table) stays as it is there.
        groups: of `smoothable`.
        factors: float32 [K], above 0, by site; those of one tensor are equal.

    Returns:
        What was changed.

    Raises:
        RangeError: a site is in no group, has another number of channels, or only a part of a
            group has factors.
    """
    for group in groups:
        without = [site for site in group if site not in factors]
        if without and len(without) < len(group):
            raise RangeError(
                f"smoothing factors for some readers of one tensor, not for {without[0]!r}",
                wanted="factors for all of them, or for none",
                todo="calibrate this model with this recipe anew",
            )
    known = {site: number for number, group in enumerate(groups) for site in group}
    shared: dict[tuple[int, bytes], list[str]] = {}
    for site, given in factors.items():
        linear = annotated.weights[site.removesuffix(_SUFFIX)] if site in known else None
        if linear is None or given.shape != (linear.in_features,):
            raise RangeError(
                f"{given.size} smoothing factors for {site!r}",
                wanted="one per channel of an input of quantized Linears of this model",
                todo="calibrate this model with this recipe anew",
            )
        shared.setdefault((known[site], given.tobytes()), []).append(site)
    changes: list[_Change] = []
    for sites in shared.values():
        given = factors[sites[0]]
        linears = [annotated.weights[site.removesuffix(_SUFFIX)] for site in sites]
        divide = Divide(torch.from_numpy(np.float32(1) / given), readers=len(linears))
        for linear in linears:
            changes.append(_Change(linear, linear.weight, divide))
            multiplied = linear.weight.detach() * torch.from_numpy(given)
            linear.weight = nn.Parameter(multiplied, requires_grad=linear.weight.requires_grad)
            linear.register_forward_pre_hook(divide)
    return Smoothed(tuple(changes))


@dataclass(frozen=True)
class _Change:
    linear: QuantLinear
    weight: nn.Parameter
    divide: Divide


@dataclass(frozen=True)
class Smoothed:
    """The Linears that `smooth` changed, with the weights they had."""

    changes: tuple[_Change, ...] = ()

    @contextlib.contextmanager
    def lifted(self) -> Iterator[None]:
        """For a while, the model as it was, to the last bit."""
        smoothed = [change.linear.weight for change in self.changes]
        try:
            for change in self.changes:
                change.linear.weight, change.divide.is_active = change.weight, False
            yield
        finally:
            for change, weight in zip(self.changes, smoothed, strict=True):
                change.linear.weight, change.divide.is_active = weight, True


class Divide:
    """A forward pre-hook that hands all readers of one tensor the very same result.

    Calibration and export tell by its identity that Q, K and V read one tensor.

    Attributes:
        is_active: if not, the arguments are handed on as they are.
    """

    def __init__(self, inverse: Tensor, readers: int) -> None:
        """Keep what to multiply by.

        Args:
            inverse: float32 [K].
            readers: modules that have this hook; the result is let go of after as many reads.
        """
        self.is_active = True
        self._inverse, self._readers = inverse, readers
        self._of: weakref.ref[Tensor] | None = None
        self._version, self._left = 0, 0
        self._result: Tensor | None = None

    def __call__(self, _: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments with the first one multiplied."""
        if not self.is_active:
            return given
        x: Tensor = given[0]
        # Tensors of inference mode do not count their changes.
        version = -1 if x.is_inference() else x._version
        same = self._of is not None and self._of() is x and version == self._version >= 0
        result = self._result if same else None
        if result is None:
            result = x * self._inverse
            self._of, self._version, self._left = weakref.ref(x), version, self._readers
        self._left -= 1
        self._result = result if self._left > 0 else None
        return (result, *given[1:])

    def __getstate__(self) -> dict[str, Any]:
        """Weak references cannot be pickled, and another process has other tensors."""
        return {**self.__dict__, "_of": None, "_result": None}


def _linear(annotated: AnnotatedModel, site: str) -> nn.Module | None:
    name = site.removesuffix(_SUFFIX)
    return annotated.weights.get(name) if name != site else None
