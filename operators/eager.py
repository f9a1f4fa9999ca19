"""Small steps on columns that do not start polars' query engine, whose start costs more than they do."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa


def constant(name: str, value: object, dtype: pl.DataType, height: int) -> pl.Series:
    """Return a column of `height` times the same value.

    >>> constant("n", 7, pl.Int32(), 2).to_list()
    [7, 7]
    """
    return pl.Series(name, [value], dtype).new_from_index(0, height)


def rows_where(rows: pl.DataFrame, flags: npt.NDArray[np.bool_]) -> pl.DataFrame:
    """Return the rows that are flagged, without copying any where that is all of them.

    >>> rows_where(pl.DataFrame({"n": [1, 2, 3]}), np.array([True, False, True]))["n"].to_list()
    [1, 3]
    """
    return rows if flags.all() else rows[np.flatnonzero(flags)]


def listed(name: str, masks: Mapping[str, npt.NDArray[np.bool_]], height: int) -> pl.Series:
    """Return for each of `height` rows the names whose masks have it, in their order; NULL where there are none.

    >>> listed("n", {"a": np.array([True, False]), "b": np.array([True, False])}, 2).to_list()
    [['a', 'b'], None]
    """
    flags = np.array([*masks.values()], bool).reshape(len(masks), height).T
    if not flags.any():
        return constant(name, None, pl.List(pl.String()), height)
    names = pa.array([*masks], pa.large_string()).take(pa.array(np.nonzero(flags)[1]))
    offsets = pa.array(np.concatenate([[0], np.cumsum(flags.sum(axis=1))]), pa.int64())
    lists = pa.LargeListArray.from_arrays(offsets, names, mask=pa.array(~flags.any(axis=1)))
    return pl.Series(name, pl.from_arrow(lists))
