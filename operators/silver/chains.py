"""Lists of numbers by slot, such as the rows of each key, in arrays: each number points to the one before it.

Memory: 8 to 9 bytes a slot and as much a number.
"""

import numpy as np

from operators.keys.growing import grown
from operators.keys.key_index import Slots
from operators.silver.rank import Ints

_NONE = -1


class Chains:
    """For each slot a list of distinct numbers, each in one list at most; read from the newest to the oldest."""

    def __init__(self) -> None:
        self._newest = np.empty(0, np.int64)
        self._older = np.empty(0, np.int64)

    def newest(self, slots: Slots) -> Ints:
        """Return the newest number of each slot, -1 where there is none."""
        self._newest = grown(self._newest, int(slots.max(initial=_NONE)) + 1, fill=_NONE)
        newest: Ints = self._newest[slots]
        return newest

    def older(self, numbers: Ints) -> Ints:
        """Return the number before each of these, -1 where there is none."""
        older: Ints = self._older[numbers]
        return older

    def all(self, slots: Slots) -> Ints:
        """Return all numbers of these distinct slots, in no particular order."""
        found, current = [slots[:0]], self.newest(slots)
        while (current := current[current != _NONE]).size:
            found.append(current)
            current = self.older(current)
        return np.concatenate(found)

    def put(self, slots: Slots, numbers: Ints, bases: Ints) -> None:
        """Let the list of each slot go on with these numbers, after its base, which is one of it or -1 for a new list.

        Sorted by slot, the oldest number of a slot first; `bases` has one for each number, of which the first of a slot
        counts.
        """
        if not len(slots):
            return
        self._older = grown(self._older, int(numbers.max()) + 1, fill=_NONE)
        begins = np.ones(len(slots), bool)
        begins[1:] = slots[1:] != slots[:-1]
        before = np.concatenate([numbers[:1], numbers[:-1]])
        self._older[numbers] = np.where(begins, bases, before)
        self.newest(slots)
        ends = np.append(begins[1:], True)
        self._newest[slots[ends]] = numbers[ends]

    def cut(self, slots: Slots, bases: Ints) -> None:
        """Let the lists of these distinct slots end with their bases."""
        self.newest(slots)
        self._newest[slots] = bases
