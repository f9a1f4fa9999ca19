"""The order of the events of one key, compared a column at a time.

Greater means, from left to right:

1. the greater sequence;
2. at one sequence, a delete over an upsert;
3. at one sequence and operation, the later position (partition, then offset): deterministic whatever the order of
   arrival, and counted as ambiguous where the rows differ.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from operators.held_rows import Flags

Ints = npt.NDArray[np.int64]

NEVER = int(np.iinfo(np.int64).min)
"""The sequence of a key that no event was seen of."""


@dataclass(frozen=True, slots=True)
class Rank:
    """Ranks of many events, one array per part; all have the same length."""

    sequence: Ints
    deleted: Flags
    partition: npt.NDArray[np.int32]
    offset: Ints

    @classmethod
    def of(cls, rows: pl.DataFrame, deleted: Flags) -> "Rank":
        """Read the ranks of rows with the technical columns `_sequence`, `_partition` and `_offset`."""
        return cls(
            rows["_sequence"].to_numpy(),
            deleted,
            rows["_partition"].cast(pl.Int32).to_numpy(),
            rows["_offset"].to_numpy(),
        )

    @classmethod
    def never(cls, size: int) -> "Rank":
        """Return ranks below every event's."""
        return cls(np.full(size, NEVER), np.zeros(size, bool), np.full(size, -1, np.int32), np.full(size, -1, np.int64))

    def at(self, rows: Ints | Flags) -> "Rank":
        """Return the ranks at these places."""
        return Rank(self.sequence[rows], self.deleted[rows], self.partition[rows], self.offset[rows])

    def above(self, other: "Rank") -> Flags:
        """Tell place by place whether this rank is the greater."""
        by_offset = self.offset > other.offset
        by_partition = np.where(self.partition == other.partition, by_offset, self.partition > other.partition)
        by_delete = np.where(self.deleted == other.deleted, by_partition, self.deleted > other.deleted)
        above: Flags = np.where(self.sequence == other.sequence, by_delete, self.sequence > other.sequence)
        return above

    def ties(self, other: "Rank") -> Flags:
        """Tell place by place whether only the position decides between the two."""
        tied: Flags = (self.sequence == other.sequence) & (self.deleted == other.deleted)
        return tied

    def order(self, slots: Ints) -> Ints:
        """Return the permutation that sorts by slot, then by rank."""
        order: Ints = np.lexsort((self.offset, self.partition, self.deleted, self.sequence, slots))
        return order


def last_of_each(slots: Ints) -> Flags:
    """Mark the last place of every run of equal slots; `slots` is sorted."""
    last = np.ones(len(slots), bool)
    last[:-1] = slots[1:] != slots[:-1]
    return last
