"""Whether two collections of statistics are the same, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from trt_int8.calibrate.row_sample import RowSample
from trt_int8.calibrate.statistics import TensorStatistics


def assert_same(
    one: TensorStatistics | None, other: TensorStatistics | None, *, batches: bool = True
) -> None:
    """All fields are equal; `batches=False` if the values were split into other batches."""
    assert (one is None) == (other is None)
    if one is None or other is None:
        return
    assert (one.count, one.low, one.high) == (other.count, other.low, other.high)
    if batches:
        assert one.batches == other.batches
        assert list(one.batches) == list(other.batches)
    np.testing.assert_array_equal(np.asarray(one.channels), np.asarray(other.channels))
    assert (one.histogram is None) == (other.histogram is None)
    if one.histogram is not None and other.histogram is not None:
        assert one.histogram.exponent == other.histogram.exponent
        np.testing.assert_array_equal(one.histogram.counts, other.histogram.counts)
    assert (one.rows is None) == (other.rows is None)
    if one.rows is not None and other.rows is not None:
        np.testing.assert_array_equal(one.rows.keys, other.rows.keys)
        np.testing.assert_array_equal(one.rows.repeats, other.rows.repeats)
        width = max(one.rows.rows.shape[1], other.rows.rows.shape[1])
        np.testing.assert_array_equal(_filled(one.rows, width), _filled(other.rows, width))


def assert_all_same(
    one: Mapping[str, TensorStatistics], other: Mapping[str, TensorStatistics]
) -> None:
    """The same tensors with the same statistics."""
    assert sorted(one) == sorted(other)
    for name in one:
        assert_same(one[name], other[name])


def _filled(sample: RowSample, width: int) -> NDArray[np.float32]:
    """Rows filled up with zeros, as `RowSample.merge` does."""
    return np.pad(sample.rows, ((0, 0), (0, width - sample.rows.shape[1])))
