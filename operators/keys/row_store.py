"""Rows in memory that are appended, fetched by number and dropped in bulk.

Rows sit in frames whose sizes fall geometrically (like the runs of a log-structured merge tree), so there are O(log n)
of them and an append copies each row O(log n) times in all. A fetch gathers from all of them at once.
"""

import numpy as np
import numpy.typing as npt
import polars as pl

RowNumbers = npt.NDArray[np.int64]


class RowStore:
    """Append-only rows of one schema, numbered 0, 1, 2 … in order of arrival."""

    def __init__(self) -> None:
        self._runs: list[pl.DataFrame] = []
        self._height = 0

    def __len__(self) -> int:
        return self._height

    def append(self, rows: pl.DataFrame) -> int:
        """Add rows at the end and return the number of the first."""
        first = self._height
        if rows.height:
            self._runs.append(_compact(rows))
            self._height += rows.height
            self._merge_runs()
        return first

    def take(self, numbers: RowNumbers) -> pl.DataFrame:
        """Return the rows with these numbers, in this order. At least one row must have been appended before."""
        return pl.concat(self._runs, rechunk=False)[numbers]

    def keep(self, numbers: RowNumbers) -> None:
        """Forget all rows but these, which are ascending; the i-th of them is row number i from now on."""
        self._runs = [_compact(self.take(numbers))] if self._runs else []
        self._height = len(numbers)

    def _merge_runs(self) -> None:
        while len(self._runs) > 1 and self._runs[-2].height < 2 * self._runs[-1].height:
            last, before = self._runs.pop(), self._runs.pop()
            self._runs.append(_compact(pl.concat([before, last])))


def _compact(rows: pl.DataFrame) -> pl.DataFrame:
    """Copy rows into buffers of their own: a text that is kept also keeps the whole batch it came from alive."""
    frame = pl.from_arrow(rows.to_arrow(compat_level=pl.CompatLevel.oldest()).combine_chunks())
    assert isinstance(frame, pl.DataFrame)  # noqa: S101 - narrows the union that from_arrow declares
    return frame
