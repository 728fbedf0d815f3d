"""Made-up requests, so that the first real ones do not wait for anything."""

from __future__ import annotations

from typing import Any

import numpy as np

from trt_int8.runtime.buckets import Buckets
from trt_int8.runtime.tensors import Signature
from trt_int8.spec.shapes import Profile


def default_shapes(signature: Signature, buckets: Buckets | None) -> list[tuple[int, int]]:
    """(samples, tokens) to warm up with: all fixed shapes, else each bucket with one sample."""
    profiles = signature.profiles
    if profiles and all(one.min == one.max for profile in profiles for one in profile):
        return [_sizes(profile, signature) for profile in profiles]
    if buckets is not None:
        return [(1, length) for length in buckets.lengths]
    for one in signature.inputs:
        if one.name in signature.token_axes:
            return [(1, one.smallest[signature.token_axes[one.name]])]
    return [(1, 1)]


def _sizes(profile: Profile, signature: Signature) -> tuple[int, int]:
    for one in profile:
        if one.name in signature.token_axes:
            return one.max[0], one.max[signature.token_axes[one.name]]
    return profile[0].max[0], 1


def example_feeds(signature: Signature, samples: int, tokens: int) -> dict[str, Any]:
    """Feeds of these sizes, all ones: a mask of zeros would leave softmax nothing to choose from.

    Other dynamic axes have their least size.
    """
    feeds = {}
    for one in signature.inputs:
        shape = list(one.smallest)
        if one.axes and not isinstance(one.axes[0], int):
            shape[0] = samples
        counted = signature.token_axes.get(one.name)
        if counted is not None:
            shape[counted] = tokens
        feeds[one.name] = np.ones(shape, one.dtype)
    return feeds
