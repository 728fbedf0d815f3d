"""The values of one tensor that count, where they lie."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Values:
    """The values of one tensor that count, as rows (tokens) and columns (channels).

    They are chosen, not copied: `rows` and `counted` make the copies.

    Attributes:
        table: float32 [T, C], a view of the tensor where it has one.
        places: int64 [R], the rows of the table that count; None if all T do.
        owners: int64 [R], the text of each of these rows, where `real` is given.
        real: bool [B, C], which columns count in the rows of each text; None if all do.
        has_channels: column c is the same channel in every row and every call.
    """

    table: Tensor
    places: Tensor | None = None
    owners: Tensor | None = None
    real: Tensor | None = None
    has_channels: bool = True

    @property
    def shape(self) -> tuple[int, int]:
        """R and C."""
        rows = self.table.shape[0] if self.places is None else self.places.numel()
        return rows, self.table.shape[1]

    @cached_property
    def rows(self) -> Tensor:
        """float32 [R, C]; what does not count in a row is 0."""
        if self.places is None:
            return self.table if self.counted is None else self.table.masked_fill(~self.counted, 0)
        kept = self.table.index_select(0, self.places)
        return kept if self.counted is None else kept.masked_fill_(~self.counted, 0)

    @cached_property
    def counted(self) -> Tensor | None:
        """Bool [R, C], where only a part of each row counts; None if all of it does."""
        if self.real is None or self.owners is None:
            return None
        return self.real[self.owners]

    def take(self, numbers: Tensor) -> Tensor:
        """Some of `rows`, by their numbers int64 [K], without making the others."""
        places = numbers if self.places is None else self.places[numbers]
        taken = self.table.index_select(0, places)
        if self.real is None or self.owners is None:
            return taken
        return taken.masked_fill_(~self.real[self.owners[numbers]], 0.0)

    def count(self) -> int:
        """How many values count."""
        if self.real is None or self.owners is None:
            rows, columns = self.shape
            return rows * columns
        return int(self.real.sum(dim=1)[self.owners].sum())
