"""Rows in memory that are appended, fetched by number and dropped in bulk.

Rows sit in Arrow tables whose sizes fall geometrically (like the runs of a log-structured merge tree), so there
are O(log n) of them, an append copies each row O(log n) times in all, and a fetch of k rows costs O(k log n).
Arrow rather than polars, because a polars string that is kept also keeps the whole batch it came from alive.
"""

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

RowNumbers = npt.NDArray[np.int64]


class RowStore:
    """Append-only rows of one schema, numbered 0, 1, 2 … in order of arrival."""

    def __init__(self) -> None:
        self._runs: list[pa.Table] = []
        self._height = 0

    def __len__(self) -> int:
        return self._height

    def append(self, rows: pl.DataFrame) -> int:
        """Add rows at the end and return the number of the first."""
        first = self._height
        if rows.height:
            self._runs.append(_compact(rows.to_arrow(compat_level=pl.CompatLevel.oldest())))
            self._height += rows.height
            self._merge_runs()
        return first

    def take(self, numbers: RowNumbers) -> pl.DataFrame:
        """Return the rows with these numbers, in this order. At least one row must have been appended before."""
        if len(self._runs) == 1:
            return _frame(self._runs[0].take(pa.array(numbers)))
        ends = np.cumsum([run.num_rows for run in self._runs])
        home = np.searchsorted(ends, numbers, side="right")
        order = np.argsort(home, kind="stable")
        parts = []
        for place, run in enumerate(self._runs):
            mine = numbers[order][home[order] == place]
            parts.append(run.take(pa.array(mine - (ends[place] - run.num_rows))))
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        return _frame(pa.concat_tables(parts).combine_chunks().take(pa.array(back)))

    def keep(self, numbers: RowNumbers) -> None:
        """Forget all rows but these, which are ascending; the i-th of them is row number i from now on."""
        ends = np.cumsum([0, *[run.num_rows for run in self._runs]])
        cuts = np.searchsorted(numbers, ends)
        kept = [run.take(pa.array(numbers[cuts[i] : cuts[i + 1]] - ends[i])) for i, run in enumerate(self._runs)]
        self._runs = [_compact(pa.concat_tables(kept))] if kept else []
        self._height = len(numbers)

    def _merge_runs(self) -> None:
        while len(self._runs) > 1 and self._runs[-2].num_rows < 2 * self._runs[-1].num_rows:
            last, before = self._runs.pop(), self._runs.pop()
            self._runs.append(_compact(pa.concat_tables([before, last])))


def _compact(table: pa.Table) -> pa.Table:
    """Copy into one contiguous chunk per column, so that nothing larger stays alive behind a slice."""
    return table.combine_chunks()


def _frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)  # noqa: S101 - narrows the union that from_arrow declares
    return frame
