"""The key columns of all slots, kept so that a batch of them is compared with the keys of a batch of rows quickly.

Numbers, dates and instants stand in plain arrays, eight bytes each; a text takes its own bytes and four.
"""

from typing import Protocol

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from operators.arrow_arrays import arrow_int64, flags_of
from operators.keys.growing import grown
from operators.keys.held_rows import Flags

_LARGEST_RUN = 2**30  # bytes; offsets of 32 bits reach twice as far
Numbers = npt.NDArray[np.int64]


class KeyColumn(Protocol):
    """One key column of all slots, in the order of the slots."""

    def append(self, first: int, values: pl.Series) -> None:
        """Take in the values of the slots from `first` on, which is how many there are."""
        ...

    def equal(self, slots: Numbers, values: pl.Series) -> Flags:
        """Tell for each slot whether its value is the one beside it, NULL being equal to NULL."""
        ...


def key_column(dtype: pl.DataType) -> KeyColumn:
    """Return an empty column for values of a type."""
    return _Fixed() if dtype.is_integer() or dtype.is_temporal() or dtype == pl.Boolean else _Stored()


class _Fixed:
    """Values of at most eight bytes; which of them are NULL is kept from the first NULL on."""

    def __init__(self) -> None:
        self._values = np.empty(0, np.int64)
        self._nulls: Flags | None = None

    def append(self, first: int, values: pl.Series) -> None:
        end = first + len(values)
        self._values = grown(self._values, end)
        self._values[first:end] = _numbers(values)
        if self._nulls is None and values.null_count():
            self._nulls = np.zeros(first, bool)
        if self._nulls is not None:
            self._nulls = grown(self._nulls, end)
            self._nulls[first:end] = values.is_null().to_numpy()

    def equal(self, slots: Numbers, values: pl.Series) -> Flags:
        same: Flags = self._values[slots] == _numbers(values)
        if self._nulls is not None:
            same &= self._nulls[slots] == values.is_null().to_numpy()
        elif values.null_count():
            same &= values.is_not_null().to_numpy()
        return same


class _Stored:
    """Values of any length, in arrays that each have twice as many as the next, up to a gigabyte.

    There are few of them, and an append copies each value O(log n) times in all.
    """

    def __init__(self) -> None:
        self._runs: list[pa.Array] = []

    def append(self, first: int, values: pl.Series) -> None:
        del first
        if not len(values):
            return
        self._runs.append(_array(values))
        while len(self._runs) > 1 and len(self._runs[-2]) < 2 * len(self._runs[-1]):
            if sum(run.nbytes for run in self._runs[-2:]) > _LARGEST_RUN:
                return
            self._runs[-2:] = [pa.concat_arrays(self._runs[-2:])]

    def equal(self, slots: Numbers, values: pl.Series) -> Flags:
        theirs, same, start = _array(values), np.zeros(len(slots), bool), 0
        for run in self._runs:
            rows = np.flatnonzero((slots >= start) & (slots < start + len(run)))
            if rows.size:
                same[rows] = _equal(run.take(arrow_int64(slots[rows] - start)), theirs.take(arrow_int64(rows)))
            start += len(run)
        return same


def _array(values: pl.Series) -> pa.Array:
    array = values.to_arrow(compat_level=pl.CompatLevel.oldest())
    return array.cast(pa.string()) if values.dtype == pl.String else array


def _equal(left: pa.Array, right: pa.Array) -> Flags:
    found = pc.equal(left, right)
    equal = flags_of(found)
    if found.null_count:  # whose values are anything
        ours, theirs = flags_of(left.is_null()), flags_of(right.is_null())
        equal = np.where(ours | theirs, ours & theirs, equal)
    return equal


def _numbers(values: pl.Series) -> Numbers:
    numbers = values.to_physical().cast(pl.Int64, wrap_numerical=True)
    filled: Numbers = (numbers.fill_null(0) if numbers.null_count() else numbers).to_numpy()
    return filled
