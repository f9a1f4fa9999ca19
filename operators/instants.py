"""Dates and instants of the calendar: years 1 to 9999, which is what Python and every reader of Delta can name."""

import polars as pl

DAYS = (-719_162, 2_932_896)
"""0001-01-01 and 9999-12-31, in days since the epoch."""

PER_DAY = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}
"""How many of a unit are a day."""


def calendar_range(per_day: int) -> tuple[int, int]:
    """Return the first and the last integer in the calendar, so many a day since the epoch, that an int64 can be."""
    first, last = DAYS
    return max(first * per_day, -(2**63)), min((last + 1) * per_day, 2**63) - 1


def beyond_calendar(integers: pl.Series, per_day: int) -> pl.Series:
    """Return a mask of the integers, so many a day since the epoch, that are no instant of the calendar."""
    first, last = calendar_range(per_day)
    beyond = (integers < first) | (integers > last)
    return beyond.fill_null(value=False) if integers.null_count() else beyond


def off_calendar(values: pl.Series) -> pl.Series:
    """Return a mask of the dates or instants that are none of the calendar; of values of other types none is."""
    if isinstance(values.dtype, pl.Datetime):
        return beyond_calendar(values.to_physical(), PER_DAY[values.dtype.time_unit])
    if isinstance(values.dtype, pl.Date):
        return beyond_calendar(values.to_physical(), 1)
    return pl.Series([False]).new_from_index(0, len(values))


def in_text(values: pl.Series) -> pl.Series:
    """Return values as texts, dates and instants beyond the calendar as integers: at far ones polars panics.

    >>> in_text(pl.Series([0, 2**31 - 1], dtype=pl.Int32).cast(pl.Date)).to_list()
    ['1970-01-01', '2147483647']
    """
    off = off_calendar(values)
    if not off.any():
        return values.cast(pl.String)
    near = pl.select(pl.when(~off).then(values)).to_series().cast(pl.String)
    return near.fill_null(values.to_physical().cast(pl.String))
