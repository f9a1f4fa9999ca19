"""What change detection asks of whoever holds the current rows of a table."""

from typing import Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

Flags = npt.NDArray[np.bool_]


class HeldRows(Protocol):
    """The rows of a table, at most one a slot: the slot of its key (`key_index`), or in a history one of its own."""

    def present(self, slots: npt.NDArray[np.int64], /) -> Flags:
        """Tell for each slot whether its key has a row now; a slot never heard of has none."""
        ...

    def rows(self, slots: npt.NDArray[np.int64], /) -> pl.DataFrame:
        """Return the rows of these slots, in this order; each of them must have one."""
        ...
