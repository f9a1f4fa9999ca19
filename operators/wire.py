"""How a value of a declared type may look in JSON, and the way back to the declared type.

A column can arrive in more than one form, an instant as text or as an integer. Each form is a `Wire`: the Arrow type
that `pyarrow.json` parses it as, and the columnar reading of that. The forms of a type exclude each other by what is
in the JSON value, so whichever form reads a value without complaint gives the same result.

| declared        | forms                                                                                             |
|-----------------|---------------------------------------------------------------------------------------------------|
| int, bool       | JSON integer within range, JSON true or false                                                     |
| float           | JSON number, finite                                                                               |
| string, list    | JSON string, JSON array of strings                                                                |
| decimal         | JSON string or number that fits exactly; Debezium ``precise``: Base64, or a VariableScaleDecimal   |
| date            | days since the epoch, or ``YYYY-MM-DD``                                                           |
| timestamp       | ISO 8601 text (finer than microseconds is cut), or an integer since the epoch in the format's unit |
| any of Debezium | the placeholder for an unavailable value                                                          |
"""

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeGuard

import polars as pl
import pyarrow as pa

from operators.decimal_bytes import to_decimals, unscaled
from operators.formats import PLACEHOLDER, Debezium, Format
from operators.json_batch import UnreadableError

_TEXT = pa.large_string()
_PLACEHOLDER_FORM = "the placeholder"
_PLACEHOLDERS = [PLACEHOLDER, base64.b64encode(PLACEHOLDER.encode()).decode()]
_FINE = re.compile(r"\.\d{7,9}")
_UTC = pl.Datetime("us", "UTC")
_DAYS = (-719_162, 2_932_896)  # 0001-01-01 and 9999-12-31, what Python and every reader of Delta can name
_PER_DAY = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}
_UNIT_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_MAX_SCALE = 38


@dataclass(frozen=True, slots=True)
class Reading:
    """A column as read: values of the declared type, and Boolean masks (None: all False) of equal length.

    ``bad`` marks values that do not fit the declared type, ``unavailable`` those that were Debezium's placeholder;
    values under either mask are not to be used or NULL.
    """

    values: pl.Series
    bad: pl.Series | None = None
    unavailable: pl.Series | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Wire:
    """One form of a declared type.

    ``looks`` tells whether a JSON value, as `json.loads` gives it, has this form. ``read`` takes a polars Series of
    the type ``arrow`` parses to; it may raise UnreadableError for all when some value does not fit.
    """

    expected: str
    arrow: pa.DataType
    looks: Callable[[object], bool]
    read: Callable[[pl.Series], Reading]


def wires_for(dtype: pl.DataType, fmt: Format) -> tuple[Wire, ...]:
    """Return the forms a column of type `dtype` may take in `fmt`, the likeliest first."""
    debezium = isinstance(fmt, Debezium)
    match dtype:
        case pl.String():
            return (Wire("a string", _TEXT, _is_text, _read_string if debezium else Reading),)
        case pl.Decimal() if isinstance(fmt, Debezium) and fmt.decimals == "precise":
            return _precise_decimals(dtype)
        case pl.Decimal():
            forms = _decimals(dtype)
        case pl.Date():
            forms = _DATE
        case pl.Datetime():
            forms = _timestamps(fmt.timestamps)
        case pl.List():
            read = _read_list if debezium else Reading
            forms = (Wire("a list of strings", pa.list_(_TEXT), _is_texts, read),)
        case _:
            forms = (_plain(dtype),)
    if not debezium:
        return forms
    return (*forms, Wire(_PLACEHOLDER_FORM, _TEXT, lambda value: value == PLACEHOLDER, partial(_read_missing, dtype)))


def _plain(dtype: pl.DataType) -> Wire:
    name = "bool" if isinstance(dtype, pl.Boolean) else str(dtype).lower()
    arrow = getattr(pa, "bool_" if name == "bool" else name)()
    if name == "bool":
        return Wire("true or false", arrow, lambda value: isinstance(value, bool), Reading)
    if name.startswith("float"):
        return Wire(f"a finite {name}", arrow, _is_number, _read_float)
    limit = 1 << (arrow.bit_width - 1)
    return Wire(f"an {name}", arrow, lambda value: _is_integer(value) and -limit <= value < limit, Reading)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(each is None or isinstance(each, str) for each in value)


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _read_string(text: pl.Series) -> Reading:
    unavailable = text.is_in(_PLACEHOLDERS)
    if not unavailable.any():
        return Reading(text)
    return Reading(_blank(text, unavailable), None, unavailable.fill_null(value=False))


def _read_missing(dtype: pl.DataType, text: pl.Series) -> Reading:
    missing = text.is_in(_PLACEHOLDERS).fill_null(value=False)
    return Reading(pl.repeat(None, len(text), dtype=dtype, eager=True), text.is_not_null() & ~missing, missing)


def _read_list(lists: pl.Series) -> Reading:
    unavailable = ((lists.list.len() == 1) & lists.list.first().is_in(_PLACEHOLDERS)).fill_null(value=False)
    if not unavailable.any():
        return Reading(lists)
    return Reading(_blank(lists, unavailable), None, unavailable)


def _read_float(numbers: pl.Series) -> Reading:
    return Reading(numbers, (~numbers.is_finite()).fill_null(value=False))


def _blank(values: pl.Series, mask: pl.Series) -> pl.Series:
    """Return `values` with NULL where `mask`."""
    return pl.select(pl.when(~mask).then(values)).to_series()


def _beyond_calendar(integers: pl.Series, per_day: int) -> pl.Series:
    first, last = _DAYS
    return ~integers.is_between(max(first * per_day, -(2**63)), min((last + 1) * per_day, 2**63) - 1)


