"""Column statistics of a data file, by which readers skip it.

Source: Delta protocol, "Per-file Statistics". Bounds are exact, except those of long texts: shortened to 32 characters,
the upper one with a character above all others at its end, as the protocol allows. A column with a NaN has none: some
engines take it for greater than all numbers, and all believe what bounds seem to say about it.
"""

import json
from decimal import Decimal
from typing import Any

import polars as pl

_INDEXED_COLUMNS = 32  # Delta's default; what is further to the right is seldom filtered by
_TEXT = 32
_HIGHEST = "\U0010ffff"


def statistics(rows: pl.DataFrame) -> str:
    """Return the `stats` of a data file with these rows, as JSON."""
    columns = rows.columns[:_INDEXED_COLUMNS]
    bounded = [name for name in columns if _has_bounds(rows.schema[name])]
    found = rows.select(
        *(_least(pl.col(name), rows.schema[name]).alias(f"<{name}") for name in bounded),
        *(_most(pl.col(name), rows.schema[name]).alias(f">{name}") for name in bounded),
        *(pl.col(name).null_count().alias(f"0{name}") for name in columns if not rows.schema[name].is_nested()),
    ).row(0, named=True)
    least = {name: _bound(found[f"<{name}"], top="") for name in bounded}
    most = {name: _bound(found[f">{name}"], top=_HIGHEST) for name in bounded}
    known = [name for name in bounded if least[name] is not None and most[name] is not None]
    nulls = {name[1:]: str(count) for name, count in found.items() if name[0] == "0"}
    return (
        f'{{"numRecords":{rows.height},"minValues":{_object({name: least[name] for name in known})},'
        f'"maxValues":{_object({name: most[name] for name in known})},"nullCount":{_object(nulls)}}}'
    )


def _has_bounds(dtype: pl.DataType) -> bool:
    return dtype.is_numeric() or dtype == pl.String or dtype.is_temporal()


def _least(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    return column.nan_min() if dtype.is_float() else _shown(column.min(), dtype)


def _most(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    return column.nan_max() if dtype.is_float() else _shown(column.max(), dtype)


def _shown(bound: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Return a date or instant as text, the one form that has no limits."""
    if dtype == pl.Date:
        return bound.dt.to_string("%Y-%m-%d")
    return bound.dt.to_string("%Y-%m-%dT%H:%M:%S%.6fZ") if dtype.is_temporal() else bound


def _bound(value: Any, top: str) -> str | None:
    """Return a bound as JSON, None when there is none that JSON can hold."""
    match value:
        case None:
            return None
        case str():
            return _text_bound(value, top)
        case float() if value == 0:
            return "0.0" if top else "-0.0"  # engines differ in whether these two are equal
        case float():
            return repr(value) if value - value == 0 else None  # neither NaN nor infinite
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
