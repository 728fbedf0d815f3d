"""Fixed shapes: the signature of a session that runs only those, and batches cut or filled to them.

A fixed shape is an optimization profile whose smallest and largest sizes are equal; so whatever
reads profiles (buckets, packing) needs to know nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from trt_int8.errors import RequestError, SessionError
from trt_int8.runtime.arrays import shape_of
from trt_int8.runtime.backend import Backend, Feeds, Outputs
from trt_int8.runtime.packing import BatchSizes, batch_sizes
from trt_int8.runtime.tensors import ANY, Shape, Signature, TensorInfo
from trt_int8.spec.shapes import InputShape, Profile

# Half a gigabyte of MiniLM's hidden states; beyond a few thousand nothing is won by more at once.
_CPU_TOKENS = 2**15


def for_cpu(signature: Signature) -> Signature:
    """The signature without the engine's limits on batches; other sizes keep their upper limits.

    The model's position embeddings end somewhere: longer texts would read beyond them. Half
    precision is float32 there, as `cpu_graph` has it.
    """
    inputs = tuple(
        replace(
            _widened(one),
            smallest=tuple(axis if isinstance(axis, int) else 1 for axis in one.axes),
            largest=(_most_samples(one), *one.largest[1:]),
        )
        for one in signature.inputs
    )
    outputs = tuple(map(_widened, signature.outputs))
    return replace(signature, inputs=inputs, outputs=outputs, profiles=())


def _widened(one: TensorInfo) -> TensorInfo:
    return replace(one, dtype="float32") if one.dtype in ("float16", "bfloat16") else one


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


def run_sizes(signature: Signature, device: Literal["cpu", "cuda"]) -> BatchSizes:
    """Batches that are run at once. A CPU takes any; huge ones are cut, to need less memory.

    They are not if the shapes are fixed, or an output could not be joined again.
    """
    sizes = batch_sizes(signature)
    if device == "cuda" or signature.profiles:
        return sizes
    batch = signature.batch_axis_name
    joins = all(batch is not None and one.axes[:1] == (batch,) for one in signature.outputs)
    return replace(sizes, tokens=_CPU_TOKENS) if joins else sizes


def any_batch(signature: Signature) -> Signature:
    """For checking a request before it is cut or filled to the batches that can be run."""
    inputs = tuple(
        replace(one, smallest=(1, *one.smallest[1:]), largest=(ANY, *one.largest[1:]))
        for one in signature.inputs
    )
    return replace(signature, inputs=inputs)


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
        fed: how many there are with the copies.
        as_sent: the request runs whole, neither cut nor filled.
    """

    feeds: Mapping[str, Any]
    rows: int
    fed: int
    as_sent: bool = False

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
            yield Piece(feeds, rows, rows, as_sent=True)
            return
        part = {name: _rows(name, array, start, rows) for name, array in feeds.items()}
        yield Piece({name: _filled(array, wanted) for name, array in part.items()}, rows, wanted)


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


def run_pieces(backend: Backend, pieces: list[Piece]) -> list[Outputs]:
    """Run the pieces of a request, on several workers if there are, and wait for them."""
    if len(pieces) == 1 or backend.workers == 1:
        return [backend.run(each.feeds) for each in pieces]
    futures = [backend.submit(each.feeds) for each in pieces]
    try:
        # What has not begun runs here: this may be a worker, in a callback, and others that wait
        # like it would never run what it waits for.
        return [
            backend.run(piece.feeds) if future.cancel() else future.result()
            for piece, future in zip(pieces, futures, strict=True)
        ]
    except BaseException:
        for future in futures:
            future.cancel()
        raise


def join_rows(
    pieces: list[tuple[Outputs, Piece]], signature: Signature, *, padded: bool = False
) -> Outputs:
    """The outputs of a request from those of its pieces, in order.

    Args:
        pieces: outputs and what was run for them.
        signature: of the model.
        padded: padding has to be cut off, so that every axis must be known for what it counts.

    Raises:
        SessionError: an output may have tokens of all samples, padding included, along one axis.
        RequestError: an output does not have a row per sample, so it cannot be cut or joined.
    """
    first, piece = pieces[0]
    if piece.as_sent:
        if padded:
            _check_rows(first, piece.rows, signature)
        return first
    named = {one.name: one for one in signature.outputs}
    found = {}
    for name, array in first.items():
        if len(pieces) == 1 and _is_constant(named[name], signature):
            found[name] = array
            continue
        if not all(_has_rows(each[name], one, named[name], signature) for each, one in pieces):
            raise RequestError(
                f"output {name!r} has no row per sample, and the batch was cut or filled",
                wanted="a batch that runs as it is",
                todo="send one of the sizes that the session takes",
            )
        found[name] = np.concatenate([each[name][: one.rows] for each, one in pieces])
    return found


def _check_rows(outputs: Outputs, rows: int, signature: Signature) -> None:
    for one in signature.outputs:
        first = one.axes[0] if one.axes else 0
        if isinstance(first, int) or first == signature.token_axis_name:
            continue
        if outputs[one.name].shape[0] != rows:
            raise SessionError(
                f"output {one.name!r} has the shape {list(outputs[one.name].shape)} for"
                f" {rows} samples, and padding cannot be cut off it",
                wanted="one row per sample",
                todo="pad to one of the session's buckets, or export the model with the batch as"
                " first axis of every output",
            )


def _is_constant(info: TensorInfo, signature: Signature) -> bool:
    """Whether the first axis of an output is fixed, and not by a batch of one size."""
    fixed = not info.axes or isinstance(info.axes[0], int)
    return fixed and not isinstance(signature.inputs[0].axes[0], int)


def _has_rows(array: Any, piece: Piece, info: TensorInfo, signature: Signature) -> bool:
    if array.ndim == 0 or _is_constant(info, signature):
        return False
    return info.axes[0] != signature.token_axis_name and array.shape[0] == piece.fed
