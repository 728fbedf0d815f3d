"""Puts requests of similar length together into batches, so that little padding is computed."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from trt_int8.runtime.buckets import Buckets
from trt_int8.runtime.statistics import Statistics
from trt_int8.runtime.tensors import Signature

DEFAULT_BATCH_TOKENS = 4096


@dataclass(frozen=True)
class BatchSizes:
    """How many samples the model takes at once, by length.

    Attributes:
        ranges: (shortest, longest, fewest, most): token counts and samples, one per profile.
        tokens: most samples times length at once; None if there is no limit.
    """

    ranges: tuple[tuple[int, int, int, int], ...]
    tokens: int | None = None

    def most(self, length: int) -> int:
        """Samples of the largest batch of this length; 1 if no profile holds it."""
        most = max((one[3] for one in self.ranges if one[0] <= length <= one[1]), default=1)
        return most if self.tokens is None else min(most, max(1, self.tokens // length))

    def within(self, limit: int, length: int) -> int:
        """Samples of the largest batch of this length up to a limit, or else of the least there is.

        A batch that is filled costs as much as a full one, so none should be cut to the limit.
        """
        fitting = [one[2:] for one in self.ranges if one[0] <= length <= one[1]]
        sizes = [min(limit, most) for fewest, most in fitting if fewest <= limit]
        return max(sizes) if sizes else min((fewest for fewest, _ in fitting), default=1)

    def rows(self, samples: int, length: int) -> int:
        """The smallest batch that holds these samples: profiles may start above 1."""
        fitting = (
            max(samples, fewest)
            for shortest, longest, fewest, most in self.ranges
            if shortest <= length <= longest and samples <= most
        )
        return min(fitting, default=samples)


def batch_sizes(signature: Signature) -> BatchSizes:
    """Read them from the profiles, or from the inputs if there are none."""
    counted = next(iter(signature.token_axes.items()), None)
    first = signature.inputs[0]
    if not signature.profiles:
        spans = {one.name: (one.smallest, one.largest) for one in signature.inputs}
        return BatchSizes((_range(spans, first.name, counted),))
    shapes = ({one.name: (one.min, one.max) for one in each} for each in signature.profiles)
    return BatchSizes(tuple(_range(spans, first.name, counted) for spans in shapes))


def _range(
    spans: dict[str, tuple[tuple[int, ...], tuple[int, ...]]],
    first: str,
    counted: tuple[str, int] | None,
) -> tuple[int, int, int, int]:
    low, high = spans[first]
    if counted is None:
        return 1, 1, low[0], high[0]
    name, axis = counted
    return spans[name][0][axis], spans[name][1][axis], low[0], high[0]


@dataclass(frozen=True)
class PackOptions:
    """How requests become batches.

    Attributes:
        max_batch_tokens: rows times bucket of a batch; the smallest that the model takes runs even
            if it is longer.
        sizes: samples that the model takes at once.
        merge: whether the part-filled last batch of a bucket may take in that of the next shorter
            one. It saves a run, but such a request is computed at another length than alone, so
            that its last bits may differ.
        batch_cost_tokens: for `merge`, what a run costs beside its tokens, in tokens: merged are
            batches that add less padding than this.
    """

    max_batch_tokens: int = DEFAULT_BATCH_TOKENS
    sizes: BatchSizes = field(default_factory=lambda: BatchSizes(()))
    merge: bool = False
    batch_cost_tokens: int = 64


@dataclass(frozen=True)
class Batch:
    """Requests that run together.

    Attributes:
        bucket: tokens that each is padded to.
        members: places of the requests in the sequence that was packed.
        rows: samples of the batch; more than members where the model takes no fewer.
    """

    bucket: int
    members: tuple[int, ...]
    rows: int


def pack(tokens: Sequence[int], buckets: Buckets | None, options: PackOptions) -> tuple[Batch, ...]:
    """Sort requests by length and cut them into batches, each of one bucket.

    Longest first: where several workers share the batches, the short ones at the end fill the gaps,
    as in Graham's longest-processing-time rule (SIAM J. Appl. Math. 17, 1969). Requests of one
    bucket stay in the order they came, so the earliest of them is answered first. Without `merge`
    no set of batches over these buckets computes fewer tokens: every request is padded to the
    shortest length that holds it.

    Args:
        tokens: of each request, at least 1 and at most the largest bucket.
        buckets: lengths to pad to; None if nothing may be padded, then only requests of equal
            length run together.
        options: limits.

    Returns:
        Batches that hold every request once; the same for the same arguments.
    """
    lengths = [count if buckets is None else buckets.bucket(count) for count in tokens]
    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    batches: list[Batch] = []
    start = 0
    while start < len(order):
        length = lengths[order[start]]
        end = bisect.bisect_right(order, -length, key=lambda place: -lengths[place])
        size = _most(length, options)
        for low in range(start, end, size):
            members = tuple(order[low : min(low + size, end)])
            batches.append(Batch(length, members, options.sizes.rows(len(members), length)))
        start = end
    if options.merge and buckets is not None:
        batches = _merged(batches, options)
    return tuple(batches)


def count(tokens: Sequence[int], batches: Sequence[Batch], buckets: Buckets | None) -> Statistics:
    """Statistics of packed requests; `tokens` as in `pack`."""
    found = Statistics(
        requests=len(tokens),
        tokens=sum(tokens),
        batches=len(batches),
        padded_tokens=sum(batch.rows * batch.bucket for batch in batches),
    )
    return replace(found, unsorted_padded_tokens=_unsorted(tokens, len(batches), buckets))


def _unsorted(tokens: Sequence[int], batches: int, buckets: Buckets | None) -> int:
    """Tokens computed by that many batches of equal size (to one request) in order of arrival."""
    bounds = [len(tokens) * step // batches for step in range(batches + 1)] if batches else [0]
    padded = 0
    for low, high in itertools.pairwise(bounds):
        longest = max(tokens[low:high])
        padded += (high - low) * (longest if buckets is None else buckets.bucket(longest))
    return padded


def _most(length: int, options: PackOptions) -> int:
    return options.sizes.within(max(1, options.max_batch_tokens // length), length)


def _merged(batches: Sequence[Batch], options: PackOptions) -> list[Batch]:
    merged: list[Batch] = []
    for _, group in itertools.groupby(batches, key=lambda batch: batch.bucket):
        full, last = [*group], merged[-1:]
        joined = _joined(last[0], full[-1], options) if last else None
        if joined is not None:
            merged[-1] = joined
            full.pop()
        merged.extend(full)
    return merged


def _joined(longer: Batch, shorter: Batch, options: PackOptions) -> Batch | None:
    """Both as one batch, if it fits and costs less than to run them apart."""
    members = longer.members + shorter.members
    if len(members) > _most(longer.bucket, options):
        return None
    rows = options.sizes.rows(len(members), longer.bucket)
    joined = Batch(longer.bucket, members, rows)
    added = _cost(joined) - _cost(longer) - _cost(shorter)
    return joined if added < options.batch_cost_tokens else None


def _cost(batch: Batch) -> int:
    return batch.rows * batch.bucket
