"""How a value of a declared type may look in JSON, and the way back to the declared type.

A column can arrive in more than one form, an instant as text or as an integer. Each form is a `Wire`: the Arrow type
that `pyarrow.json` parses it as, and the columnar reading of that. The forms of a type exclude each other by what is
in the JSON value, so whichever form reads a value without complaint gives the same result.

| declared        | forms                                                                                             |
|-----------------|---------------------------------------------------------------------------------------------------|
| int, bool       | JSON integer within range, JSON true or false                                                     |
| float           | JSON number, finite                                                                               |
| string, list    | JSON string, JSON array of strings                                                                |
| decimal         | JSON string or number, however written, whose value fits exactly;                                 |
|                 | Debezium ``precise``: Base64, or a VariableScaleDecimal                                           |
| date            | days since the epoch, or ``YYYY-MM-DD``                                                           |
| timestamp       | ISO 8601 text (finer than microseconds is cut), or an integer since the epoch in the format's unit |
| any of Debezium | the placeholder for an unavailable value                                                          |
"""

import base64
import calendar
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import TypeGuard

import polars as pl
import pyarrow as pa

from operators.decoding.decimal_bytes import rescaled, series_of, to_decimals, unscaled
from operators.decoding.decimal_text import at_a_glance, exactly, is_plain, parsed
from operators.decoding.formats import PLACEHOLDER, Debezium, Rows
from operators.decoding.json_values import Number
from operators.eager import constant
from operators.instants import DAYS, PER_DAY, beyond_calendar, calendar_range, off_calendar

