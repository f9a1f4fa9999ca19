"""Column types a table can declare, and what they are in Arrow and polars.

| declared          | Arrow                 | meaning                                             |
|-------------------|-----------------------|-----------------------------------------------------|
| int8 … int64      | int8 … int64          |                                                     |
| float32, float64  | float32, float64      | finite numbers only                                 |
| decimal(p, s)     | decimal128(p, s)      | 1 <= p <= 38, 0 <= s <= p                           |
| string            | large_string          |                                                     |
| bool              | bool                  |                                                     |
| date              | date32                |                                                     |
| timestamp         | timestamp[us, UTC]    | an instant; text without a zone is read as UTC      |
| list<string>      | large_list<string>    |                                                     |
"""

import difflib
import re
from collections.abc import Iterable, Mapping

import polars as pl

Schema = dict[str, pl.DataType]
"""Column name to polars type, in declared order."""

_PLAIN: dict[str, pl.DataType] = {
    "int8": pl.Int8(),
    "int16": pl.Int16(),
    "int32": pl.Int32(),
    "int64": pl.Int64(),
    "float32": pl.Float32(),
    "float64": pl.Float64(),
    "string": pl.String(),
    "bool": pl.Boolean(),
    "date": pl.Date(),
    "timestamp": pl.Datetime("us", "UTC"),
    "list<string>": pl.List(pl.String()),
}
_DECIMAL = re.compile(r"decimal\(\s*(\d+)\s*,\s*(\d+)\s*\)")
_MAX_PRECISION = 38


class DeclarationError(ValueError):
    """A declaration that cannot work; the message says received, expected, remedy."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` when a known name is close to `name`, else an empty string.

    >>> did_you_mean("carier", ["carrier", "origin"])
    " Did you mean 'carrier'?"
    >>> did_you_mean("ID", ["id"])
    " Did you mean 'id'?"
    """
    by_lower = {each.lower(): each for each in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f" Did you mean {by_lower[close[0]]!r}?" if close else ""


def parse_type(text: str) -> pl.DataType:
    """Return the polars type of a declared type name.

    >>> parse_type("decimal(12, 2)")
    Decimal(precision=12, scale=2)
    """
    if text in _PLAIN:
        return _PLAIN[text]
    if found := _DECIMAL.fullmatch(text):
        precision, scale = int(found[1]), int(found[2])
        if 1 <= precision <= _MAX_PRECISION and scale <= precision:
            return pl.Decimal(precision, scale)
        raise DeclarationError(f"type {text!r}: expected decimal(p, s) with 1 <= p <= {_MAX_PRECISION} and s <= p")
    known = [*_PLAIN, "decimal(p, s)"]
    raise DeclarationError(f"unknown type {text!r}; expected one of: {', '.join(known)}.{did_you_mean(text, known)}")


def type_name(dtype: pl.DataType) -> str:
    """Return the name that a type is declared by; one that cannot be declared is named as polars does.

    >>> type_name(pl.Decimal(12, 2)), type_name(pl.Datetime("us", "UTC")), type_name(pl.Binary())
    ('decimal(12, 2)', 'timestamp', 'Binary')
    """
    if isinstance(dtype, pl.Decimal):
        return f"decimal({dtype.precision}, {dtype.scale})"
    return next((name for name, plain in _PLAIN.items() if plain == dtype), str(dtype))


def parse_schema(declared: Mapping[str, str]) -> Schema:
    """Return the typed columns of a declaration, in its order; technical names (leading ``_``) are refused."""
    if not declared:
        raise DeclarationError("schema: received {}, expected at least one column")
    _check_names(declared)
    try:
        return {name: parse_type(text) for name, text in declared.items()}
    except DeclarationError as error:
        raise DeclarationError(f"schema {dict(declared)!r}: {error}") from None


def _check_names(names: Iterable[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        if not name or name.startswith("_"):
            raise DeclarationError(
                f"column {name!r}: expected a name that is not empty and has no leading underscore; "
                "those are kept for technical columns. Rename the column"
            )
        if name.startswith("^") and name.endswith("$"):
            raise DeclarationError(f"column {name!r}: such a name reads as a pattern of columns. Rename the column")
        if (other := seen.setdefault(name.lower(), name)) != name:
            raise DeclarationError(f"columns {other!r} and {name!r}: Delta does not tell them apart. Rename one")
