"""Declaring an expectation: what a row must meet to be merged.

As with a CHECK constraint of SQL, an expectation that is NULL for a row is met (ISO/IEC 9075-2, "<check constraint
definition>"): whoever wants a value says `is_not_null()`. Deletes and truncates carry no row and are not checked. An
event is checked as it came: a value that Debezium did not send is NULL here, whatever the table has.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl
from polars.exceptions import PolarsError

from operators.declared import check_fields
from operators.schema import DeclarationError, Schema
from operators.wording import clip

Otherwise = Literal["warn", "drop", "quarantine", "fail"]
"""From the mildest to the strictest. Of several expectations that a record does not meet, the strictest decides."""


@dataclass(frozen=True, eq=False)
class Expect:
    """Expect a condition of every row that is upserted, and say what to do otherwise.

    `condition` is a polars expression over the declared columns that is true or false of each row by itself; NULL is
    true. `otherwise` says what becomes of a record that does not meet it: "warn" lets it pass, "drop" leaves it out,
    "quarantine" puts it where it can be looked at and sent in again, "fail" stops the run before it is committed. A
    record that the condition cannot be evaluated on (a text that is no number, say) is quarantined, unless it stops
    the run. All are counted.

    >>> Expect("amount_not_negative", pl.col("amount") >= 0, otherwise="warn").otherwise
    'warn'
    """

    name: str
    condition: pl.Expr
    otherwise: Otherwise = "quarantine"

    def __post_init__(self) -> None:
        check_fields(self)


def checked(expectations: Sequence[Expect], schema: Schema) -> list[Expect]:
    """Return the expectations of a table. Raises DeclarationError for one that cannot be."""
    names = [each.name for each in expectations]
    for each in expectations:
        if names.count(each.name) > 1:
            raise DeclarationError(f"two expectations are named {each.name!r}; rename one")
        if problem := _problem(each.condition, schema):
            raise DeclarationError(
                f"expectation {each.name!r}: {problem}. Expected a polars expression over {', '.join(schema)} that is "
                'true or false of each row by itself, as pl.col("amount") >= 0'
            )
    return [*expectations]


def _problem(condition: pl.Expr, schema: Schema) -> str | None:
    try:
        shapes = filter(None, (_misshapen(condition, schema, height) for height in (0, 2)))
        parts = (_not_by_row(part, schema) for part in _parts(condition, schema))
        return next(shapes, None) or next(filter(None, parts), None)
    except PolarsError as error:
        return f"cannot be evaluated: {clip(str(error).partition(chr(10))[0])}"


def _misshapen(condition: pl.Expr, schema: Schema, height: int) -> str | None:
    """Say why what a condition makes of so many rows is not one Boolean each."""
    found = pl.DataFrame({name: [None] * height for name in schema}, schema).select(condition)
    if found.width != 1:
        return f"received {found.width} columns ({', '.join(found.columns)})"
    if found.dtypes != [pl.Boolean]:
        return f"received {found.dtypes[0]} values"
    return None if found.height == height else f"received {found.height} values for {height} rows"


def _parts(condition: pl.Expr, schema: Schema) -> Iterator[pl.Expr]:
    yield condition
    for each in condition.meta.pop(schema=schema):
        yield from _parts(each, schema)


def _not_by_row(part: pl.Expr, schema: Schema) -> str | None:
    """Say why a part of a condition is not one value of each row by itself: which rows come together is chance."""
    try:
        by_row = part.meta.is_row_separable() and (not part.meta.root_names() or part.meta.is_length_preserving())
    except PolarsError:  # for a Python function, a selector of columns, or an expression over the elements of a list
        return f"polars cannot tell whether {clip(str(part))} is of each row by itself"
    if by_row and not _is_mistaken(part, schema):
        return None
    return f"{clip(str(part))} is not of each row by itself, and which rows come together is chance"


def _is_mistaken(part: pl.Expr, schema: Schema) -> bool:
    """Tell of a part that polars (2.1) wrongly takes for separable: `is_in` all values of a column, and samples."""
    others = part.meta.pop(schema=schema)  # what the part is made of, its main input last
    if not others:
        return False
    text, main, other = str(part), others[-1], others[0]
    if text == f"{main}.is_in([{other}])" and other.meta.root_names():
        value, values = pl.DataFrame(schema=schema).select(value=main, values=other).dtypes
        return isinstance(value, pl.List | pl.Array) or not isinstance(values, pl.List | pl.Array)
    return text.startswith(f"{main}.list.sample_")
