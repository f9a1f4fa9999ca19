"""Versions of snapshots that stand in the names of their files and directories.

| in a pattern  | matches                                                   | as a version                        |
|---------------|-----------------------------------------------------------|-------------------------------------|
| `{integer}`   | digits                                                    | the number                          |
| `{date}`      | `2026-03-01`, `20260301`                                  | days since the epoch                |
| `{timestamp}` | `2026-03-01T10:00:00Z`, `20260301T100000` (read as UTC)   | microseconds since the epoch        |
| `*`           | anything                                                  |                                     |
"""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta

import polars as pl

from operators.schema import DeclarationError

TIMESTAMP = pl.Datetime("us", "UTC")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LARGEST = 2**63 - 1
_FORMS: Mapping[str, tuple[pl.DataType, str]] = {
    "integer": (pl.Int64(), r"(\d+)"),
    "date": (pl.Date(), r"(\d{4})-?(\d\d)-?(\d\d)"),
    "timestamp": (TIMESTAMP, r"(\d{4})-?(\d\d)-?(\d\d)[T_ -]?(\d\d)[:-]?(\d\d)[:-]?(\d\d)(?:\.(\d{1,6}))?Z?"),
}


class VersionNames:
    """Names of one pattern, which has exactly one of the fields above. Raises DeclarationError.

    `dtype` is the type of the versions.

    >>> VersionNames("v={integer}").version("v=17")
    17
    """

    def __init__(self, pattern: str) -> None:
        parts = re.split(r"\{(\w*)\}", pattern)
        if len(parts) != 3 or parts[1] not in _FORMS:  # noqa: PLR2004 - what stands before, in and after the field
            raise DeclarationError(
                f"versions={pattern!r}: expected a pattern of names with one of {{integer}}, {{date}} or {{timestamp}},"
                " such as 'v={integer}' or 'customers_{date}.parquet'"
            )
        before, kind, after = parts
        self.dtype, form = _FORMS[kind]
        self._read = _READERS[kind]
        self._name = re.compile(f"{_literal(before)}{form}{_literal(after)}")

    def version(self, name: str) -> int | None:
        """Return the version that a name says, None where it does not fit or is no date of the calendar."""
        found = self._name.fullmatch(name)
        with suppress(ValueError, OverflowError):
            return self._read(found) if found else None
        return None


def _literal(text: str) -> str:
    return ".*".join(map(re.escape, text.split("*")))


def _integer(found: re.Match[str]) -> int | None:
    number = int(found[1])
    return number if number <= _LARGEST else None


def _date(found: re.Match[str]) -> int:
    return (date(int(found[1]), int(found[2]), int(found[3])) - _EPOCH.date()).days


def _timestamp(found: re.Match[str]) -> int:
    *whole, fraction = found.groups()
    parts = [int(part) for part in whole]
    instant = datetime(*parts, microsecond=int((fraction or "").ljust(6, "0")), tzinfo=UTC)  # type: ignore[arg-type,misc]
    return (instant - _EPOCH) // timedelta(microseconds=1)


_READERS: Mapping[str, Callable[[re.Match[str]], int | None]] = {
    "integer": _integer,
    "date": _date,
    "timestamp": _timestamp,
}
