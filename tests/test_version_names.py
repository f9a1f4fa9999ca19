"""Versions in the names of snapshots."""

from datetime import UTC, date, datetime

import polars as pl
import pytest

from operators.schema import DeclarationError
from operators.silver.version_names import VersionNames


@pytest.mark.parametrize(
    ("pattern", "name", "version"),
    [
        ("v={integer}", "v=0017", 17),
        ("{integer}", str(2**63 - 1), 2**63 - 1),
        ("customers_{date}.parquet", "customers_2026-03-01.parquet", date(2026, 3, 1)),
        ("*{date}", "export.20260301", date(2026, 3, 1)),
        ("{date}", "1969-12-31", date(1969, 12, 31)),
        ("{timestamp}.parquet", "2026-03-01T10-00-05Z.parquet", datetime(2026, 3, 1, 10, 0, 5, tzinfo=UTC)),
        ("{timestamp}*", "20260301100005.25_full", datetime(2026, 3, 1, 10, 0, 5, 250_000, tzinfo=UTC)),
        ("at {timestamp}", "at 2026-03-01 10:00:00", datetime(2026, 3, 1, 10, tzinfo=UTC)),
    ],
)
def test_a_name_says_its_version(pattern: str, name: str, version: object) -> None:
    names = VersionNames(pattern)
    assert pl.Series([names.version(name)], dtype=pl.Int64).cast(names.dtype).to_list() == [version]


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("v={integer}", "v=17.tmp"),
        ("v={integer}", "w=17"),
        ("v.{integer}", "vx17"),
        ("{integer}", str(2**63)),
        ("{date}", "2026-13-01"),
        ("{date}", "2026-03-01T10:00:00"),
        ("{timestamp}", "2026-03-01"),
    ],
)
def test_a_name_of_another_form_says_none(pattern: str, name: str) -> None:
    assert VersionNames(pattern).version(name) is None


@pytest.mark.parametrize("pattern", ["customers.parquet", "{integer}-{integer}", "v={number}", "{}"])
def test_a_pattern_without_one_field_is_refused(pattern: str) -> None:
    with pytest.raises(DeclarationError, match=r"expected a pattern of names with one of \{integer\}"):
        VersionNames(pattern)
