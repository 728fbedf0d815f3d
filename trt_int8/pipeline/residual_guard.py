"""INT8 residual sums are refused where the calibration texts show that they would not work."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from trt_int8.calibrate.collector import Statistics
from trt_int8.calibrate.statistics import TensorStatistics
from trt_int8.calibrate.study import outlier_channels
from trt_int8.errors import RecipeError
from trt_int8.spec.recipe import Recipe

# A channel counts as one-sided if it reaches this many times further on one side of zero than on
# the other: a symmetric range then has half of its codes for values that never come.
ONE_SIDED = 2.0


@dataclass(frozen=True)
class OneSided:
    """An outlier channel of a residual site.

    Attributes:
        tensor: its name.
        channel: number of the channel.
        low: its smallest value.
        high: its largest value.
        sigmas: how far it reaches from the tensor's mean, in standard deviations.
    """

    tensor: str
    channel: int
    low: float
    high: float
    sigmas: float


def refuse_one_sided(recipe: Recipe, sites: Iterable[str], statistics: Statistics) -> None:
    """Stop a recipe with residual sums if one of them has one-sided outliers.

    Args:
        recipe: nothing is looked at unless it `is_guarded`.
        sites: tensors that skip arms read.
        statistics: with histograms.

    Raises:
        RecipeError: naming the worst tensor and channel, and how many there are.
    """
    if not recipe.is_guarded:
        return
    found = [
        worst
        for name in sites
        if (seen := statistics.get(name)) is not None
        and (worst := worst_one_sided(name, seen)) is not None
    ]
    if not found:
        return
    worst = max(found, key=lambda each: each.sigmas)
    many = f" ({len(found)} such tensors)" if len(found) > 1 else ""
    raise RecipeError(
        f"recipe {recipe.name!r} quantizes the residual tensor {worst.tensor!r}, whose channel"
        f" {worst.channel} has one-sided outliers: {worst.low:.3g} to {worst.high:.3g},"
        f" {worst.sigmas:.0f} standard deviations from the mean{many}",
        wanted="residual tensors that one symmetric INT8 range can hold",
        todo="use --recipe linear+attention, or set force = true in a recipe file with"
        ' base = "full" and look at the accuracy',
    )


def worst_one_sided(name: str, statistics: TensorStatistics) -> OneSided | None:
    """The outlier channel (see `calibrate.study`) that is one-sided and reaches furthest."""
    if statistics.channels is None:
        return None
    found = []
    for outlier in outlier_channels(statistics):
        low, high = (float(end[outlier.channel]) for end in statistics.channels)
        if max(-low, high) > ONE_SIDED * max(min(-low, high), 0.0):
            found.append(OneSided(name, outlier.channel, low, high, outlier.sigmas))
    return max(found, key=lambda each: each.sigmas, default=None)
