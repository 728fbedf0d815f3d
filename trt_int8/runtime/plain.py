"""Requests that run as they are: recognised at once, so that the smallest ones wait for nothing."""

from __future__ import annotations

import numpy as np

from trt_int8.runtime.backend import Feeds
from trt_int8.runtime.tensors import Shape, TensorInfo

# Far more than any session meets; a bound all the same, as batches may be of any size.
_MOST = 4096


class PlainShapes:
    """Shapes of earlier requests that needed no padding, cutting or conversion.

    A request of the same shapes needs none either: the checks look at names, types and shapes only.
    Any thread may use it: a set is changed and read in one step.
    """

    def __init__(self, inputs: tuple[TensorInfo, ...]) -> None:
        """No shapes are known yet."""
        self._types = tuple((one.name, np.dtype(one.dtype)) for one in inputs)
        self._known: set[tuple[Shape, ...]] = set()

    def of(self, feeds: Feeds) -> tuple[Shape, ...]:
        """Shapes of a request that is a dict of arrays as the backend takes them; else empty."""
        if type(feeds) is not dict or len(feeds) != len(self._types):
            return ()
        shapes = []
        for name, dtype in self._types:
            array = feeds.get(name)
            if type(array) is not np.ndarray or array.dtype != dtype:
                return ()
            flags = array.flags
            if not (flags.c_contiguous and flags.aligned):
                return ()
            shapes.append(array.shape)
        return tuple(shapes)

    def add(self, shapes: tuple[Shape, ...]) -> None:
        """Remember the shapes of a request that ran as it was."""
        if len(self._known) < _MOST:
            self._known.add(shapes)

    def __contains__(self, shapes: tuple[Shape, ...]) -> bool:
        """Whether such a request is known to run as it is."""
        return shapes in self._known
