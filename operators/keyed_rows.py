"""The current row of every key, in memory, looked up and changed a batch at a time.

Memory: the rows themselves (up to twice, between two compactions), the keys once more, and about 40 bytes a key.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from operators.key_index import KeyIndex, Slots
from operators.rank import Flags
from operators.row_store import RowStore

_ABSENT = -1
_COMPACT_FROM = 65_536


class KeyedRows:
    """Rows by key. Slots come from `admit` and stay valid for the life of this object."""

    def __init__(self, keys: Sequence[str], schema: pl.Schema) -> None:
        self._index = KeyIndex(keys)
        self._schema = schema
        self._rows = RowStore()
        self._row_of = np.empty(0, np.int64)
        self._live = 0

    @property
    def live(self) -> int:
        """How many keys have a row."""
        return self._live

    @property
    def keys(self) -> int:
        """How many keys were ever admitted."""
        return len(self._index)

    def admit(self, rows: pl.DataFrame) -> Slots:
        """Return the slot of each row's key, taking unknown keys in (without a row yet)."""
        slots = self._index.admit(rows)
        missing = len(self._index) - len(self._row_of)
        if missing > 0:
            room = max(missing, len(self._row_of))
            self._row_of = np.concatenate([self._row_of, np.full(room, _ABSENT, np.int64)])
        return slots

    def present(self, slots: Slots) -> Flags:
        """Tell for each slot whether its key has a row now."""
        present: Flags = self._row_of[slots] != _ABSENT
        return present

    def rows(self, slots: Slots) -> pl.DataFrame:
        """Return the rows of these slots, each of which must have one."""
        if not len(slots):
            return pl.DataFrame(schema=self._schema)
        return self._rows.take(self._row_of[slots]).cast(self._schema)

    def put(self, slots: Slots, rows: pl.DataFrame) -> None:
        """Make these the rows of these distinct slots, in place of what they had."""
        self._live += int((~self.present(slots)).sum())
        first = self._rows.append(rows.select(self._schema.names()))
        self._row_of[slots] = np.arange(first, first + rows.height)
        self._compact()

    def remove(self, slots: Slots) -> None:
        """Take the rows of these distinct slots away; the keys stay known."""
        self._live -= int(self.present(slots).sum())
        self._row_of[slots] = _ABSENT
        self._compact()

    def _compact(self) -> None:
        """Drop replaced rows once they outnumber the current ones; amortised over the changes that made them."""
        if len(self._rows) < max(_COMPACT_FROM, 2 * self._live):
            return
        slots = np.flatnonzero(self._row_of != _ABSENT)
        slots = slots[np.argsort(self._row_of[slots])]
        self._rows.keep(self._row_of[slots])
        self._row_of[slots] = np.arange(len(slots))
