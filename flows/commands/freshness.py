"""How fresh the tables were: from the instant in a record to the Gold commit that shows it, out of the lake alone.

For each staged record with a timestamp in the interval asked for

1. find the Silver commit whose ledger range covers the record's partition and offset;
2. find the first commit of the Gold table whose ledger says it shows that Silver version or a later one;
3. its freshness is the time of that Gold commit minus the timestamp of the record.

The time of a commit is when its file in `_delta_log` was last modified, which is when the commit became visible to
readers; a file system keeps it to the microsecond or better. `commitInfo.timestamp` is taken before the write and
would flatter the result. Copying a lake without its modification times destroys the measurement. The timestamp of a
record is a whole number of milliseconds, so a result is up to 1 ms too large.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
from deltalake import DeltaTable

from flows.lake import Lake
from storage.delta.owned_table import LEDGER


class FreshnessError(Exception):
    """The lake cannot tell: no record in the interval is in Gold yet, a table is missing or is not on this machine."""


@dataclass(frozen=True, slots=True)
class Freshness:
    """Milliseconds from record to Gold commit over `events` records; quantiles are values that occurred.

    `unmeasured` counts records of the interval that no Gold commit shows yet, or whose commits are no longer in the
    logs.
    """

    events: int
    p50: float
    p99: float
    max: float
    unmeasured: int


def measure_freshness(lake: Lake, silver: str, gold: str, since: datetime, until: datetime) -> Freshness:
    """Measure the Gold table `gold` over the records of `silver` with ``since <= timestamp < until``, in UTC.

    Reads the log of Silver and of Gold once each, and three columns of staging. Raises FreshnessError.
    """
    records = _records(_local(lake.staging(silver)), since, until)
    merged = _merged(records, _merges(_local(lake.silver(silver))))
    refreshes = _refreshes(_local(lake.gold(gold)), silver)
    shown = merged.sort("version").join_asof(refreshes, on="version", strategy="forward")
    waits = shown.select(wait=(pl.col("committed_at") - pl.col("_changed_at")).dt.total_microseconds() / 1000)["wait"]
    known = waits.drop_nulls()
    if not len(known):
        raise FreshnessError(
            f"{gold}: none of the {records.height} records from {since} until {until} is in this table. Widen the "
            "interval, or wait for the flow to catch up"
        )
    p50, p99, most = (float(known.quantile(share, "higher") or 0) for share in (0.5, 0.99, 1.0))
    return Freshness(len(known), p50, p99, most, records.height - len(known))


def _records(staging: Path, since: datetime, until: datetime) -> pl.DataFrame:
    wanted = pl.col("_changed_at").is_between(since, until, closed="left") & pl.col("_retried").is_null()
    source = pl.format("{}/{}", "_topic", "_partition").alias("partition_id")
    return pl.scan_delta(str(staging)).filter(wanted).select(source, "_offset", "_changed_at").collect()


def _merges(silver: Path) -> pl.DataFrame:
    """Return one row a range of a Silver commit; ranges of a partition never overlap."""
    ranges = [
        (partition_id, start, end, version)
        for version, _, ledger in _ledgers(silver)
        for partition_id, (start, end) in ledger.get("ranges", {}).items()
    ]
    schema = pl.Schema({"partition_id": pl.String(), "start": pl.Int64(), "end": pl.Int64(), "version": pl.Int64()})
    return pl.DataFrame(ranges, schema=schema, orient="row").sort("start")


def _merged(records: pl.DataFrame, merges: pl.DataFrame) -> pl.DataFrame:
    """Add to each record the Silver version that first held it, NULL where there is none."""
    found = records.sort("_offset").join_asof(
        merges, left_on="_offset", right_on="start", by="partition_id", check_sortedness=False
    )
    covered = pl.col("_offset") < pl.col("end")
    return found.select("_changed_at", pl.when(covered).then("version").alias("version"))


def _refreshes(gold: Path, silver: str) -> pl.DataFrame:
    """Return one row a commit of a Gold table: the Silver version it shows and when it was committed."""
    commits = [
        (ledger["version"], committed_at)
        for _, committed_at, ledger in _ledgers(gold)
        if ledger.get("silver") == silver and "version" in ledger
    ]
    schema = pl.Schema({"version": pl.Int64(), "committed_at": pl.Datetime("us", "UTC")})
    return pl.DataFrame(commits, schema=schema, orient="row").unique("version", keep="first").sort("version")


def _ledgers(table: Path) -> Iterator[tuple[int, datetime, dict[str, Any]]]:
    """Yield version, time and ledger of each commit of a table that is ours and still in its log, oldest first."""
    for entry in reversed(DeltaTable(table).history()):
        if ledger := entry.get(LEDGER):
            version = int(entry["version"])
            modified = (table / "_delta_log" / f"{version:020}.json").stat().st_mtime_ns
            yield version, datetime.fromtimestamp(modified / 1e9, UTC), json.loads(ledger)


def _local(uri: str) -> Path:
    if "://" in uri:
        raise FreshnessError(f"{uri}: expected a lake on this machine; an object store does not tell when, to the ms")
    if not (Path(uri) / "_delta_log").is_dir():
        raise FreshnessError(f"{uri}: no table here. Run the pipeline first, and check GOLDWAX_LAKE")
    return Path(uri)