def _read_instant(unit: str, instants: pl.Series) -> Reading:
    bad = _beyond_calendar(instants.to_physical(), _PER_DAY[unit]).fill_null(value=False)
    return Reading(instants.cast(_UTC), bad)


def _read_integer_instant(unit: str, integers: pl.Series) -> Reading:
    bad = _beyond_calendar(integers, _PER_DAY[unit]).fill_null(value=False)
    safe = _blank(integers, bad) if bad.any() else integers
    if unit == "s":
        return Reading((safe * 1_000_000).cast(_UTC), bad)
    return Reading(safe.cast(pl.Datetime(unit, "UTC")).cast(_UTC), bad)  # type: ignore[arg-type]  # a unit of polars


def _timestamps(unit: str) -> tuple[Wire, ...]:
    text = "an ISO 8601 timestamp"
    return (
        Wire(text, pa.timestamp("us", "UTC"), lambda v: isinstance(v, str) and not _FINE.search(v), _INSTANT_US),
        Wire(text, pa.timestamp("ns", "UTC"), lambda v: isinstance(v, str) and bool(_FINE.search(v)), _INSTANT_NS),
        Wire(
            f"{_UNIT_NAMES[unit]} of an instant in years 1 to 9999",
            pa.int64(),
            _is_integer,
            partial(_read_integer_instant, unit),
        ),
    )


def _read_days(dates: pl.Series) -> Reading:
    return Reading(dates, _beyond_calendar(dates.to_physical(), 1).fill_null(value=False))


def _read_date_text(text: pl.Series) -> Reading:
    shaped = text.str.contains(r"^\d{4}-\d{2}-\d{2}Z?$")
    dates = text.str.slice(0, 10).str.to_date("%Y-%m-%d", strict=False)
    in_range = _read_days(dates).bad
    return Reading(dates, text.is_not_null() & (~shaped | dates.is_null() | in_range))


def _decimals(dtype: pl.Decimal) -> tuple[Wire, ...]:
    expected = f"a number that fits decimal({dtype.precision}, {dtype.scale})"
    exact = pa.decimal128(dtype.precision, dtype.scale)
    return (Wire(expected, exact, lambda value: _is_text(value) or _is_number(value), Reading),)


def _precise_decimals(dtype: pl.Decimal) -> tuple[Wire, ...]:
    expected = f"Base64 of the unscaled integer of a decimal({dtype.precision}, {dtype.scale}) (decimals='precise')"
    variable = pa.struct([("scale", pa.int32()), ("value", _TEXT)])
    return (
        Wire(expected, _TEXT, _is_text, partial(_read_base64, dtype)),
        Wire(expected, variable, lambda value: isinstance(value, dict), partial(_read_variable_scale, dtype)),
    )


def _read_base64(dtype: pl.Decimal, text: pl.Series) -> Reading:
    unavailable = text.is_in(_PLACEHOLDERS).fill_null(value=False)
    content = (_blank(text, unavailable) if unavailable.any() else text).str.decode("base64", strict=False)
    words, bad = unscaled(content, dtype.precision or _MAX_SCALE)
    bad |= (content.is_null() & text.is_not_null() & ~unavailable).to_numpy()
    values = to_decimals(words, content.is_null().to_numpy() | bad, dtype.precision or _MAX_SCALE, dtype.scale)
    return Reading(_series(values), pl.Series(bad), unavailable)


def _read_variable_scale(dtype: pl.Decimal, structs: pl.Series) -> Reading:
    """Read ``io.debezium.data.VariableScaleDecimal``, one scale after the other; any misfit refuses the batch."""
    parts = structs.struct.unnest().with_row_index("row")
    pieces = [_rescaled(dtype, part) for part in parts.partition_by("scale") if part["value"].null_count() < len(part)]
    if parts.filter(pl.col("value").is_null() != pl.col("scale").is_null()).height:
        raise UnreadableError("a VariableScaleDecimal without its scale or value")
    known = pl.concat([pl.DataFrame({"row": [], "decimal": []}, {"row": pl.UInt32, "decimal": dtype}), *pieces])
    return Reading(parts.select("row").join(known, on="row", how="left", maintain_order="left")["decimal"])


def _rescaled(dtype: pl.Decimal, part: pl.DataFrame) -> pl.DataFrame:
    """Return `row` and `decimal` of VariableScaleDecimals that share one scale; raises UnreadableError."""
    scale = part["scale"][0]
    content = part["value"].str.decode("base64", strict=False)
    if scale is None or not 0 <= scale <= _MAX_SCALE or content.null_count():
        raise UnreadableError("a VariableScaleDecimal without a scale of 0 to 38 and a Base64 value")
    words, bad = unscaled(content, _MAX_SCALE)
    try:
        exact = to_decimals(words, bad, _MAX_SCALE, scale).cast(pa.decimal128(dtype.precision, dtype.scale))
    except pa.ArrowInvalid as error:
        raise UnreadableError(str(error)) from None
    if bad.any():
        raise UnreadableError("a VariableScaleDecimal of more than 38 digits")
    return pl.DataFrame({"row": part["row"], "decimal": _series(exact)})


def _series(array: pa.Array) -> pl.Series:
    series = pl.from_arrow(array)
    if not isinstance(series, pl.Series):
        raise TypeError(f"received {type(series)}, expected a column")
    return series


_INSTANT_US = partial(_read_instant, "us")
_INSTANT_NS = partial(_read_instant, "ns")
_DATE = (
    Wire("days since the epoch, in years 1 to 9999", pa.date32(), _is_integer, _read_days),
    Wire("a date YYYY-MM-DD", _TEXT, _is_text, _read_date_text),
)
