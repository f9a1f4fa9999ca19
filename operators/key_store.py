"""The key columns of all slots, kept so that a batch of them is compared with the keys of a batch of rows quickly.

Numbers, dates and instants stand in plain arrays, eight bytes each; texts and the like in a `RowStore`.
"""

from typing import Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from operators.equality import equal_rows
from operators.growing import grown
from operators.held_rows import Flags
from operators.row_store import RowStore

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
    """Values of any length."""

    def __init__(self) -> None:
        self._rows = RowStore()

    def append(self, first: int, values: pl.Series) -> None:
        del first
        self._rows.append(values.alias("key").to_frame())

    def equal(self, slots: Numbers, values: pl.Series) -> Flags:
        return equal_rows(self._rows.take(slots), values.alias("key").to_frame())


def _numbers(values: pl.Series) -> Numbers:
    numbers = values.to_physical().cast(pl.Int64, wrap_numerical=True)
    filled: Numbers = (numbers.fill_null(0) if numbers.null_count() else numbers).to_numpy()
    return filled
