"""Timing of many runtimes in one process: turns, rotation, medians, ratios with their spread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Calls = Mapping[str, Callable[[], object]]
# Idle threads that spin use a whole core; below this share of a core everything sleeps.
_QUIET_SHARE = 0.2
_SLICE_SECONDS, _LONGEST_SECONDS = 0.01, 1.0


@dataclass(frozen=True)
class Plan:
    """How often each is called.

    Attributes:
        rounds: how many times everything has its turn.
        calls: timed calls of one turn.
        warm_up: calls before them, so that threads and caches are as they are in steady use.
    """

    rounds: int
    calls: int
    warm_up: int


def alternately(
    calls: Calls, plan: Plan, settle: Callable[[], object] | None = None
) -> dict[str, list[list[float]]]:
    """Time the calls in turns: A B C, then B C A, and so on.

    Args:
        calls: what to time, by name.
        plan: how often.
        settle: called before each turn; by default waits until no thread spins any more.

    Returns:
        Per name and round the seconds of each timed call.
    """
    wait = settle or wait_until_idle
    times: dict[str, list[list[float]]] = {name: [] for name in calls}
    for number in range(plan.rounds):
        for name in rotated(tuple(calls), number):
            call = calls[name]
            wait()
            for _ in range(plan.warm_up):
                call()
            times[name].append([seconds_of(call) for _ in range(plan.calls)])
    return times


def rotated(names: Sequence[str], by: int) -> tuple[str, ...]:
    """The names from number `by` on, then those before it."""
    start = by % len(names) if names else 0
    return (*names[start:], *names[:start])


def seconds_of(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def wait_until_idle() -> float:
    """Sleep until the threads of this process sleep too; returns the seconds that took.

    ONNX Runtime's and OpenMP's threads spin for a while after the last call and would take a core
    from whoever is timed next. They keep their defaults: within a turn calls follow each other.
    """
    start = time.perf_counter()
    while time.perf_counter() - start < _LONGEST_SECONDS:
        used, before = time.process_time(), time.perf_counter()
        time.sleep(_SLICE_SECONDS)
        share = (time.process_time() - used) / (time.perf_counter() - before)
        if share < _QUIET_SHARE:
            break
    return time.perf_counter() - start


@dataclass(frozen=True)
class Spread:
    """A median and the quartiles around it."""

    median: float
    lower: float
    upper: float

    def scaled(self, factor: float) -> Spread:
        """Every figure times `factor`, such as 1000 for milliseconds."""
        return Spread(self.median * factor, self.lower * factor, self.upper * factor)

    def as_json(self) -> dict[str, float]:
        """Rounded to five significant digits."""
        names = ("median", "lower_quartile", "upper_quartile")
        values = (self.median, self.lower, self.upper)
        return {name: float(f"{value:.5g}") for name, value in zip(names, values, strict=True)}


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles (linear between the values).

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("no values to take a median of")
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    lower, middle, upper = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(middle, lower, upper)


def time_spread(rounds: Sequence[Sequence[float]]) -> Spread:
    """Over all timed calls of all rounds."""
    return spread([value for each in rounds for value in each])


def ratio_spread(slower: Sequence[Sequence[float]], faster: Sequence[Sequence[float]]) -> Spread:
    """How many times `faster` is faster, round by round.

    Each round gives one ratio of the medians of its two turns: what slows the whole machine for a
    while slows both, and drops out.
    """
    pairs = zip(slower, faster, strict=True)
    return spread([statistics.median(one) / statistics.median(two) for one, two in pairs])
