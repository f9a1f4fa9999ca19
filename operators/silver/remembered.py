"""Events that no row of a table shows, and that must be known all the same: what came late may fall between them.

They are held in a table of their own, where an event is known by a slot. An event that no longer matters is removed
there by the batch after the one that made it so: until that one is committed, it might still be needed.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from operators.keys.growing import grown
from operators.keys.held_rows import Flags, HeldRows
from operators.keys.key_index import Slots
from operators.silver.chains import Chains

_NONE = -1


@dataclass(frozen=True, slots=True)
class Memory:
    """What a batch adds to the remembered events, each with its slot, and the slots of those that go."""

    events: pl.DataFrame
    slots: Slots
    forgotten: Slots


class Remembered:
    """The remembered events of each key; who holds them is `held`. Memory: 12 to 14 bytes an event."""

    def __init__(self, held: HeldRows) -> None:
        self._held = held
        self._of_key = Chains()
        self._keys = np.empty(0, np.int32)
        self._size = 0
        self._free = np.empty(0, np.int64)
        self._outdated = np.empty(0, np.int64)

    def load(self, count: int) -> Slots:
        """Return slots for so many events that are in the table already; `list` or `outdate` them next."""
        slots = np.arange(self._size, self._size + count)
        self._take(slots)
        return slots

    def list(self, keys: Slots, slots: Slots) -> None:
        """Add events to those of their keys."""
        order = np.argsort(keys, kind="stable")
        self._keys[slots] = keys
        self._of_key.put(keys[order], slots[order], self._of_key.newest(keys[order]))

    def drop(self, keys: Slots) -> None:
        """Let these distinct keys have no remembered event; the caller lists what they keep, and outdates the rest."""
        self._of_key.cut(keys, np.full(len(keys), _NONE))

    def outdate(self, slots: Slots) -> None:
        """Have these events removed with a later batch."""
        self._outdated = np.concatenate([self._outdated, slots])

    def any(self, keys: Slots) -> Flags:
        """Tell for each key whether it may have remembered events."""
        has: Flags = self._of_key.newest(keys) != _NONE
        return has

    def of(self, keys: Slots) -> Slots:
        """Return the slots of all events of these distinct keys."""
        slots = self._of_key.all(keys)
        return slots[self._held.present(slots)]

    def events(self, slots: Slots) -> tuple[pl.DataFrame, Slots]:
        """Return these events and their keys."""
        return self._held.rows(slots), self._keys[slots].astype(np.int64)

    def plan(self, events: pl.DataFrame) -> Memory:
        """Give slots to new events. What is outdated goes with them, not by itself: nothing depends on it."""
        fresh = max(0, events.height - len(self._free))
        slots = np.concatenate([self._free[: events.height], np.arange(self._size, self._size + fresh)])
        return Memory(events, slots, self._outdated if events.height else self._outdated[:0])

    def apply(self, memory: Memory) -> None:
        """Make the slots what they are after a plan that is committed; the caller lists its events."""
        if memory.events.height:
            self._free = np.concatenate([self._free[memory.events.height :], self._outdated])
            self._outdated = self._outdated[:0]
            self._take(memory.slots)

    def _take(self, slots: Slots) -> None:
        self._size = max(self._size, int(slots.max(initial=_NONE)) + 1)
        self._keys = grown(self._keys, self._size)
