"""Statistics of small arrays, as calibration would collect them."""

from __future__ import annotations

from functools import reduce

import numpy as np
import torch
from numpy.typing import ArrayLike

from trt_int8.calibrate.statistics import Needs, TensorStatistics, statistics_of
from trt_int8.calibrate.values import Values

EVERYTHING = Needs(histogram=True, rows=True)


def one_batch(values: ArrayLike, number: int = 0) -> TensorStatistics:
    """All statistics of one batch, of which the last dimension are the channels."""
    array = np.atleast_2d(np.asarray(values, dtype=np.float32))
    found = statistics_of("odd.input", Values(torch.from_numpy(array)), EVERYTHING, number)
    assert found is not None
    return found


def collected(*batches: ArrayLike) -> TensorStatistics:
    """All statistics of some batches, numbered 0, 1, … as they come."""
    parts = [one_batch(batch, number) for number, batch in enumerate(batches)]
    return reduce(TensorStatistics.merge, parts)
