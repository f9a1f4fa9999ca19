"""An exact index from business key to a small integer, its *slot*, looked up a column at a time.

1. A hash table with triangular probing holds slots; beside it stands the 64-bit hash of the key of each slot.
2. All rows of a batch walk the table together. A row that comes to a free place claims it for its hash.
3. A row ends where it meets its own hash; then its key is compared with the key behind the slot.
4. Two keys of one hash cannot be mixed up: the later one gets a slot of its own, found through a dictionary, which
   stays empty outside of hostile input.

Memory: 4 bytes a place at a load of at most 0.6, 8 bytes a key for its hash, and the keys themselves (`key_store`).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from operators.equality import equal_rows
from operators.keys.growing import grown
from operators.keys.hashing import Hashes, hash_columns
from operators.keys.held_rows import Flags
from operators.keys.key_store import KeyColumn, key_column

Slots = npt.NDArray[np.int64]

_FREE = -1
_MAX_LOAD = 0.6
_FIRST_CAPACITY = 1024


class KeyIndex:
    """Maps keys (one or several columns, NULL equal to NULL) to slots, which count up from 0."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = list(columns)
        self._keys: list[KeyColumn] = []
        self._size = 0
        self._hashes = np.empty(0, np.uint64)
        self._collided: dict[tuple[object, ...], int] = {}
        self._allocate(_FIRST_CAPACITY)

    def __len__(self) -> int:
        return self._size

    def admit(self, rows: pl.DataFrame) -> Slots:
        """Return the slot of each row's key; unknown keys get the next slots."""
        keys = [rows[name] for name in self._columns]
        hashes = hash_columns(keys)
        first = len(self)
        self._make_room(first + len(hashes))
        slots, places = self._walk(hashes, first)
        own = np.arange(first, first + len(hashes))
        strangers = self._strangers(keys, slots, own)
        leaders = np.flatnonzero(slots == own)
        numbers = np.cumsum(slots == own) + (first - 1)
        known = slots < first
        slots = np.where(known, slots, numbers[np.maximum(slots - first, 0)])
        self._table[places[leaders]] = slots[leaders]
        self._hashes[first : first + leaders.size] = hashes[leaders]
        self._append([column.gather(leaders) for column in keys])
        for row in strangers:
            slots[row] = self._apart([column[[int(row)]] for column in keys], hashes[row])
        return slots

    def _walk(self, hashes: Hashes, first: int) -> tuple[Slots, Slots]:
        """Return for each row the slot that has its hash, and where in the table that slot stands.

        A hash that no slot has gets the slot ``first + row`` of the first row with it, for the time being.
        """
        self._hashes[first : first + len(hashes)] = hashes
        slots, ends = np.empty(len(hashes), np.int64), np.empty(len(hashes), np.int64)
        rows, places, step = np.arange(len(hashes)), (hashes & self._mask).astype(np.int64), 0
        while rows.size:
            found = self._table[places]
            free = np.flatnonzero(found == _FREE)
            if free.size:
                free = free[::-1]  # of several rows that claim one place, the first gets it
                self._table[places[free]] = first + rows[free]
                found[free] = self._table[places[free]]
            same = self._hashes[found] == hashes
            slots[rows[same]], ends[rows[same]] = found[same], places[same]
            onward, step = ~same, step + 1
            rows, hashes, places = rows[onward], hashes[onward], (places[onward] + step) & int(self._mask)
        return slots, ends

    def _strangers(self, keys: Sequence[pl.Series], slots: Slots, own: Slots) -> Slots:
        """Return the rows whose key is another than the one behind their slot."""
        first = len(self)
        held = np.flatnonzero(slots < first)
        twins = np.flatnonzero((slots >= first) & (slots != own))
        wrong = [own[:0]]
        if held.size:
            wrong.append(held[~self._equal(slots[held], [_some(column, held) for column in keys])])
        if twins.size:
            leaders = pl.DataFrame([column.gather(slots[twins] - first) for column in keys])
            wrong.append(twins[~equal_rows(leaders, pl.DataFrame([column.gather(twins) for column in keys]))])
        return np.concatenate(wrong)

    def _equal(self, slots: Slots, keys: Sequence[pl.Series]) -> Flags:
        same = np.ones(len(slots), bool)
        for held, values in zip(self._keys, keys, strict=True):
            same &= held.equal(slots, values)
        return same

    def _append(self, keys: Sequence[pl.Series]) -> int:
        """Give the next slots to these keys, and return the first of them."""
        self._keys = self._keys or [key_column(column.dtype) for column in keys]
        for held, values in zip(self._keys, keys, strict=True):
            held.append(self._size, values)
        first, self._size = self._size, self._size + len(keys[0])
        return first

    def _apart(self, key: Sequence[pl.Series], hashed: np.uint64) -> int:
        """Return the slot of a key whose hash belongs to another key."""
        values = tuple(column[0] for column in key)
        slot = self._collided.get(values)
        if slot is None:
            slot = self._collided[values] = self._append(key)
            self._hashes = grown(self._hashes, slot + 1)
            self._hashes[slot] = hashed
        return slot

    def _make_room(self, keys: int) -> None:
        self._hashes = grown(self._hashes, keys)
        if keys > _MAX_LOAD * len(self._table):
            self._allocate(2 ** int(np.ceil(np.log2(keys / _MAX_LOAD))))
            slots = np.delete(np.arange(len(self)), list(self._collided.values()))
            self._place(self._hashes[slots], slots)

    def _place(self, hashes: Hashes, slots: Slots) -> None:
        """Put distinct hashes that the table does not hold into free places."""
        places, step = (hashes & self._mask).astype(np.int64), 0
        while slots.size:
            free = self._table[places] == _FREE
            self._table[places[free]] = slots[free]
            onward, step = self._table[places] != slots, step + 1
            slots, places = slots[onward], (places[onward] + step) & int(self._mask)

    def _allocate(self, capacity: int) -> None:
        self._table = np.full(capacity, _FREE, np.int32)
        self._mask = np.uint64(capacity - 1)


def _some(column: pl.Series, rows: Slots) -> pl.Series:
    return column if len(rows) == len(column) else column.gather(rows)
