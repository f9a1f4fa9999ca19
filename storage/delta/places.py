"""Where the current row of each key is: in which data file, at which row.

A key is known by its slot, a small number that the caller gives out and never reuses. Looked up both ways: slot to
place, and file to the slots of its rows, so that rows which move to another file take their keys along.

Memory: 8 to 9 bytes a slot, and 4 bytes a row of every data file.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap64

from storage.delta.deletion_vectors import row_numbers
from storage.delta.delta_actions import DataFile

Slots = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.int64]

_ABSENT = -1
_ROW_BITS = 32
_ROW = (1 << _ROW_BITS) - 1


@dataclass(slots=True)
class HeldFile:
    """A data file of the table: which of its rows are gone, and the slots of all, -1 for those gone long ago."""

    number: int
    file: DataFile
    gone: BitMap64
    slots: npt.NDArray[np.int32]

    def alive(self, gone: BitMap64) -> npt.NDArray[np.bool_]:
        """Tell of each of its rows whether it is still there when those of `gone` are not."""
        return alive_rows(len(self.slots), gone)


@dataclass(frozen=True, slots=True)
class RowsOf:
    """Some rows of one file, by ascending number."""

    held: HeldFile
    rows: Numbers


def alive_rows(rows: int, gone: BitMap64) -> npt.NDArray[np.bool_]:
    """Tell of each of so many rows whether it is not among those that are gone."""
    left = np.ones(rows, bool)
    left[row_numbers(gone)] = False
    return left


class Places:
    """The place of every slot that has a row."""

    def __init__(self) -> None:
        self._places = np.full(1, _ABSENT, np.int64)
        self._files: dict[int, HeldFile] = {}
        self._number_of: dict[str, int] = {}
        self._free: list[int] = []
        self._next = 0

    def __iter__(self) -> Iterator[HeldFile]:
        return iter(self._files.values())

    def file(self, path: str) -> HeldFile | None:
        """Return the file at a path, None when it is not part of the table."""
        return self._files.get(self._number_of.get(path, _ABSENT))

    def present(self, slots: Slots) -> npt.NDArray[np.bool_]:
        """Tell for each slot whether it has a row."""
        self._make_room(slots)
        present: npt.NDArray[np.bool_] = self._places[slots] != _ABSENT
        return present

    def of(self, slots: Slots) -> tuple[list[HeldFile], Numbers]:
        """Return the files that hold the rows of these slots, and for each slot the number of its row.

        Rows are numbered through all these files. Each of the slots must have a row.
        """
        places = self._places[slots]
        numbers = places >> _ROW_BITS
        held = [self._files[int(number)] for number in np.flatnonzero(np.bincount(numbers))]
        ends = np.cumsum([0, *(len(file.slots) for file in held)])
        starts = np.zeros(self._next, np.int64)
        starts[[file.number for file in held]] = ends[:-1]
        return held, starts[numbers] + (places & _ROW)

    def rows_of(self, slots: Slots) -> Iterator[RowsOf]:
        """Yield the rows of these slots, each of which must have one, file by file."""
        places = np.sort(self._places[slots])
        numbers = places >> _ROW_BITS
        starts = np.flatnonzero(np.diff(numbers, prepend=_ABSENT))
        for start, end in zip(starts, [*starts[1:], len(places)], strict=True):
            yield RowsOf(self._files[int(numbers[start])], places[start:end] & _ROW)

    def add(self, file: DataFile, slots: Slots, gone: BitMap64 | None = None) -> HeldFile:
        """Take in a file whose rows are the current rows of these slots; a slot of -1 is a row that is gone."""
        held = HeldFile(self._number(), file, gone or BitMap64(), slots.astype(np.int32))
        self._files[held.number], self._number_of[file.path] = held, held.number
        rows = np.flatnonzero(slots != _ABSENT) if gone else np.arange(len(slots))
        self._make_room(slots)
        self._places[slots[rows]] = (held.number << _ROW_BITS) | rows
        return held

    def current(self, held: HeldFile, rows: Numbers) -> npt.NDArray[np.bool_]:
        """Tell for each of these rows of a file whether its slot still has its place there."""
        slots = held.slots[rows]
        current: npt.NDArray[np.bool_] = self._places[slots] == ((held.number << _ROW_BITS) | rows)
        current &= slots != _ABSENT
        return current

    def forget(self, slots: Slots) -> None:
        """Take their rows from these slots."""
        self._places[slots] = _ABSENT

    def mark(self, held: HeldFile, file: DataFile, gone: BitMap64) -> None:
        """Note that more rows of a file are gone."""
        held.file, held.gone = file, gone

    def drop(self, held: HeldFile) -> None:
        """Take a file out; slots that have their place there have no row any more."""
        rows = np.arange(len(held.slots))
        self.forget(held.slots[rows[self.current(held, rows)]].astype(np.int64))
        del self._files[held.number], self._number_of[held.file.path]
        self._free.append(held.number)

    def _number(self) -> int:
        """Return a number for a file; those of dropped files, which no slot has any more, are used again."""
        if not self._free:
            self._free.append(self._next)
            self._next += 1
        return self._free.pop()

    def _make_room(self, slots: Slots) -> None:
        size = int(slots.max(initial=_ABSENT)) + 1
        if size > len(self._places):
            more = max(size - len(self._places), len(self._places) // 8 + 64)
            self._places = np.concatenate([self._places, np.full(more, _ABSENT, np.int64)])
