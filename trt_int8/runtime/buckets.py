"""Length buckets: the few token counts that requests are padded to."""

from __future__ import annotations

import bisect
from dataclasses import dataclass

from trt_int8.errors import RequestError
from trt_int8.runtime.tensors import Signature, TensorInfo

# Steps between buckets are multiples of this: the rows of an INT8 operand then start at 8 bytes.
_STEP = 8
_PER_DOUBLING = 4


@dataclass(frozen=True)
class Buckets:
    """Token counts that are run; a request is padded to the next one.

    Every bucket is a shape of its own: kernels chosen or compiled for it, on a GPU a CUDA graph.
    So there should be few, but every token of padding is computed too. The default ladder has four
    lengths per doubling, in steps of 8 at least (16, 24 … 64, 80 … 128, 160 …): beyond 32 tokens
    less than a fifth of a bucket is padding, below it at most 7 tokens are; and 16..384 has 17
    shapes. Steps of one size would need 47 shapes for 7 tokens at most, or waste half of the
    short ones.

    Attributes:
        lengths: tokens, rising.
    """

    lengths: tuple[int, ...]

    @staticmethod
    def of(smallest: int, largest: int) -> Buckets:
        """The default ladder within [smallest, largest]; the last bucket is `largest`."""
        lengths = []
        length = _STEP
        while length < largest:
            if length >= smallest:
                lengths.append(length)
            length += max(_STEP, 2 ** (length.bit_length() - 1) // _PER_DOUBLING)
        return Buckets((*lengths, largest))

    @property
    def largest(self) -> int:
        """Tokens of the longest request that fits."""
        return self.lengths[-1]

    def bucket(self, tokens: int, request: str = "the request") -> int:
        """The shortest bucket that holds `tokens`.

        Args:
            tokens: of the longest sample.
            request: what messages call it.

        Raises:
            RequestError: it is longer than all of them, or has no token.
        """
        if tokens < 1:
            raise RequestError(
                f"{request} has no token",
                wanted=f"1 to {self.largest} tokens",
                todo="leave it out, or send at least one token",
            )
        if tokens > self.largest:
            raise too_long(tokens, self.largest, request)
        return self.lengths[bisect.bisect_left(self.lengths, tokens)]


def too_long(tokens: int, largest: int, request: str) -> RequestError:
    """The error of a request with more tokens than the bundle was built for."""
    return RequestError(
        f"{request} has {tokens} tokens",
        wanted=f"at most {largest}, the longest this bundle was built for",
        todo="truncate it, or build the bundle with a larger seq in --shapes",
    )


def buckets_of(signature: Signature) -> Buckets | None:
    """The default buckets of a model; None if nothing may be padded along its token axis.

    With several profiles each has its ladder, so that a request pads to a length that one of them
    takes, and to the longest length of a profile rather than into the next.
    """
    if not can_pad(signature):
        return None
    spans = sorted(_spans(signature))
    lengths = {length for low, high in spans for length in Buckets.of(low, high).lengths}
    return Buckets(tuple(sorted(lengths)))


def can_pad(signature: Signature) -> bool:
    """Whether padding along the token axis is masked, and can be cut off every output again.

    It is not when an output has a dynamic axis of unknown meaning after the first: that could count
    tokens, or something that depends on them.
    """
    name = signature.token_axis_name
    known = {axis for given in signature.inputs for axis in given.axes if isinstance(axis, str)}
    if signature.mask is None or (name is None and signature.fixed_tokens is None):
        return False
    dynamic = (
        axis for out in signature.outputs for axis in out.axes[1:] if not isinstance(axis, int)
    )
    return all(axis in known for axis in dynamic)


def token_axes_of(tensor: TensorInfo, signature: Signature) -> tuple[int, ...]:
    """Every axis of an input or output that counts tokens; [B, S, S] has two.

    Where the model has one length, only the second axis of an output with three or more is taken
    for it. [B, H] with H of the same size says nothing of tokens, so a [B, S] stays as it is.
    """
    if not tensor.smallest and signature.fixed_tokens is not None:
        return (
            (1,) if tensor.axes[1:2] == (signature.fixed_tokens,) and len(tensor.axes) > 2 else ()
        )
    name = signature.token_axis_name
    given = signature.token_axes.get(tensor.name) if tensor.smallest else None
    return tuple(
        index
        for index, axis in enumerate(tensor.axes)
        if index == given or (name is not None and axis == name)
    )


def _spans(signature: Signature) -> set[tuple[int, int]]:
    """Least and greatest token count of each profile."""
    given = next(one for one in signature.inputs if one.name in signature.token_axes)
    axis = signature.token_axes[given.name]
    shapes = [one for profile in signature.profiles for one in profile if one.name == given.name]
    if not shapes:
        return {(given.smallest[axis], given.largest[axis])}
    return {(shape.min[axis], shape.max[axis]) for shape in shapes}
