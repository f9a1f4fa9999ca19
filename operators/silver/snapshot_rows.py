"""The rows of a full snapshot as the declared columns, each business key once.

A column of a snapshot may have another type than declared where every value means the same in both: integers of other
sizes, decimals of a smaller scale, float32 as float64, instants of another unit or zone (without one they are UTC). A
value that does not fit, a key or a sequence that is NULL, and rows that differ under one key are refused, row by row.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import polars as pl

from operators.events import Columns
from operators.instants import in_text, off_calendar
from operators.schema import Schema, type_name


class MisfitError(Exception):
    """A snapshot does not have the declared columns; the message says which and what was found."""


@dataclass(frozen=True, slots=True)
class SnapshotRows:
    """`rows` in the declared columns, no two of one key; `refused`: the keys, `raw` (the row as JSON) and `reason`."""

    rows: pl.DataFrame
    refused: pl.DataFrame


def snapshot_rows(parts: Iterable[pl.DataFrame], columns: Columns) -> SnapshotRows:
    """Return the rows of all parts of a snapshot; each part is let go as soon as it is read. Raises MisfitError."""
    read, refused = [pl.DataFrame(schema=columns.schema)], [pl.DataFrame(schema=_refused_schema(columns))]
    for part in parts:
        rows, bad = _typed(part, columns)
        read.append(rows)
        refused.append(bad)
    rows, bad = _each_key_once(pl.concat(read), columns)
    return SnapshotRows(rows, pl.concat([*refused, bad]))


def _typed(part: pl.DataFrame, columns: Columns) -> tuple[pl.DataFrame, pl.DataFrame]:
    if problems := list(_misfits(part.schema, columns.schema)):
        raise MisfitError("; ".join(problems))
    rows = part.select(_cast(name, part.schema[name], dtype) for name, dtype in columns.schema.items())
    required = {*columns.keys, *filter(None, [columns.sequence_column])}
    reasons = [*_unfitting(part, rows), *(_missing(name) for name in sorted(required) if rows[name].null_count())]
    if not reasons:
        return rows, pl.DataFrame(schema=_refused_schema(columns))
    found = pl.DataFrame(rows).hstack(part.rename(_shadow)).select(reason=pl.coalesce(reasons))["reason"]
    bad = found.is_not_null()
    return rows.filter(~bad), _refused(rows.filter(bad), part.filter(bad), found.filter(bad), columns)


def _each_key_once(rows: pl.DataFrame, columns: Columns) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Let copies of a row go, and all rows of a key that has different ones."""
    nothing = pl.DataFrame(schema=_refused_schema(columns))
    if rows.n_unique([*columns.keys]) == rows.height:
        return rows, nothing
    rows = rows.unique(maintain_order=True)
    twice = rows.select(columns.keys).is_duplicated()
    several, reason = rows.filter(twice), "its key has different rows in this snapshot, expected one"
    return rows.filter(~twice), _refused(
        several, several, pl.Series([reason]).new_from_index(0, several.height), columns
    )


def _refused(rows: pl.DataFrame, raw: pl.DataFrame, reasons: pl.Series, columns: Columns) -> pl.DataFrame:
    named = raw.with_columns(in_text(each) for each in raw if each.dtype.is_temporal())  # see `instants`
    texts = [json.dumps(row, default=str) for row in named.iter_rows(named=True)]
    return rows.select(columns.keys).with_columns(pl.Series("raw", texts, pl.String), reasons.alias("reason"))


def _refused_schema(columns: Columns) -> Schema:
    return {**{key: columns.schema[key] for key in columns.keys}, "raw": pl.String(), "reason": pl.String()}


def _shadow(name: str) -> str:
    return f"_{name}"  # declared names have no leading underscore


def _misfits(found: pl.Schema, declared: Schema) -> Iterator[str]:
    for name, dtype in declared.items():
        if name not in found:
            yield f"column {name!r} is missing; found {', '.join(found) or 'none'}"
        elif not _fits(found[name], dtype):
            yield f"column {name!r} is {type_name(found[name])}, expected {type_name(dtype)}"


def _fits(found: pl.DataType, declared: pl.DataType) -> bool:
    if found in (declared, pl.Null()):
        return True
    if isinstance(declared, pl.Decimal):
        return found.is_integer() or (isinstance(found, pl.Decimal) and found.scale <= declared.scale)
    if isinstance(declared, pl.String):
        return isinstance(found, pl.Categorical | pl.Enum)
    if isinstance(declared, pl.Datetime):
        return isinstance(found, pl.Datetime)
    if declared.is_integer():
        return found.is_integer()
    return found == pl.Float32() and declared == pl.Float64()


def _cast(name: str, found: pl.DataType, declared: pl.DataType) -> pl.Expr:
    column = pl.col(name)
    if isinstance(found, pl.Datetime) and found.time_zone is None:
        column = column.dt.replace_time_zone("UTC")
    return column if found == declared else column.cast(declared, strict=False)


def _unfitting(part: pl.DataFrame, rows: pl.DataFrame) -> Iterator[pl.Expr]:
    """Yield, for each column with values that cannot be of its type, an expression of the reason."""
    for name, dtype in rows.schema.items():
        reason = pl.lit(f"column {name!r}: received a value that is no {type_name(dtype)}")
        if rows[name].null_count() > part[name].null_count():
            yield pl.when(pl.col(name).is_null() & pl.col(_shadow(name)).is_not_null()).then(reason)
        if dtype.is_float() and not rows[name].is_finite().all():
            yield pl.when(~pl.col(name).is_finite()).then(reason)
        if (off := off_calendar(rows[name])).any():
            yield pl.when(pl.lit(off)).then(pl.lit(f"column {name!r}: received a value that is not in years 1 to 9999"))


def _missing(name: str) -> pl.Expr:
    return pl.when(pl.col(name).is_null()).then(pl.lit(f"column {name!r}: received NULL, expected a value"))
