"""Find the tensors that float16 may not hold, before the FP16 twins are made."""

from __future__ import annotations

from dataclasses import dataclass, field

from trt_int8.calibrate.overflow import peaks_of
from trt_int8.calibrate.smoothing import MOST_GROWTH
from trt_int8.calibrate.study import FP16_MARGIN_PEAK
from trt_int8.errors import GraphError
from trt_int8.graph.islands import overflows_of
from trt_int8.pipeline.data import PreparedModel
from trt_int8.pipeline.progress import Reporter
from trt_int8.spec.overflow import Overflow

# Quantization moves a tensor by a few steps, not by half its range.
_FAR_BELOW = FP16_MARGIN_PEAK / 2


@dataclass(frozen=True)
class FoundOverflows:
    """What was found.

    Attributes:
        fp32: largest |x| by tensor of the float graph.
        int8: the same of the quantized graph; empty where it needs no islands.
        overflow: the tensors of the float graph that float16 may not hold.
        notes: the same in sentences, or why nothing could be looked at.
    """

    fp32: dict[str, float] = field(default_factory=dict)
    int8: dict[str, float] = field(default_factory=dict)
    overflow: tuple[Overflow, ...] = ()
    notes: tuple[str, ...] = ()


def find_overflows(prepared: PreparedModel, reporter: Reporter) -> FoundOverflows:
    """Run the twins on calibration batches and look at every tensor.

    Args:
        prepared: both twins; without calibration batches the held-out ones are used.
        reporter: told of progress.
    """
    batches = prepared.calibration or tuple(prepared.held_out)
    try:
        with reporter.task("Looking for float16 overflow", 2) as advance:
            fp32 = peaks_of(prepared.fp32, batches)
            advance(1)
            int8 = {}
            smoothed = prepared.ranges is not None and prepared.ranges.smoothing is not None
            growth = MOST_GROWTH if smoothed else 1
            if max(fp32.values(), default=0.0) * growth > _FAR_BELOW:
                int8 = peaks_of(prepared.int8, batches)
    except GraphError as error:
        return FoundOverflows(notes=(f"float16 overflow was not looked for ({error.came})",))
    found = overflows_of(prepared.fp32, fp32)
    return FoundOverflows(fp32, int8, found, _notes(found))


def _notes(found: tuple[Overflow, ...]) -> tuple[str, ...]:
    if not found:
        return ()
    first = max(found, key=lambda each: each.peak)
    return (
        f"{len(found)} tensors may not fit float16 and are kept out of it in both twins; {first}",
    )
