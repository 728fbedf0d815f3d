"""What a run of many requests computed, and how much of it was padding."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Statistics:
    """Counts over the requests that were packed into batches, and over the answers.

    Attributes:
        requests: packed into batches. One that was refused before is not among them.
        tokens: of these requests; one each for a model without a token axis.
        batches: as packed; a batch that failed and was run again one by one counts once.
        padded_tokens: rows times length, over these batches: what is computed, padding included.
        unsorted_padded_tokens: the same for as many batches of one size that take the requests as
            they come, each padded to the bucket of its longest.
        answered: answers handed out.
        failed: those of them that are errors.
        retried: requests that ran again alone, because their batch failed.
    """

    requests: int = 0
    tokens: int = 0
    batches: int = 0
    padded_tokens: int = 0
    unsorted_padded_tokens: int = 0
    answered: int = 0
    failed: int = 0
    retried: int = 0

    @property
    def padding_share(self) -> float:
        """Share of the computed tokens that is padding, 0 to 1."""
        return _share(self.tokens, self.padded_tokens)

    @property
    def unsorted_padding_share(self) -> float:
        """The same without sorting."""
        return _share(self.tokens, self.unsorted_padded_tokens)

    def __add__(self, other: Statistics) -> Statistics:
        """Both together."""
        sums = {
            one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)
        }
        return Statistics(**sums)

    def __str__(self) -> str:
        """One line for people."""
        return (
            f"{self.requests} requests, {self.tokens} tokens in {self.batches} batches, "
            f"{self.padding_share:.1%} padding (unsorted {self.unsorted_padding_share:.1%})"
        )


def _share(tokens: int, computed: int) -> float:
    return 1 - tokens / computed if computed else 0.0