_TEXT = pa.large_string()
_PLACEHOLDER_FORM = "the placeholder"
_PLACEHOLDERS = [PLACEHOLDER, base64.b64encode(PLACEHOLDER.encode()).decode()]
_FINE = re.compile(r"\.\d{7,9}")
_INSTANT = re.compile(r"(\d{4})-(\d\d)-(\d\d)(?:.(?:[01]\d|2[0-3])[\d:.+\-Zz]*)?", re.ASCII)
_DATE_TEXT = re.compile(r"(\d{4})-(\d\d)-(\d\d)Z?", re.ASCII)
_MONTHS = 12
_BEYOND_FLOAT = 2**1024
_UTC = pl.Datetime("us", "UTC")
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

    ``looks`` tells whether a JSON value, as `json_values.load` gives it, has this form: never no for a value that
    `read` takes, so no from all forms of a type is a verdict. ``read`` takes a polars Series of the type ``arrow``
    parses to, cast to ``cast`` if that is given; it may raise UnreadableError for all when some value does not fit.
    Without ``arrow`` the parser must not see the value, and `read` takes its text as String.
    """

    expected: str
    arrow: pa.DataType | None
    looks: Callable[[object], bool]
    read: Callable[[pl.Series], Reading]
    cast: pa.DataType | None = None


def wires_for(dtype: pl.DataType, fmt: Rows | Debezium) -> tuple[Wire, ...]:
    """Return the forms a column of type `dtype` may take in `fmt`, the likeliest first."""
    debezium = isinstance(fmt, Debezium)
    in_base64 = isinstance(fmt, Debezium) and fmt.decimals == "precise" and fmt.encoding != "avro"
    match dtype:
        case pl.String():
            return (Wire("a string", _TEXT, _is_text, _read_string if debezium else Reading),)
        case pl.Decimal() if in_base64:
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
        return Wire(f"a finite {name}", arrow, _is_finite, _read_float)
    limit = 1 << (arrow.bit_width - 1)
    return Wire(f"an {name}", arrow, lambda value: _is_integer(value) and -limit <= value < limit, Reading)


def _is_text(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and not isinstance(value, Number)


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(each is None or _is_text(each) for each in value)


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: object) -> bool:
    """Tell whether a value is a number within float64; NaN and infinity, in JSON a float, are none."""
    if isinstance(value, Number):
        return math.isfinite(float(value))
    return _is_integer(value) and abs(value) < _BEYOND_FLOAT


def _read_string(text: pl.Series) -> Reading:
    unavailable = _is_placeholder(text)
    if not unavailable.any():
        return Reading(text)
    return Reading(_blank(text, unavailable), None, unavailable.fill_null(value=False))


def _is_placeholder(text: pl.Series) -> pl.Series:
    plain, base64_of_it = (text == each for each in _PLACEHOLDERS)
    return plain | base64_of_it


def _read_missing(dtype: pl.DataType, text: pl.Series) -> Reading:
    missing = (text == PLACEHOLDER).fill_null(value=False)
    return Reading(constant(text.name, None, dtype, len(text)), text.is_not_null() & ~missing, missing)


def _read_list(lists: pl.Series) -> Reading:
    unavailable = ((lists.list.len() == 1) & lists.list.first().is_in(_PLACEHOLDERS)).fill_null(value=False)
    if not unavailable.any():
        return Reading(lists)
    return Reading(_blank(lists, unavailable), None, unavailable)


def _read_float(numbers: pl.Series) -> Reading:
    bad = ~numbers.is_finite()
    return Reading(numbers, bad.fill_null(value=False) if numbers.null_count() else bad)


def _blank(values: pl.Series, mask: pl.Series) -> pl.Series:
    """Return `values` with NULL where `mask`."""
    return pl.select(pl.when(~mask).then(values)).to_series()


def _is_integer_in(bounds: tuple[int, int], value: object) -> bool:
    return _is_integer(value) and bounds[0] <= value <= bounds[1]


def _read_instant(instants: pl.Series) -> Reading:
    return Reading(instants.cast(_UTC), off_calendar(instants))


def read_integer_instant(unit: str, integers: pl.Series) -> Reading:
    """Read integers as instants, so many units since the epoch."""
    bad = beyond_calendar(integers, PER_DAY[unit])
    safe = _blank(integers, bad) if bad.any() else integers
    if unit == "s":
        return Reading((safe * 1_000_000).cast(_UTC), bad)
    return Reading(safe.cast(pl.Datetime(unit, "UTC")).cast(_UTC), bad)  # type: ignore[arg-type]  # a unit of polars


def _timestamps(unit: str) -> tuple[Wire, ...]:
    text = "an ISO 8601 timestamp"
    return (
        Wire(text, pa.timestamp("us", "UTC"), partial(_is_instant, fine=False), _read_instant),
        Wire(text, pa.timestamp("ns", "UTC"), partial(_is_instant, fine=True), _read_instant),
        Wire(
            f"{_UNIT_NAMES[unit]} of an instant in years 1 to 9999",
            pa.int64(),
            partial(_is_integer_in, calendar_range(PER_DAY[unit])),
            partial(read_integer_instant, unit),
        ),
    )


def _is_instant(value: object, *, fine: bool) -> bool:
    """Tell whether a value begins with a date of the calendar, and goes on as a time may."""
    if not _is_text(value) or (_FINE.search(value) is not None) != fine or not (found := _INSTANT.fullmatch(value)):
        return False
    return _is_day(found)


def _is_date(value: object) -> bool:
    return _is_text(value) and (found := _DATE_TEXT.fullmatch(value)) is not None and _is_day(found)


def _is_day(found: re.Match[str]) -> bool:
    """Tell whether the first three groups are a year, month and day of the calendar."""
    year, month, day = int(found[1]), int(found[2]), int(found[3])
    return year >= 1 and 1 <= month <= _MONTHS and 1 <= day <= calendar.monthrange(year, month)[1]


def read_days(dates: pl.Series) -> Reading:
    """Read dates, whatever their year."""
    return Reading(dates, off_calendar(dates))


def _read_date_text(text: pl.Series) -> Reading:
    shaped = text.str.contains(r"^\d{4}-\d{2}-\d{2}Z?$")
    dates = text.str.slice(0, 10).str.to_date("%Y-%m-%d", strict=False)
    in_range = read_days(dates).bad
    return Reading(dates, text.is_not_null() & (~shaped | dates.is_null() | in_range))


def _decimals(dtype: pl.Decimal) -> tuple[Wire, ...]:
    expected = f"a number that fits decimal({dtype.precision}, {dtype.scale})"
    exact = partial(exactly, precision=dtype.precision or _MAX_SCALE, scale=dtype.scale)
    declared = pa.decimal128(dtype.precision, dtype.scale)
    fits, plain = partial(_is_decimal, exact), partial(_is_plain_decimal, exact, at_a_glance(declared))
    return (
        Wire(expected, parsed(dtype.scale), plain, Reading, declared),
        Wire(expected, None, fits, lambda text: Reading(pl.Series(text.name, map(exact, text), dtype))),
    )


def _is_decimal(exact: Callable[[str], Decimal | None], value: object) -> bool:
    text = str(value) if _is_integer(value) else value
    return isinstance(text, str) and exact(text) is not None


def _is_plain_decimal(exact: Callable[[str], Decimal | None], glance: re.Pattern[str], value: object) -> bool:
    text = str(value) if _is_integer(value) else value
    if not isinstance(text, str):
        return False
    return glance.fullmatch(text) is not None or (is_plain(text) and exact(text) is not None)


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
    return Reading(series_of(values), pl.Series(bad), unavailable)


def _read_variable_scale(dtype: pl.Decimal, structs: pl.Series) -> Reading:
    """Read ``io.debezium.data.VariableScaleDecimal``, one scale after the other."""
    parts = structs.struct.unnest().with_row_index("row")
    present = parts.filter(pl.any_horizontal(pl.col("value", "scale").is_not_null()))
    pieces = [
        part.select("row", decimal=rescaled(part["value"].str.decode("base64", strict=False), part["scale"][0], dtype))
        for part in present.partition_by("scale")
    ]
    known = pl.concat([pl.DataFrame(schema={"row": pl.UInt32, "decimal": dtype}), *pieces])
    values = parts.select("row").join(known, on="row", how="left", maintain_order="left")["decimal"]
    return Reading(values, values.is_null() & parts["row"].is_in(present["row"].implode()))


_DATE = (
    Wire("days since the epoch, in years 1 to 9999", pa.date32(), partial(_is_integer_in, DAYS), read_days),
    Wire("a date YYYY-MM-DD", _TEXT, _is_date, _read_date_text),
)
