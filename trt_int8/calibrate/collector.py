"""Collects the statistics of a model's tensors, batch by batch."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trt_int8.calibrate.arrays import Batch
from trt_int8.calibrate.statistics import Needs, TensorStatistics, statistics_of
from trt_int8.calibrate.texts import TokenArrays
from trt_int8.calibrate.token_axes import PROBES, Padding, Shape, TokenAxes, batch_is_inner
from trt_int8.calibrate.values import Values
from trt_int8.model.inputs import MASK_NAME

Statistics = dict[str, TensorStatistics]
NumberedBatches = Sequence[tuple[int, Batch]]


class Collector:
    """Statistics per tensor name; memory does not grow with the number of texts.

    First show it every tensor for each of `PROBES` (`probe`), then `begin` each batch and
    `observe` its tensors.
    """

    def __init__(self, needs: Needs, axes: Callable[[Shape], TokenAxes] | None = None) -> None:
        """Start empty.

        Args:
            needs: which statistics.
            axes: tells the axes of a tensor by its shape, where there are no probes.
        """
        self.statistics: Statistics = {}
        self._needs, self._by_shape = needs, axes
        self._shapes: dict[str, list[Shape]] = {}
        self._inner: dict[str, tuple[int, ...]] = {}
        self._axes: dict[str, TokenAxes] = {}
        self._batch = 0
        self._mask: Tensor | None = None  # not looked at yet
        self._padding: Padding | None = None
        self._last: _Seen | None = None

    def probe(self, name: str, x: Tensor, number: int) -> None:
        """Learn the tensor's shape in probe number 0 or 1; a second call in it counts nothing."""
        shapes = self._shapes.setdefault(name, [])
        if len(shapes) == number:
            shapes.append(tuple(x.shape))
            if number == len(PROBES) - 1:
                self._inner[name] = batch_is_inner(x, PROBES[number][0])

    def shapes_of(self, name: str) -> tuple[Shape, Shape] | None:
        """Its shapes in both probes; None if it was not in both."""
        shapes = self._shapes.get(name, [])
        return (shapes[0], shapes[1]) if len(shapes) == len(PROBES) else None

    def begin(self, batch: int, mask: Tensor | None) -> None:
        """The next tensors are of this batch; `mask` bool [B, S] is False for padding."""
        self._batch, self._mask, self._padding, self._last = batch, mask, None, None

    def observe(self, name: str, x: Tensor) -> None:
        """Add one tensor of the current batch.

        Raises:
            RangeError: it holds NaN or infinity where it counts, or its padding cannot be found.
        """
        so_far, last = self.statistics.get(name), self._last
        axes = self._axes_of(name, x)
        # Tensors of inference mode do not count their changes.
        version = None if x.is_inference() else x._version
        # Q, K and V of one attention read the same tensor: look at it once.
        if last is None or version is None or not last.of.is_of(x, version, axes, so_far):
            found = statistics_of(
                name, self._values(name, x, axes), self._needs, self._batch, so_far
            )
            merged = so_far.merge(found) if so_far is not None and found is not None else found
            last = self._last = _Seen(
                _Looked(weakref.ref(x), version, axes, so_far), merged or so_far
            )
        if last.merged is not None:
            self.statistics[name] = last.merged

    def _values(self, name: str, x: Tensor, axes: TokenAxes) -> Values:
        if self._mask is not None:
            self._padding = Padding.of(self._mask.to(x.device))
            self._mask = None
        return axes.values(name, x, self._padding)

    def _axes_of(self, name: str, x: Tensor) -> TokenAxes:
        if self._by_shape is not None:
            return self._by_shape(tuple(x.shape))
        axes = self._axes.get(name)
        if axes is None:
            shapes = self.shapes_of(name)
            axes = TokenAxes(("unknown",) * x.ndim)
            if shapes is not None:
                axes = TokenAxes.of(shapes).without(self._inner[name])
            self._axes[name] = axes
        return axes


def merge_statistics(into: Statistics, part: Mapping[str, TensorStatistics]) -> None:
    """Add the statistics of a shard; the sum of all equals one run over all of them."""
    merger = _Merger()
    for name, found in part.items():
        merger.add(into, name, found)


class _Merger:
    """Merges each pair of statistics once: sites that share a tensor go on sharing."""

    def __init__(self) -> None:
        self._done: list[tuple[TensorStatistics, TensorStatistics, TensorStatistics]] = []

    def add(self, into: Statistics, name: str, found: TensorStatistics) -> None:
        so_far = into.get(name)
        if so_far is None:
            into[name] = found
            return
        for one, other, merged in self._done:
            if one is so_far and other is found:
                into[name] = merged
                return
        merged = so_far.merge(found)
        self._done.append((so_far, found, merged))
        into[name] = merged


@dataclass(frozen=True, eq=False)
class _Looked:
    """What was looked at: the very tensor in the state it had, for the very statistics."""

    x: weakref.ref[Tensor]  # it must not live longer than the model needs it
    version: int | None
    axes: TokenAxes
    so_far: TensorStatistics | None

    def is_of(
        self, x: Tensor, version: int, axes: TokenAxes, so_far: TensorStatistics | None
    ) -> bool:
        """Whether it was this tensor in this state, for these statistics."""
        same = self.x() is x and self.so_far is so_far
        return same and (self.version, self.axes) == (version, axes)


@dataclass(frozen=True)
class _Seen:
    """The tensor looked at last, and its statistics with it."""

    of: _Looked
    merged: TensorStatistics | None


def probe_batch(batch: TokenArrays, size: tuple[int, int]) -> TokenArrays:
    """One real text, repeated or cut to int64 [B, S] of the given size, nothing masked.

    All texts are the same: that tells whether an axis that holds them holds them outermost.
    """
    rows, tokens = size
    return {
        name: np.ones(size, np.int64)
        if name == MASK_NAME
        else np.tile(np.resize(array[0], tokens), (rows, 1))
        for name, array in batch.items()
    }


def padding_mask(batch: Batch) -> Tensor | None:
    """Bool [B, S], False for padding; None if the batch has none."""
    mask = batch.get(MASK_NAME, batch.get(f"{MASK_NAME}:0"))
    # A mask of more axes says who sees whom, not what is padding.
    if mask is None or mask.ndim != 2 or bool(mask.all()):
        return None
    return torch.from_numpy(mask).to(torch.bool)
