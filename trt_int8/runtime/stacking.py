"""Reads single samples, stacks them to padded batches and splits the outputs again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_int8.errors import SessionError
from trt_int8.runtime.backend import Feeds, Outputs
from trt_int8.runtime.buckets import Buckets, can_pad, token_axes_of
from trt_int8.runtime.padding import FeedChecker, Side, sample_signature, token_part
from trt_int8.runtime.tensors import Shape, Signature


@dataclass(frozen=True)
class Sample:
    """One checked request of a map: arrays without the batch axis.

    Attributes:
        index: its place among the caller's requests.
        feeds: C-contiguous arrays of the model's types.
        tokens: its length; 1 for a model without a token axis.
        shapes: of its arrays, 0 for axes that count tokens: what samples of one batch share.
    """

    index: int
    feeds: Mapping[str, NDArray[Any]]
    tokens: int
    shapes: tuple[Shape, ...]


class Stacker:
    """Turns samples into feeds with a batch axis, and outputs into those of each sample."""

    def __init__(
        self,
        signature: Signature,
        buckets: Buckets | None,
        values: Mapping[str, int],
        side: Side = "right",
    ) -> None:
        """What each axis means is looked up once.

        Args:
            signature: of the model.
            buckets: lengths to pad to; None if nothing may be padded.
            values: per input what stands where there is no token, 0 if it is not named.
            side: where padding goes.
        """
        alone = sample_signature(signature)
        pads = can_pad(signature)
        self._buckets, self._side = buckets, side
        self._checker = FeedChecker(signature, sample=True)
        self._counting = {one.name: token_axes_of(one, alone) for one in alone.inputs}
        self._counted = next(iter(alone.token_axes.items()), None)
        self._padding = {
            one.name: (
                token_axes_of(one, alone) if pads else (),
                0 if one.name == signature.mask else values.get(one.name, 0),
            )
            for one in alone.inputs
        }
        fixed = isinstance(signature.inputs[0].axes[0], int)
        # Per output whether it has one row per sample, and the axes of a row that count tokens.
        self._rows = {
            one.name: bool(one.axes) and (fixed or not isinstance(one.axes[0], int))
            for one in signature.outputs
        }
        # Rows that cannot be told apart: the first axis counts tokens.
        self._turned = {one.name for one in signature.outputs if 0 in token_axes_of(one, signature)}
        self._cut = {
            one.name: tuple(axis - self._rows[one.name] for axis in token_axes_of(one, signature))
            if pads
            else ()
            for one in signature.outputs
        }

    def read(self, index: int, feeds: Feeds) -> Sample:
        """Check one request.

        Raises:
            RequestError: naming the request by its index.
        """
        request = f"request {index}"
        arrays = self._checker.check(feeds, request)
        tokens = 1
        if self._counted is not None:
            tokens = arrays[self._counted[0]].shape[self._counted[1]]
        if self._buckets is not None:
            self._buckets.bucket(tokens, request)
        shapes = tuple(
            tuple(0 if axis in self._counting[name] else size for axis, size in enumerate(a.shape))
            for name, a in arrays.items()
        )
        return Sample(index, arrays, tokens, shapes)

    def stack(self, samples: Sequence[Sample], length: int, rows: int) -> dict[str, NDArray[Any]]:
        """Feeds of samples with the same `shapes`.

        Args:
            samples: one or more.
            length: tokens that each is padded to.
            rows: size of the batch; the last sample fills what is too many.
        """
        feeds = {}
        for name, (axes, value) in self._padding.items():
            arrays = [one.feeds[name] for one in samples]
            first = arrays[0]
            sizes = (length if axis in axes else n for axis, n in enumerate(first.shape))
            batch = np.full((rows, *sizes), value, first.dtype)
            for row in range(rows):
                array = arrays[min(row, len(arrays) - 1)]
                batch[row][token_part(array.shape, axes, self._side)] = array
            feeds[name] = batch
        return feeds

    def split(self, outputs: Outputs, samples: Sequence[Sample], rows: int) -> list[Outputs]:
        """Outputs of each sample, without batch axis and padding, in memory of their own.

        An output without a batch axis is handed to every sample.

        Raises:
            SessionError: an output does not have one row per sample.
        """
        for name, array in outputs.items():
            if name in self._turned or (self._rows[name] and array.shape[:1] != (rows,)):
                raise SessionError(
                    f"output {name!r} has the shape {list(array.shape)} for {rows} samples",
                    wanted="one row per sample",
                    todo="call run() with batches of your own, or export the model with the "
                    "batch as first axis of every output",
                )
        return [
            {
                name: self._row(name, array[row, ...] if self._rows[name] else array, one.tokens)
                for name, array in outputs.items()
            }
            for row, one in enumerate(samples)
        ]

    def _row(self, name: str, array: NDArray[Any], tokens: int) -> NDArray[Any]:
        axes = self._cut[name]
        if axes:
            shape = tuple(tokens if axis in axes else n for axis, n in enumerate(array.shape))
            array = array[token_part(shape, axes, self._side)]
        # A view would keep the whole batch in memory as long as the caller keeps one answer.
        return np.array(array, order="C")
