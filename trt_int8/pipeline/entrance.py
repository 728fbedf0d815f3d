"""What every entrance gives: a loaded model whose tensors can be looked at and quantized."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trt_int8.calibrate.collector import NumberedBatches, Statistics
from trt_int8.calibrate.statistics import Needs
from trt_int8.calibrate.texts import TokenArrays
from trt_int8.evaluate.compare import Outputs
from trt_int8.model.source import ModelSource
from trt_int8.pipeline.data import CalibrationData, PreparedModel
from trt_int8.pipeline.progress import Reporter
from trt_int8.spec.ranges import RangeTable, TensorRange


class Tensors(Protocol):
    """Tensors of a model that statistics can be collected of; it can be pickled."""

    def collect(
        self, batches: NumberedBatches, needs: Needs, advance: Callable[[], None]
    ) -> Statistics:
        """Run the float model over the batches; `advance` is called after each."""


class Entrance(Protocol):
    """A loaded float model and its token batches.

    Attributes:
        source: where the model came from.
        data: token batches with what the model reads.
        sites: names of the tensors to be quantized.
        residual_sites: those of them that the skip arm of a residual sum reads.
        tensors: gives their statistics.
    """

    source: ModelSource
    data: CalibrationData
    sites: tuple[str, ...]
    residual_sites: tuple[str, ...]

    @property
    def tensors(self) -> Tensors:
        """Gives the statistics of the sites."""

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """Per site, where there is one, the weight [K, N] that it is multiplied by.

        A tensor that several weights read has them side by side: it gets one range.
        """

    def smoothing_groups(self) -> tuple[tuple[str, ...], ...]:
        """Sites that can be smoothed; those of a group share their factors."""

    def smooth(self, factors: Mapping[str, NDArray[np.float32]]) -> None:
        """Divide the channels of sites by factors [K], and multiply the weights that read them.

        From then on `tensors` and `weights` are those of the smoothed model, by the same names;
        its float answers, and the FP16 twin, stay what they were.

        Args:
            factors: by site; one that this recipe does not quantize is left as it is.

        Raises:
            RangeError: a site cannot be smoothed, or has another number of channels.
        """

    def answers(self, ranges: dict[str, TensorRange] | None, batches: list[TokenArrays]) -> Outputs:
        """Float outputs of the model with fake quantization by `ranges`; None for the float one."""

    def finish(self, ranges: RangeTable, reporter: Reporter) -> PreparedModel:
        """Quantize with these ranges and bring both twins to the normal form."""
