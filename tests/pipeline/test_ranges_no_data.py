"""A model that no calibration data reached, smoothed or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.pipeline.test_ranges import Halver, chosen
from trt_int8.errors import RangeError
from trt_int8.spec.recipe import Recipe
from trt_int8.spec.smoothing import Alpha


class Smoothable(Halver):
    """With two inputs of Linears."""

    def __init__(self) -> None:
        super().__init__(batches=[])
        self.weight = {site: np.ones((3, 5), np.float32) for site in self.sites}

    def smoothing_groups(self) -> tuple[tuple[str, ...], ...]:
        return tuple((site,) for site in self.sites)

    def smooth(self, factors: dict[str, NDArray[np.float32]]) -> None:
        assert factors == {}


@pytest.mark.parametrize("smooth", [0, 0.5, "auto"])
def test_a_model_without_any_data_is_refused_by_a_site(tmp_path: Path, smooth: Alpha) -> None:
    with pytest.raises(RangeError, match="no calibration data reached 'half'"):
        chosen(tmp_path, Smoothable(), recipe=Recipe(smooth=smooth))
    assert list(tmp_path.iterdir()) == []
