"""A streaming histogram of one tensor's |x|, in constant memory."""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor

from trt_int8.errors import RangeError

BINS = 4096
_BITS = 12  # BINS == 2 ** _BITS
# Smallest exponent whose power of two, and its inverse, are normal float32 numbers (IEEE 754).
_MIN_EXPONENT = -126


class HistogramCalibrator:
    """Counts |x| in 4,096 equal bins and keeps the largest |x|.

    It has the methods of pytorch-quantization's calibrators, so a TensorQuantizer can hold it;
    that package's own histogram counts in float32 (wrong beyond 2^24) and adds bins without end.

    Bin i holds i * width <= |x| < (i + 1) * width. The width is the smallest power of two with
    which the largest |x| seen fits: 2,048 to 4,096 bins lie below it. Dividing by a power of two
    and merging 2^k neighbours are exact, so the counts, and with them every result, are the same
    bit for bit however the values are ordered or split into batches.

    Attributes:
        name: the tensor, for error messages.
        peak: largest |x| so far; 0 before any value.
        count: number of values so far.
    """

    def __init__(self, name: str) -> None:
        """Start empty."""
        self.name = name
        self.reset()

    def reset(self) -> None:
        """Forget all values."""
        self.peak = 0.0
        self.count = 0
        self._exponent = _MIN_EXPONENT
        self._counts = torch.zeros(BINS, dtype=torch.int64)

    def collect(self, x: Tensor) -> None:
        """Count one batch, as float32; any shape.

        Raises:
            RangeError: it holds NaN or infinity; the message names the tensor.
        """
        if x.numel() == 0:
            return
        values = x.detach().float().flatten()
        low, high = torch.aminmax(values)  # a NaN makes both NaN
        peak = max(-float(low), float(high))
        if not math.isfinite(peak):
            raise RangeError(
                f"tensor {self.name!r} holds NaN or infinity during calibration",
                wanted="finite values",
                todo="check the model on this text, or add the tensor to 'keep' in the recipe",
            )
        self.peak = max(self.peak, peak)
        self.count += values.numel()
        self._widen()
        # bincount is exact (int64) and, on the CPU, 2 to 3 times as fast as histc or np.histogram.
        bins = values.abs().mul_(2.0**-self._exponent).to(torch.int32)
        self._counts += torch.bincount(bins, minlength=BINS).cpu()

    def _widen(self) -> None:
        """Merge neighbouring bins until the largest |x| fits."""
        # frexp gives the smallest e with peak < 2**e.
        wanted = max(self._exponent, math.frexp(self.peak)[1] - _BITS)
        step = min(wanted - self._exponent, _BITS)
        merged = torch.zeros_like(self._counts)
        merged[: BINS >> step] = self._counts.reshape(-1, 1 << step).sum(dim=1)
        self._exponent, self._counts = wanted, merged

    def compute_amax(self, method: str = "max", *, percentile: float = 100.0) -> Tensor | None:
        """The range of all values so far.

        `max`: the largest |x|. `percentile` p: the right edge of the first bin at which the bins
        so far hold p % of the values, but no more than the largest |x|; so at least p % of all
        |x| are <= amax, and p = 100 clips nothing.

        Returns:
            A float32 tensor of shape []; None before any value.
        """
        if self.count == 0:
            return None
        amax = self.peak
        if method == "percentile":
            # The decimal number the user wrote, not its float: 99.9 % of 1,000 is 999.
            needed = math.ceil(Fraction(repr(percentile)) * self.count / 100)
            first = int(torch.searchsorted(self._counts.cumsum(0), needed))
            amax = min(amax, math.ldexp(first + 1, self._exponent))
        return torch.tensor(amax, dtype=torch.float32)
