"""Freshness comes out of the lake: staging's timestamps, the ledgers' ranges and versions, the commits' files."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import CommitProperties, write_deltalake

from flows.commands.freshness import Freshness, FreshnessError, measure_freshness
from flows.lake import Lake
from storage.delta.owned_table import LEDGER

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def _at(milliseconds: int) -> datetime:
    return NOON + timedelta(milliseconds=milliseconds)


def _commit(table: str, rows: pl.DataFrame, ledger: dict[str, Any] | None, milliseconds: int) -> None:
    """Append rows to a table with a ledger, and date the commit."""
    metadata = {} if ledger is None else {LEDGER: json.dumps(ledger)}
    write_deltalake(table, rows, mode="append", commit_properties=CommitProperties(custom_metadata=metadata))
    newest = max((Path(table) / "_delta_log").glob("*.json"))
    os.utime(newest, ns=(0, int(_at(milliseconds).timestamp() * 1000) * 1_000_000))


def _staged(partition: int, first_offset: int, milliseconds: list[int], retried: int | None = None) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "_topic": "t",
            "_partition": pl.Series([partition] * len(milliseconds), dtype=pl.Int32),
            "_offset": range(first_offset, first_offset + len(milliseconds)),
            "_changed_at": [_at(each) for each in milliseconds],
            "_retried": pl.Series([retried] * len(milliseconds), dtype=pl.Int64),
        }
    )


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Give two partitions of t, merged by Silver 0, 2 and 3 (1 is maintenance), shown by Gold 0 and 2."""
    lake, row = Lake(str(tmp_path)), pl.DataFrame({"x": [1]})
    _commit(lake.staging("s"), _staged(0, 0, [0, 10, 20, 30]), None, 0)
    _commit(lake.staging("s"), _staged(1, 5, [0, 40]), None, 0)
    _commit(lake.staging("s"), _staged(0, 0, [0], retried=0), None, 0)  # sent in again later, which says nothing
    for ranges, at in (({"t/0": [0, 2]}, 50), (None, 55), ({"t/0": [2, 3], "t/1": [5, 6]}, 60), ({"t/0": [3, 4]}, 90)):
        _commit(lake.silver("s"), row, ranges and {"ranges": ranges}, at)
    for version, at in ((0, 100), (None, 110), (3, 200)):
        _commit(lake.gold("g"), row, None if version is None else {"silver": "s", "version": version}, at)
    return lake


def test_a_record_is_shown_by_the_first_gold_commit_at_or_after_its_silver_version(lake: Lake) -> None:
    # t/0: 100-0, 100-10, 200-20, 200-30; t/1: 200-0, and offset 6 is not merged.
    found = measure_freshness(lake, "s", "g", _at(0), _at(1_000))

    assert found == Freshness(events=5, p50=170.0, p99=200.0, max=200.0, unmeasured=1)


def test_only_records_of_the_interval_count_its_end_excluded(lake: Lake) -> None:
    assert measure_freshness(lake, "s", "g", _at(10), _at(30)) == Freshness(2, 180.0, 180.0, 180.0, 0)


def test_an_interval_without_shown_records_is_an_error(lake: Lake) -> None:
    with pytest.raises(FreshnessError, match="none of the 1 records"):
        measure_freshness(lake, "s", "g", _at(40), _at(50))


def test_a_gold_table_of_another_silver_table_shows_nothing(lake: Lake) -> None:
    _commit(lake.gold("other"), pl.DataFrame({"x": [1]}), {"silver": "elsewhere", "version": 9}, 300)

    with pytest.raises(FreshnessError, match="none of the 6 records"):
        measure_freshness(lake, "s", "other", _at(0), _at(1_000))


@pytest.mark.parametrize(("root", "problem"), [("nowhere", "no table here"), ("s3://bucket", "on this machine")])
def test_a_lake_that_cannot_tell_is_named(root: str, problem: str) -> None:
    with pytest.raises(FreshnessError, match=problem):
        measure_freshness(Lake(root), "s", "g", _at(0), _at(1))
