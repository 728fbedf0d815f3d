"""pytorch-quantization's histogram calibrator with a fast search and no need of CUDA."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_quantization.calib import HistogramCalibrator
from pytorch_quantization.tensor_quant import fake_tensor_quant
from torch import Tensor

from trt_int8.calibrate.estimate.kl import SearchOptions, best_bin

_METHODS = ("entropy", "mse", "percentile")


class ReferenceHistogram(HistogramCalibrator):  # type: ignore[misc]
    """A drop-in for pytorch-quantization's `HistogramCalibrator` (2.1.3), with its results.

    It collects the same bins, for it inherits the collecting: of |x|, as wide as the first batch's
    largest / 2048 in float32, more of them appended as later batches need them. Unlike it, entropy
    takes milliseconds, leaves the histogram alone with NumPy counts too (`torch_hist=False`), and
    gives the full range if there are fewer bins than `start_bin`; mse runs on the CPU.
    """

    def compute_amax(
        self, method: str, *, stride: int = 1, start_bin: int = 128, percentile: float = 99.99
    ) -> Tensor | None:
        """Find amax; calling it again, or with another method, gives what a first call gives.

        Args:
            method: `entropy`, `mse` or `percentile`.
            stride: distance of two candidates of entropy and mse, in bins.
            start_bin: first candidate of entropy and mse.
            percentile: share of the values to keep, from 0 to 100.

        Returns:
            float32 [], in tensor units; None before any data.

        Raises:
            TypeError: the method is unknown.
            ValueError: the percentile is out of range, or mse has no candidate.
            RecipeError: the entropy search has a stride or a start below 1.
        """
        if method not in _METHODS:
            raise TypeError(f"calibration method is {method!r}, wanted one of {_METHODS}")
        if method == "percentile" or self._calib_hist is None:
            amax: Tensor | None = super().compute_amax("percentile", percentile=percentile)
            return amax
        counts, edges = self._calib_hist, self._calib_bin_edges
        if isinstance(counts, Tensor):
            counts, edges = counts.int().cpu().numpy(), edges.cpu().numpy()  # int32, as there
        if method == "mse":
            return self._least_mse(counts, edges, range(start_bin, len(edges) - 1, stride))
        options = SearchOptions(
            stride=stride,
            start=start_bin,
            compat="pytorch-quantization",
            levels=1 << (self._num_bits - 1 + int(self._unsigned)),
        )
        return torch.tensor(edges[best_bin(counts, options)].item())

    def _least_mse(
        self, counts: NDArray[Any], edges: NDArray[Any], candidates: Iterable[int]
    ) -> Tensor:
        """The bin centre with the least mean squared error of all centres, the first of equals."""
        weights, limits = torch.from_numpy(counts).float(), torch.from_numpy(edges).float()
        centers = (limits[1:] + limits[:-1]) / 2
        tried = [centers[index] for index in candidates]
        errors = [
            float(((self._rounded(centers, amax) - centers) ** 2 * weights).mean())
            for amax in tried
        ]
        return tried[int(np.argmin(errors))]

    def _rounded(self, values: Tensor, amax: Tensor) -> Tensor:
        rounded: Tensor = fake_tensor_quant(values, amax, self._num_bits, self._unsigned)
        return rounded
