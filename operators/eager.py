"""Small steps on columns that do not start polars' query engine, whose start costs more than they do."""

import numpy as np
import numpy.typing as npt
import polars as pl


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
