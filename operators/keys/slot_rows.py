"""Rows of keys, in memory, looked up and changed a batch at a time; a key is known by its slot (`key_index`).

Memory: the rows themselves (up to twice, between two compactions), and 9 bytes a slot.
"""

import numpy as np
import polars as pl

from operators.keys.growing import grown
from operators.keys.held_rows import Flags
from operators.keys.key_index import Slots
from operators.keys.row_store import RowStore

_ABSENT = -1
_COMPACT_FROM = 65_536


class SlotRows:
    """At most one row a slot, each of the same schema."""

    def __init__(self, schema: pl.Schema) -> None:
        self._schema = schema
        self._rows = RowStore()
        self._row_of = np.empty(0, np.int64)
        self._live = 0

    def __len__(self) -> int:
        """Return how many slots have a row."""
        return self._live

    def present(self, slots: Slots) -> Flags:
        """Tell for each slot whether it has a row now."""
        self._make_room(slots)
        present: Flags = self._row_of[slots] != _ABSENT
        return present

    def rows(self, slots: Slots) -> pl.DataFrame:
        """Return the rows of these slots, each of which must have one."""
        if not len(slots):
            return pl.DataFrame(schema=self._schema)
        return self._rows.take(self._row_of[slots]).cast(self._schema)

    def slots(self) -> Slots:
        """Return all slots that have a row, ascending."""
        return np.flatnonzero(self._row_of != _ABSENT)

    def put(self, slots: Slots, rows: pl.DataFrame) -> None:
        """Make these the rows of these distinct slots, in place of what they had."""
        self._live += int((~self.present(slots)).sum())
        first = self._rows.append(rows[self._schema.names()])
        self._row_of[slots] = np.arange(first, first + rows.height)
        self._compact()

    def remove(self, slots: Slots) -> None:
        """Take the rows of these distinct slots away."""
        self._live -= int(self.present(slots).sum())
        self._row_of[slots] = _ABSENT
        self._compact()

    def _make_room(self, slots: Slots) -> None:
        self._row_of = grown(self._row_of, int(slots.max(initial=_ABSENT)) + 1, fill=_ABSENT)

    def _compact(self) -> None:
        """Drop replaced rows once they outnumber the current ones; amortised over the changes that made them."""
        if len(self._rows) < max(_COMPACT_FROM, 2 * self._live):
            return
        slots = self.slots()
        slots = slots[np.argsort(self._row_of[slots])]
        self._rows.keep(self._row_of[slots])
        self._row_of[slots] = np.arange(len(slots))
