"""Checks the feeds of a request, pads its token axis and cuts the outputs back."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from trt_int8.errors import RequestError
from trt_int8.runtime.arrays import Given, read_array, shape_of
from trt_int8.runtime.backend import Feeds, Outputs
from trt_int8.runtime.buckets import can_pad, token_axes_of, too_long
from trt_int8.runtime.tensors import Shape, Signature, TensorInfo

Side = Literal["left", "right"]


def check_feeds(
    feeds: Feeds,
    signature: Signature,
    *,
    allow_device: bool = False,
    request: str = "the request",
) -> dict[str, Any]:
    """Check a request against the model and bring its arrays to the form the backend takes.

    Args:
        feeds: every input by name, as `read_array` takes them, the batch as first axis.
        signature: of the model.
        allow_device: whether objects with `__cuda_array_interface__` are taken, unchanged.
        request: what messages call it.

    Returns:
        C-contiguous arrays of the model's types, in the order of the inputs. Arrays that were so
        already are not copied. Values are not looked at; NaN passes.

    Raises:
        RequestError: a name is missing or unknown, or a type or size does not fit. A request
            with fewer tokens than the model takes passes if it can be padded.
    """
    return FeedChecker(signature, allow_device=allow_device).check(feeds, request)


class FeedChecker:
    """`check_feeds` for many requests: what the model takes is looked up once.

    With `sample` a request is one sample: its arrays lack the batch axis, on the way in and out,
    and how many samples run together is not looked at.
    """

    def __init__(
        self, signature: Signature, *, sample: bool = False, allow_device: bool = False
    ) -> None:
        """See `check_feeds`."""
        self._signature = sample_signature(signature) if sample else signature
        self._sample, self._allow_device = sample, allow_device
        self._rules = tuple(
            _rule(one, self._signature, sample=sample) for one in self._signature.inputs
        )
        self._names = {info.name for info in signature.inputs}

    def check(self, feeds: Feeds, request: str = "the request") -> dict[str, Any]:
        """See `check_feeds`."""
        if not isinstance(feeds, Mapping):
            raise _no_mapping(feeds, request)
        if feeds.keys() != self._names:
            raise _wrong_names(feeds, self._signature, request)
        arrays: dict[str, Any] = {}
        seen: dict[str, tuple[int, str]] = {}
        for rule in self._rules:
            name = rule.info.name
            array = feeds[name]
            if not rule.takes(array):
                given = Given(rule.info, request)
                array = read_array(array, given, allow_device=self._allow_device)
            self._check_shape(shape_of(array), rule, seen, request)
            arrays[name] = array
        return arrays

    def _check_shape(
        self, shape: Shape, rule: _Rule, seen: dict[str, tuple[int, str]], request: str
    ) -> None:
        if len(shape) != len(rule.bounds):
            raise _wrong_rank(shape, Given(rule.info, request), sample=self._sample)
        for axis, (size, (low, high), what) in enumerate(
            zip(shape, rule.bounds, rule.same, strict=True)
        ):
            if not low <= size <= high:
                raise _wrong_size(shape, axis, rule, request)
            if what is not None and seen.setdefault(what, (size, rule.info.name))[0] != size:
                raise _unequal(seen[what], what, (size, rule.info.name), request)


def sample_signature(signature: Signature) -> Signature:
    """The signature with inputs that lack the batch axis, their first; outputs are as before."""
    return replace(
        signature,
        inputs=tuple(_without_batch(one) for one in signature.inputs),
        token_axes={name: axis - 1 for name, axis in signature.token_axes.items()},
        profiles=(),
    )


def token_count(feeds: Feeds, signature: Signature) -> int:
    """Length of the token axis of checked feeds; 0 if the model has none."""
    for name, axis in signature.token_axes.items():
        return int(shape_of(feeds[name])[axis])
    return 0


def pad_request(
    feeds: Feeds,
    signature: Signature,
    values: Mapping[str, int],
    bucket: int,
    side: Side = "right",
) -> dict[str, Any]:
    """Pad the token axis of checked feeds to `bucket`.

    Args:
        feeds: of `check_feeds`; they are not changed.
        signature: of the model; without a mask nothing is padded.
        values: per input what stands where there is no token, 0 if it is not named. The mask is
            always 0 there.
        bucket: tokens to pad to, at least as many as there are.
        side: where padding goes. With `left` a model that counts positions itself, from the first
            column, sees a text moved; it must read them from `position_ids` or from the mask.

    Returns:
        Feeds with `bucket` tokens; arrays that have as many already are the same objects.

    Raises:
        RequestError: memory of a GPU has another length.
    """
    if not can_pad(signature):
        return dict(feeds)
    padded = {}
    for info in signature.inputs:
        value = 0 if info.name == signature.mask else values.get(info.name, 0)
        axes = token_axes_of(info, signature)
        padded[info.name] = _pad(feeds[info.name], axes, bucket, value=value, side=side)
    return padded


def cut_outputs(
    outputs: Outputs, signature: Signature, tokens: int, side: Side = "right"
) -> Outputs:
    """Cut the padding off every output axis that repeats the token axis.

    Args:
        outputs: of a request that `pad_request` padded.
        signature: of the model.
        tokens: the length before padding.
        side: as it was padded.

    Returns:
        Views into the outputs; the same arrays where there is nothing to cut.
    """
    if not can_pad(signature):
        return outputs
    kept = slice(None, tokens) if side == "right" else slice(-tokens, None)
    axes = {info.name: token_axes_of(info, signature) for info in signature.outputs}
    return {
        name: array[tuple(kept if axis in axes[name] else slice(None) for axis in range(rank))]
        if (rank := array.ndim) and axes.get(name)
        else array
        for name, array in outputs.items()
    }


def _pad(array: Any, axes: tuple[int, ...], bucket: int, *, value: int, side: Side) -> Any:
    given = shape_of(array)
    shape = tuple(bucket if axis in axes else size for axis, size in enumerate(given))
    if shape == given:
        return array
    if not isinstance(array, np.ndarray):
        raise RequestError(
            f"memory of a GPU with the shape {list(given)}",
            wanted=f"the shape {list(shape)}, as it is not padded there",
            todo="pad it, and the mask with 0, or send arrays of the host",
        )
    padded = np.full(shape, value, array.dtype)
    padded[token_part(given, axes, side)] = array
    return padded


def token_part(shape: Shape, axes: tuple[int, ...], side: Side) -> tuple[slice, ...]:
    """Where an array of this shape lies in its padded form."""
    return tuple(
        (slice(None, size) if side == "right" else slice(-size, None))
        if axis in axes
        else slice(None)
        for axis, size in enumerate(shape)
    )


def _without_batch(info: TensorInfo) -> TensorInfo:
    return TensorInfo(info.name, info.dtype, info.axes[1:], info.smallest[1:], info.largest[1:])


@dataclass(frozen=True)
class _Rule:
    """What one input takes.

    Attributes:
        info: of the input.
        dtype: of its arrays.
        padded: axes that count tokens and will be padded, which may be shorter than the model's.
        bounds: least and greatest size of each axis.
        same: per axis what it counts, which has one size in all inputs; None if nothing is known.
    """

    info: TensorInfo
    dtype: np.dtype[Any]
    padded: tuple[int, ...]
    bounds: tuple[tuple[int, int], ...]
    same: tuple[str | None, ...]

    def takes(self, value: object) -> bool:
        """Whether it is an array that needs no conversion."""
        return type(value) is np.ndarray and value.dtype == self.dtype and value.flags.carray


def _rule(info: TensorInfo, signature: Signature, *, sample: bool) -> _Rule:
    counting = token_axes_of(info, signature)
    padded = counting if can_pad(signature) else ()
    names = [axis if isinstance(axis, str) else None for axis in info.axes]
    for axis in counting:
        names[axis] = "tokens"
    if names and not sample:
        names[0] = "batch"
    lows = (1 if axis in padded else low for axis, low in enumerate(info.smallest))
    bounds = tuple(zip(lows, info.largest, strict=True))
    return _Rule(info, np.dtype(info.dtype), padded, bounds, tuple(names))


def _no_mapping(feeds: object, request: str) -> RequestError:
    return RequestError(
        f"{request} is a {type(feeds).__name__}",
        wanted="a mapping from input names to arrays",
        todo="send, for example, {'input_ids': ids, 'attention_mask': mask}",
    )


def _wrong_names(feeds: Feeds, signature: Signature, request: str) -> RequestError:
    known = [info.name for info in signature.inputs]
    unknown = [str(name) for name in feeds if name not in known]
    missing = [name for name in known if name not in feeds]
    close = [
        f"{name!r} may be {found[0]!r}"
        for name in unknown
        if (found := difflib.get_close_matches(name, missing or known, n=1))
    ]
    parts = (("no input", missing), ("an unknown input", unknown))
    return RequestError(
        f"{request} has "
        + " and ".join(f"{text} {', '.join(map(repr, names))}" for text, names in parts if names),
        wanted="; ".join(str(info) for info in signature.inputs),
        todo=", ".join(close) or "add what is missing and leave out what the model does not read",
    )


def _wrong_rank(shape: Shape, given: Given, *, sample: bool) -> RequestError:
    more = len(shape) - len(given.info.axes)
    todo = "reshape it"
    if sample and more == 1:
        todo = "send one sample per request, without the batch axis"
    elif not sample and more == -1:
        todo = "add the batch axis, array[None], if it is one sample"
    return given.refuse(f"has {len(shape)} axes, {list(shape)}", todo)


def _wrong_size(shape: Shape, axis: int, rule: _Rule, request: str) -> RequestError:
    largest = rule.bounds[axis][1]
    if axis in rule.padded and shape[axis] > largest:
        return too_long(shape[axis], largest, request)
    return Given(rule.info, request).refuse(
        f"has the shape {list(shape)}", "send such sizes, or build the bundle with other --shapes"
    )


def _unequal(
    first: tuple[int, str], what: str, second: tuple[int, str], request: str
) -> RequestError:
    return RequestError(
        f"input {second[1]!r} of {request} has {second[0]} along {what!r}, "
        f"{first[1]!r} has {first[0]}",
        wanted="one size in all inputs",
        todo="pad or cut the arrays to one size",
    )
