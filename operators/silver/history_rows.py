"""Which rows of a history belong to which key, and since when each is valid.

A row is known by a number of its own, its slot in the table, that it never loses.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from operators.keys.growing import grown
from operators.keys.held_rows import Flags, HeldRows
from operators.keys.key_index import Slots
from operators.sequences import Sequences
from operators.silver.chains import Chains
from operators.silver.rank import Ints, in_slot_order

_NONE = -1


class OverlapError(Exception):
    """Two rows of a key are valid at the same time; `slots` are theirs."""

    def __init__(self, slots: Slots) -> None:
        super().__init__(f"rows {slots.tolist()} overlap")
        self.slots = slots


@dataclass(frozen=True, slots=True)
class RowLists:
    """What the rows of some keys become: those of `row_keys` in their order, after the base of each of `keys`."""

    keys: Slots
    bases: Ints
    row_keys: Slots
    rows: Slots
    starts: Sequences
    is_open: Flags


class HistoryRows:
    """The rows of each key, which `held` has. Memory: 8 to 9 bytes a key, and 21 to 24 a row."""

    def __init__(self, held: HeldRows, nothing: Sequences) -> None:
        self._held = held
        self._of_key = Chains()
        self._count = 0
        self._keys: npt.NDArray[np.int32] = np.empty(0, np.int32)
        self._starts, self._is_open = nothing, np.empty(0, bool)
        self._unlisted: list[tuple[Slots, Slots]] = []

    def load(self, keys: Slots, starts: Sequences, is_open: Flags) -> Slots:
        """Take in rows as they stand in the table, in any order, and return their slots."""
        slots = self.next(len(keys))
        self._make_room(len(slots))
        self._keys[slots], self._starts[slots], self._is_open[slots] = keys, starts, is_open
        self._unlisted.append((keys, slots))
        return slots

    def settle(self) -> None:
        """List the rows that were loaded since. Raises OverlapError."""
        if not self._unlisted:
            return
        keys, slots = (np.concatenate(part) for part in zip(*self._unlisted, strict=True))
        slots = np.concatenate([self._of_key.all(np.unique(keys)), slots])
        slots = self._sorted(slots[self._held.present(slots)])  # rows that another writer moved have new slots
        here, after = slots[:-1], slots[1:]
        overlap = (self._starts[here] == self._starts[after]) | self._is_open[here]
        overlap &= self._keys[here] == self._keys[after]
        if overlap.any():
            first = int(np.argmax(overlap))
            raise OverlapError(slots[first : first + 2])
        self._unlisted.clear()
        self._of_key.put(self._keys[slots].astype(np.int64), slots, np.full(len(slots), _NONE))

    def next(self, count: int) -> Slots:
        """Return the slots that so many new rows will have."""
        return np.arange(self._count, self._count + count)

    def of(self, keys: Slots, whole: Flags) -> tuple[Slots, Slots, Sequences]:
        """Return the open rows of keys, and of `whole` ones all rows: slots, keys and starts, sorted by the last two.

        The keys are distinct and ascending.
        """
        newest, is_open = self._newest(keys)
        slots = np.concatenate([self._sorted(self._of_key.all(keys[whole])), newest[is_open & ~whole]])
        if whole.any():
            slots = slots[in_slot_order(self._keys[slots].astype(np.int64))]
        return slots, self._keys[slots].astype(np.int64), self._starts[slots]

    def bases(self, keys: Slots, whole: Flags) -> Ints:
        """Return for each key the row after which its list goes on when the rows that `of` returns are replaced."""
        newest, is_open = self._newest(keys)
        bases = newest.copy()
        bases[is_open] = self._of_key.older(newest[is_open])
        bases[whole] = _NONE
        return bases

    def apply(self, lists: RowLists, inserted: int) -> None:
        """Make the lists of these keys what they are to be; so many of the rows are new."""
        self._make_room(inserted)
        self._of_key.cut(lists.keys, lists.bases)
        bases = lists.bases[np.searchsorted(lists.keys, lists.row_keys)]
        self._of_key.put(lists.row_keys, lists.rows, bases)
        self._keys[lists.rows] = lists.row_keys
        self._starts[lists.rows], self._is_open[lists.rows] = lists.starts, lists.is_open

    def _newest(self, keys: Slots) -> tuple[Slots, Flags]:
        """Return the newest row of each key, and whether it is open."""
        newest = self._of_key.newest(keys)
        is_open = newest != _NONE
        is_open[is_open] = self._is_open[newest[is_open]]
        return newest, is_open

    def _sorted(self, slots: Slots) -> Slots:
        return slots[np.lexsort((self._starts[slots], self._keys[slots]))]

    def _make_room(self, rows: int) -> None:
        self._count += rows
        self._starts, self._is_open = grown(self._starts, self._count), grown(self._is_open, self._count)
        self._keys = grown(self._keys, self._count)
