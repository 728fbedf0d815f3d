"""The parts of the statistics that an estimator reads, or an error if they were not kept."""

from __future__ import annotations

from trt_int8.calibrate.histogram import Histogram
from trt_int8.calibrate.row_sample import RowSample
from trt_int8.calibrate.statistics import TensorStatistics


def kept_histogram(statistics: TensorStatistics) -> Histogram:
    """The histogram.

    Raises:
        ValueError: the statistics were collected without one.
    """
    if statistics.histogram is None:
        raise ValueError("these statistics hold no histogram; collect with Needs(histogram=True)")
    return statistics.histogram


def kept_rows(statistics: TensorStatistics) -> RowSample:
    """The sample of rows.

    Raises:
        ValueError: the statistics were collected without one.
    """
    if statistics.rows is None:
        raise ValueError("these statistics hold no sample of rows; collect with Needs(rows=True)")
    return statistics.rows
