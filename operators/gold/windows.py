"""Windows on event time."""

import re
from dataclasses import dataclass
from datetime import timedelta

import polars as pl

from operators.declared import check_arguments
from operators.schema import DeclarationError

_UNITS = {"s": timedelta(seconds=1), "m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Tumbling:
    """Windows of equal length that touch and never overlap, aligned to the epoch in UTC; see `tumbling`."""

    length: timedelta
    on: str

    def start(self) -> pl.Expr:
        """Return the start of the window a row falls into, NULL for a row without event time."""
        length = self.length // _MICROSECOND
        instant = pl.col(self.on).cast(pl.Datetime("us", "UTC")).to_physical()
        return (instant // length * length).cast(pl.Datetime("us", "UTC"))

    def end(self, start: pl.Expr) -> pl.Expr:
        """Return the end, exclusive, of the window that begins at `start`."""
        return start + pl.lit(self.length)


def parse_duration(text: str) -> timedelta:
    """Return a duration written as a whole number and a unit: s, m, h or d.

    >>> parse_duration("90s")
    datetime.timedelta(seconds=90)
    """
    found = re.fullmatch(r"([1-9]\d{0,8})([smhd])", text)
    if found is None:
        raise DeclarationError(f"duration {text!r}: expected a whole number and a unit, as in '30s', '5m', '1h', '1d'")
    return int(found[1]) * _UNITS[found[2]]


def tumbling(length: str, on: str) -> Tumbling:
    """Declare tumbling windows of `length` ("1h") on the event-time column `on`.

    >>> tumbling("1h", on="placed_at").length
    datetime.timedelta(seconds=3600)
    """
    check_arguments("tumbling", tumbling, locals())
    return Tumbling(parse_duration(length), on)
