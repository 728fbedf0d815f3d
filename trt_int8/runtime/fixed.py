"""Fixed shapes: the signature of a session that runs only those, and batches cut or filled to them.

A fixed shape is an optimization profile whose smallest and largest sizes are equal; so whatever
reads profiles (buckets, packing) needs to know nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from trt_int8.errors import RequestError
from trt_int8.runtime.arrays import shape_of
from trt_int8.runtime.backend import Feeds, Outputs
from trt_int8.runtime.packing import BatchSizes
from trt_int8.runtime.tensors import ANY, Shape, Signature, TensorInfo
from trt_int8.spec.shapes import InputShape, Profile


def for_cpu(signature: Signature) -> Signature:
    """The signature without the engine's limits on batches; other sizes keep their upper limits.

    The model's position embeddings end somewhere: longer texts would read beyond them.
    """
    inputs = tuple(
        replace(
            one,
            smallest=tuple(axis if isinstance(axis, int) else 1 for axis in one.axes),
            largest=(_most_samples(one), *one.largest[1:]),
        )
        for one in signature.inputs
    )
    return replace(signature, inputs=inputs, profiles=())


def with_shapes(signature: Signature, shapes: tuple[tuple[int, int], ...]) -> Signature:
    """The signature that takes only these (samples, tokens).

    Raises:
        RequestError: one does not fit the model, or its inputs have other dynamic axes.
    """
    if not shapes:
        return signature
    profiles = tuple(_profile(signature, *shape) for shape in sorted(set(shapes)))
    for profile in profiles:
        signature.profile_of({one.name: one.max for one in profile})
        for given, one in zip(signature.inputs, profile, strict=True):
            _check_size(given, one)
    inputs = tuple(
        replace(
            given,
            smallest=tuple(map(min, zip(*(p[i].min for p in profiles), strict=True))),
            largest=tuple(map(max, zip(*(p[i].max for p in profiles), strict=True))),
        )
        for i, given in enumerate(signature.inputs)
    )
    return replace(signature, inputs=inputs, profiles=profiles)


def any_batch(signature: Signature) -> Signature:
    """For checking a request before it is cut or filled to the batches that can be run."""
    inputs = tuple(
        replace(one, smallest=(_least(one), *one.smallest[1:]), largest=(ANY, *one.largest[1:]))
        if one.axes and not isinstance(one.axes[0], int)
        else one
        for one in signature.inputs
    )
    return replace(signature, inputs=inputs)


def _least(one: TensorInfo) -> int:
    return min(1, one.smallest[0])


def _most_samples(one: TensorInfo) -> int:
    return one.axes[0] if one.axes and isinstance(one.axes[0], int) else ANY


def _profile(signature: Signature, samples: int, tokens: int) -> Profile:
    made = []
    for one in signature.inputs:
        counted = signature.token_axes.get(one.name)
        sizes = tuple(
            axis if isinstance(axis, int) else samples if i == 0 else tokens if i == counted else 0
            for i, axis in enumerate(one.axes)
        )
        if 0 in sizes:
            raise RequestError(
                f"input {one} has a dynamic axis that counts neither samples nor tokens",
                wanted="no other dynamic axis, for fixed shapes",
                todo="leave `shapes` out",
            )
        made.append(InputShape(name=one.name, min=sizes, opt=sizes, max=sizes))
    return tuple(made)


def _check_size(given: TensorInfo, one: InputShape) -> None:
    limits = zip(given.smallest, one.max, given.largest, strict=True)
    if not all(low <= size <= high for low, size, high in limits):
        raise RequestError(
            f"shapes asks for {one.name} {list(one.max)}",
            wanted=str(given),
            todo="correct `shapes`, or build the bundle with other --shapes",
        )


@dataclass(frozen=True)
class Piece:
    """Part of a request that runs at once.

    Attributes:
        feeds: its rows, and copies of its first row up to a batch that can be run.
        rows: how many of them are asked for.
    """

    feeds: Mapping[str, Any]
    rows: int

    def is_whole(self, shapes: tuple[Shape, ...]) -> bool:
        """Whether it is a request with these shapes as it came, not padded, cut or filled."""
        return tuple(shape_of(array) for array in self.feeds.values()) == shapes


def cut_rows(feeds: Feeds, length: int, sizes: BatchSizes) -> Iterator[Piece]:
    """Cut a request into batches that can be run; filled ones repeat a row that is there anyway.

    Args:
        feeds: padded to `length` tokens.
        length: tokens; any number for a model without tokens.
        sizes: batches that can be run.

    Raises:
        RequestError: memory of a GPU would have to be cut or filled.
    """
    samples = min((shape_of(array) or (1,))[0] for array in feeds.values())
    most = sizes.most(length)
    for start in range(0, samples, most):
        rows = min(most, samples - start)
        wanted = sizes.rows(rows, length)
        if rows == wanted == samples:
            yield Piece(feeds, rows)
            return
        part = {name: _rows(name, array, start, rows) for name, array in feeds.items()}
        yield Piece({name: _filled(array, wanted) for name, array in part.items()}, rows)


def _rows(name: str, array: Any, start: int, rows: int) -> Any:
    if not isinstance(array, np.ndarray):
        raise RequestError(
            f"input {name!r} is memory of a GPU with {shape_of(array)[0]} samples",
            wanted="a batch that runs as it is",
            todo="send one of the session's shapes, or an array of the host",
        )
    return array[start : start + rows]


def _filled(array: Any, wanted: int) -> Any:
    missing = wanted - array.shape[0]
    if not missing:
        return array
    return np.concatenate([array, np.repeat(array[:1], missing, axis=0)])


def join_rows(pieces: list[tuple[Outputs, int]], signature: Signature) -> Outputs:
    """The outputs of a request from those of its pieces, in order.

    Raises:
        RequestError: an output does not have a row per sample, so it cannot be cut or joined.
    """
    first, rows = pieces[0]
    named = {one.name: one for one in signature.outputs}
    if len(pieces) == 1 and all(_is_whole(array, rows, named[n]) for n, array in first.items()):
        return first
    batch = signature.batch_axis_name
    for name in first:
        axes = named[name].axes
        if batch is None or not axes or axes[0] != batch:
            raise RequestError(
                f"output {name!r} has no row per sample, and the batch was cut or filled",
                wanted="a batch that runs as it is",
                todo="send one of the sizes that the session takes",
            )
    kept = [{name: array[:count] for name, array in given.items()} for given, count in pieces]
    if len(kept) == 1:
        return kept[0]
    return {name: np.concatenate([each[name] for each in kept]) for name in first}


def _is_whole(array: Any, rows: int, info: TensorInfo) -> bool:
    """Nothing is to be cut: the first axis has a row per asked sample, or does not count them."""
    return array.ndim == 0 or array.shape[0] == rows or isinstance(info.axes[0], int)
