"""Column statistics of a data file, by which readers skip it.

Source: Delta protocol, "Per-file Statistics". Bounds are exact, except those of long texts: shortened to 32 characters,
the upper one with a character above all others at its end, as the protocol allows. A column with a NaN has none: some
engines take it for greater than all numbers, and all believe what bounds seem to say about it.
"""

import json
from datetime import datetime, timedelta
from decimal import Decimal
from math import isfinite
from typing import Any

import polars as pl

_INDEXED_COLUMNS = 32  # Delta's default; what is further to the right is seldom filtered by
_TEXT = 32
_HIGHEST = "\U0010ffff"
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - instants are UTC throughout


def statistics(rows: pl.DataFrame) -> str:
    """Return the `stats` of a data file with these rows, as JSON."""
    columns = rows.get_columns()[:_INDEXED_COLUMNS]
    bounds = {column.name: found for column in columns if (found := _bounds(column))}
    nulls = {column.name: str(column.null_count()) for column in columns if not column.dtype.is_nested()}
    least = {name: low for name, (low, _) in bounds.items()}
    most = {name: high for name, (_, high) in bounds.items()}
    return (
        f'{{"numRecords":{rows.height},"minValues":{_object(least)},"maxValues":{_object(most)},'
        f'"nullCount":{_object(nulls)}}}'
    )


def _bounds(column: pl.Series) -> tuple[str, str] | None:
    """Return the least and greatest value as JSON, None where there are none that JSON can hold."""
    dtype = column.dtype
    if dtype == pl.Date or isinstance(dtype, pl.Datetime):
        physical = column.to_physical()
        low, high = _time(physical.min(), dtype), _time(physical.max(), dtype)
    elif dtype.is_float() and column.is_nan().any():
        return None  # engines differ in where NaN stands among numbers
    elif dtype.is_numeric() or dtype == pl.String:
        low, high = _bound(column.min(), top=""), _bound(column.max(), top=_HIGHEST)
    else:
        return None
    return None if low is None or high is None else (low, high)


def _time(value: Any, dtype: pl.DataType) -> str | None:
    """Return a date or instant as text; none outside of the years 1 to 9999, which is all that has a text."""
    try:
        if value is None:
            return None
        if dtype == pl.Date:
            return f'"{_EPOCH.date() + timedelta(days=value)}"'
        return f'"{(_EPOCH + timedelta(microseconds=value)).isoformat(timespec="microseconds")}Z"'
    except OverflowError:
        return None


def _bound(value: Any, top: str) -> str | None:
    match value:
        case None:
            return None
        case str():
            return _text_bound(value, top)
        case float() if value == 0:
            return "0.0" if top else "-0.0"  # engines differ in whether these two are equal
        case float():
            return repr(value) if isfinite(value) else None
        case Decimal():
            return f"{value:f}"
        case _:
            return str(value)


def _text_bound(value: str, top: str) -> str | None:
    if len(value) <= _TEXT:
        return json.dumps(value)
    return None if top and value[_TEXT] == top else json.dumps(value[:_TEXT] + top)


def _object(values: dict[str, Any]) -> str:
    return "{" + ",".join(f"{json.dumps(name)}:{value}" for name, value in values.items()) + "}"
