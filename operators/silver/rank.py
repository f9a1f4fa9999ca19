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

from operators.keys.held_rows import Flags
from operators.sequences import Sequences, from_column

Ints = npt.NDArray[np.int64]

_ROW_BITS = 31
_ROW = (1 << _ROW_BITS) - 1


@dataclass(frozen=True, slots=True)
class Rank:
    """Ranks of many events, one array per part; all have the same length."""

    sequence: Sequences
    deleted: Flags
    partition: npt.NDArray[np.int32]
    offset: Ints

    @classmethod
    def of(cls, rows: pl.DataFrame, deleted: Flags, *, first_stands: bool = False) -> "Rank":
        """Read the ranks of rows with the technical columns `_sequence`, `_partition` and `_offset`.

        With `first_stands`, positions are turned round: of two events that tie, the one with the earlier is greater.
        """
        partition, offset = rows["_partition"].cast(pl.Int32).to_numpy(), rows["_offset"].to_numpy()
        if first_stands:
            partition, offset = ~partition, ~offset
        return cls(from_column(rows["_sequence"]), deleted, partition, offset)

    @classmethod
    def held(cls, sequence: Sequences, deleted: Flags) -> "Rank":
        """Return ranks whose positions come before all others."""
        size = len(sequence)
        return cls(sequence, deleted, np.full(size, np.iinfo(np.int32).min), np.full(size, np.iinfo(np.int64).min))

    def at(self, rows: Ints | Flags | slice) -> "Rank":
        """Return the ranks at these places."""
        return Rank(self.sequence[rows], self.deleted[rows], self.partition[rows], self.offset[rows])

    def followed_by(self, other: "Rank") -> "Rank":
        """Return these ranks and, behind them, the others."""
        return Rank(
            np.concatenate([self.sequence, other.sequence]),
            np.concatenate([self.deleted, other.deleted]),
            np.concatenate([self.partition, other.partition]),
            np.concatenate([self.offset, other.offset]),
        )

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
        """Return the permutation that sorts by slot, then by rank.

        Most events come in order: sorted by slot alone, which is quick, only slots with a later one are sorted again.
        """
        order = in_slot_order(slots)
        slots, ranks = slots[order], self.at(order)
        follows = slots[1:] == slots[:-1]
        late = np.flatnonzero(follows & ranks.at(slice(None, -1)).above(ranks.at(slice(1, None))))
        if late.size:
            group = np.cumsum(np.concatenate([slots[:1] * 0, ~follows]))
            again = np.zeros(int(group[-1]) + 1, bool)
            again[group[late]] = True
            places = np.flatnonzero(again[group])
            events = self.at(order[places])
            parts = (events.offset, events.partition, events.deleted, events.sequence, group[places])
            order[places] = order[places][np.lexsort(parts)]
        return order


def in_slot_order(slots: Ints) -> Ints:
    """Return the permutation that sorts by slot, and leaves equal ones in their order."""
    order: Ints = np.sort((slots << _ROW_BITS) | np.arange(len(slots))) & _ROW
    return order


def first_of_each(slots: Ints) -> Flags:
    """Mark the first place of every run of equal slots; `slots` is sorted."""
    first = np.ones(len(slots), bool)
    first[1:] = slots[1:] != slots[:-1]
    return first


def last_of_each(slots: Ints) -> Flags:
    """Mark the last place of every run of equal slots; `slots` is sorted."""
    last = np.ones(len(slots), bool)
    last[:-1] = slots[1:] != slots[:-1]
    return last
