from __future__ import annotations

import pytest
import torch

from tests.support.collected import one_batch
from trt_int8.calibrate.estimate.kept import kept_histogram, kept_rows
from trt_int8.calibrate.statistics import Needs, statistics_of
from trt_int8.calibrate.values import Values


def test_what_was_kept_is_handed_over() -> None:
    seen = one_batch([1.0, 2.0])
    assert kept_histogram(seen) is seen.histogram
    assert kept_rows(seen) is seen.rows


def test_what_was_not_kept_is_asked_for() -> None:
    seen = statistics_of("t", Values(torch.ones(1, 2)), Needs(histogram=False), 0)
    assert seen is not None
    with pytest.raises(ValueError, match=r"no histogram; collect with Needs\(histogram=True\)"):
        kept_histogram(seen)
    with pytest.raises(ValueError, match=r"no sample of rows; collect with Needs\(rows=True\)"):
        kept_rows(seen)
