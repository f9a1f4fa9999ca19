"""Rows compared one by one, NULL being equal to NULL."""

import numpy as np
import numpy.typing as npt
import polars as pl


def equal_rows(left: pl.DataFrame, right: pl.DataFrame) -> npt.NDArray[np.bool_]:
    """Tell row by row whether all columns are equal; both frames have the same columns and height.

    >>> equal_rows(pl.DataFrame({"a": [1, None, 2]}), pl.DataFrame({"a": [1, None, 3]})).tolist()
    [True, True, False]
    """
    same = np.ones(left.height, bool)
    for ours, theirs in zip(left.iter_columns(), right.iter_columns(), strict=True):
        same &= _equal(ours, theirs)
    return same


def _equal(left: pl.Series, right: pl.Series) -> npt.NDArray[np.bool_]:
    whole = left.dtype.is_integer() or left.dtype.is_temporal()
    if whole and not (left.null_count() or right.null_count()):
        equal: npt.NDArray[np.bool_] = left.to_physical().to_numpy() == right.to_physical().to_numpy()
        return equal
    return left.eq_missing(right).to_numpy()
