"""The merge writer: how a merge, its index and the table fare as the table grows and the commits go on.

Every figure is measured in a process of its own (`python -m benchmarks.merges NAME …`), so that its peak memory is its
own. "All in" is from changed rows in hand to the commit: keys looked up, before-images fetched, files and log written.
"""

import ctypes
import gc
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from deltalake import DeltaTable, QueryBuilder

from operators.keys.key_index import KeyIndex
from storage.delta.compaction import compact
from storage.delta.maintenance import Maintenance
from storage.delta.merge_writer import MergeWriter, RowChanges
from storage.delta.owned_table import Commit, OwnedTable
from storage.delta.row_locator import RowLocator
from storage.delta.table_declaration import Declaration
from tests.readers import DuckDB

_BATCH = 10_000
_FILL = 4_000_000
_TIMES = 30
_PAUSE = 0.05  # seconds between two merges, as in a stream
_NONE = np.empty(0, np.int64)


def run(*, quick: bool = False) -> None:
    """Print the tables of the merge writer."""
    scale = 10 if quick else 1
    print(f"\nMerge of {_BATCH:,} random keys, change feed on, median of {_TIMES} (all in; the commit's part)\n")
    for rows in (1_000_000, 10_000_000, 50_000_000):
        _child("keys", rows // scale)
    print("\nIndex of keys alone\n")
    _child("index", 5_000_000 // scale)
    print("\nMaintenance: a compacted file is written beside the owner, who puts it in place between two merges\n")
    _child("compaction", 4_000_000 // scale)
    print("\nTable under 1,000 merges of 1,000 random keys, paced as a stage does, 1,000,000 rows, maintenance on\n")
    _child("scan", 1_000 // scale)
    print("\nCommits of 100 random keys, 100,000 rows, maintenance on\n")
    _child("commits", 10_000 // scale)
    print("\n1 % of a table of 16 columns merged at once, without a change feed\n")
    _child("wide", 60_000_000 // scale)


class Orders:
    """A table of orders by number, with what keeps it."""

    def __init__(self, uri: str, columns: int = 6, *, change_feed: bool = True) -> None:
        self._columns, self._change_feed = columns, change_feed
        self._chance = np.random.default_rng(1)
        schema = self.rows(np.arange(0)).to_arrow(compat_level=pl.CompatLevel.oldest()).schema
        self.table = OwnedTable(uri, Declaration(schema, "bench", "", change_feed=change_feed, vectors=True))
        self.index, self.locator = KeyIndex(["order_id"]), RowLocator(self.table)
        self.writer = MergeWriter(self.table, self.locator)
        self.maintenance = Maintenance(self.table, self.locator, timedelta(hours=1))

    def rows(self, order_ids: np.ndarray[tuple[int], np.dtype[np.int64]]) -> pl.DataFrame:
        """Return rows of these orders."""
        size, chance = len(order_ids), self._chance
        base = pl.DataFrame(
            {
                "order_id": order_ids,
                "customer": chance.integers(0, 50_000, size),
                "country": pl.Series(["DE", "FR", "JP", "BR", "US"]).gather(chance.integers(0, 5, size)),
                "status": pl.Series(["new", "paid", "shipped", "returned"]).gather(chance.integers(0, 4, size)),
                "amount": pl.Series(chance.integers(100, 100_000, size)).cast(pl.Decimal(12, 2)),
                "placed_at": pl.Series(chance.integers(0, 10**12, size)).cast(pl.Datetime("us", "UTC")),
            }
        )
        more = [pl.Series(f"c{number}", chance.integers(0, 10**6, size)) for number in range(6, self._columns)]
        return base.with_columns(more)

    def fill(self, count: int) -> None:
        """Append orders 0 to `count`."""
        for start in range(0, count, _FILL):
            self.table.append(self.rows(np.arange(start, min(start + _FILL, count))), Commit({}))

    def load(self) -> None:
        """Build the index."""
        self.locator.load(self.index.admit, ["order_id"])

    def merge(self, rows: pl.DataFrame) -> tuple[float, float]:
        """Replace the rows of known orders; return the seconds of all of it, and of the merge alone."""
        began = time.perf_counter()
        slots = self.index.admit(rows)
        before = self.locator.rows(slots) if self._change_feed else rows.clear()
        changes = RowChanges(rows.clear(), _NONE, before, rows, slots, rows.clear(), _NONE)
        done = self.writer.merge(changes, Commit({"bench": 1}))
        return time.perf_counter() - began, done.seconds

    def some(self, count: int, size: int) -> pl.DataFrame:
        """Return new rows of `size` random orders of `count`."""
        return self.rows(np.unique(self._chance.integers(0, count, size)))


def keys(uri: str, count: int) -> None:
    """Measure the index and merges of random keys, and deltalake's MERGE of as many into the same rows."""
    orders = Orders(uri)
    orders.fill(count)
    before = _resident()
    began = time.perf_counter()
    orders.load()
    loaded = time.perf_counter() - began
    per_key = (_resident() - before) / count
    for _ in range(3):  # decodes every file once
        orders.merge(orders.some(count, _BATCH))
    times = []
    for _ in range(_TIMES):
        rows = orders.some(count, _BATCH)
        time.sleep(_PAUSE)
        times.append(orders.merge(rows))
        orders.maintenance.tick()
    whole, merge = (statistics.median(part) * 1e3 for part in zip(*times, strict=True))
    theirs = _theirs(uri, orders, count)
    print(
        f"  {count:>10,} rows {whole:>8.1f} ms ({merge:.1f} ms)   deltalake MERGE {theirs * 1e3:>8,.0f} ms "
        f"({theirs * 1e3 / whole:,.0f}x)   index: {loaded:.1f} s, {per_key:.0f} bytes a key"
    )


def index(_uri: str, count: int) -> None:
    """Measure the memory of an index of keys of several types, without the place of each row (12 bytes a key)."""
    numbers = np.arange(count)
    kinds = {
        "int64": pl.DataFrame({"key": numbers}),
        "text of 10": pl.DataFrame({"key": pl.Series(numbers + 10**9).cast(pl.String)}),
        "text of 36 (UUID)": pl.DataFrame({"key": [str(uuid.UUID(int=number << 64)) for number in range(count)]}),
        "text of 3 and int64": pl.DataFrame({"key": numbers, "country": pl.Series(["DEU"]).new_from_index(0, count)}),
    }
    kept = []  # so that memory of one is not taken for free by the next
    for name, keys in kinds.items():
        found, before = KeyIndex(keys.columns), _resident()
        kept.append(found)
        for part in keys.iter_slices(500_000):
            found.admit(part)
        size = (_resident() - before) / count
        looked_up = _median(partial(found.admit, keys.sample(_BATCH, seed=1)))
        print(f"  {name:<20} {size:>4.0f} bytes a key; {_BATCH:,} looked up in {looked_up:.1f} ms")


def compaction(uri: str, count: int) -> None:
    """Measure how long merges wait for the compaction of a file as large as there are, of which a fifth is gone."""
    orders = Orders(uri)
    orders.fill(count)
    orders.load()
    (largest,) = orders.table.data_files
    orders.merge(orders.some(count, count // 4))
    began = time.perf_counter()
    compacted = compact(orders.table.files, [orders.table.snapshot().files[largest.path]], orders.locator.read)
    beside = time.perf_counter() - began
    for _ in range(20):
        orders.merge(orders.some(count, _BATCH))
    began = time.perf_counter()
    orders.locator.move(compacted)
    waited = (time.perf_counter() - began) * 1e3
    print(f"  {compacted.rows.height:,} rows written beside in {beside:.1f} s, put in place in {waited:.0f} ms")


def scan(uri: str, merges: int) -> None:
    """Compare reading a table that takes merges, as a stage paces them, with reading a copy written at once."""
    count = 1_000_000
    orders = Orders(uri)
    orders.fill(count)
    orders.load()
    for _ in range(merges):
        took, _ = orders.merge(orders.some(count, 1_000))
        orders.maintenance.tick()
        time.sleep(3 * took)
    copy = f"{uri}-copy"
    pl.read_delta(uri).write_delta(copy)
    print(f"  {len(orders.table.data_files)} data files")
    for name, read in _reads().items():
        used, fresh = _paired(partial(read, uri), partial(read, copy))
        print(f"  {name:<32} {used * 1e3:>6.1f} ms, {fresh * 1e3:>6.1f} ms a fresh copy: {used / fresh:.2f}x")


def commits(uri: str, count: int) -> None:
    """Measure the latency of commits, and memory, as they go on."""
    rows = 100_000
    orders = Orders(uri)
    orders.fill(rows)
    orders.load()
    step = count // 5
    for end in range(step, count + 1, step):
        times, waits = [], []
        for _ in range(step):
            times.append(orders.merge(orders.some(rows, 100))[0] * 1e3)
            began = time.perf_counter()
            orders.maintenance.tick()
            waits.append((time.perf_counter() - began) * 1e3)
        print(
            f"  {end:>7,} commits   p50 {statistics.median(times):.1f} ms, p99 {np.quantile(times, 0.99):.1f} ms; "
            f"wait for maintenance at most {max(waits):.1f} ms; {_resident() / 1e6:,.0f} MB"
        )


def wide(uri: str, count: int) -> None:
    """Merge 1 % of a table of 16 columns at once: time and peak memory of a process that only opens and merges."""
    Orders(uri, 16, change_feed=False).fill(count)
    print(_run("wide_merge", uri, count), end="")


def wide_merge(uri: str, count: int) -> None:
    """Open a table of 16 columns and merge 1 % of it."""
    began = time.perf_counter()
    orders = Orders(uri, 16, change_feed=False)
    orders.load()
    loaded = time.perf_counter() - began
    rows = orders.some(count, count // 100)
    whole, _ = orders.merge(rows)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"  {rows.height:,} upserts into {count:,} rows: {whole:.1f} s, and {loaded:.1f} s to open; peak {peak:.1f} GB"
    )


def _theirs(uri: str, orders: Orders, count: int) -> float:
    """Return the seconds of deltalake's MERGE of random keys into a copy of the table."""
    copy = f"{uri}-theirs"
    pl.scan_delta(uri).sink_delta(copy, delta_write_options={"configuration": {"delta.enableChangeDataFeed": "true"}})
    times = []
    for _ in range(1 if count > _FILL else 3):
        rows = orders.some(count, _BATCH)
        began = time.perf_counter()
        merging = DeltaTable(copy).merge(rows, "t.order_id = s.order_id", source_alias="s", target_alias="t")
        merging.when_matched_update_all().when_not_matched_insert_all().execute()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _reads() -> dict[str, Callable[[str], object]]:
    """Return ways to read a table: all of it, and three columns as an aggregate."""
    duck = DuckDB.connect()

    def polars(uri: str) -> object:
        sums = [pl.col("customer").sum(), pl.col("amount").sum(), pl.col("status").max()]
        return pl.scan_delta(uri).select(sums).collect()

    def datafusion(uri: str) -> object:
        query = "select sum(customer), sum(amount), max(status) from t"
        return QueryBuilder().register("t", DeltaTable(uri)).execute(query).read_all()

    def duckdb(uri: str) -> object:
        return duck.execute("select sum(customer), sum(amount), max(status) from delta_scan(?)", [uri]).fetchall()

    return {
        "polars, whole table": pl.read_delta,
        "polars, three columns": polars,
        "DuckDB, three columns": duckdb,
        "DataFusion, three columns": datafusion,
    }


def _paired(one: Callable[[], object], other: Callable[[], object]) -> tuple[float, float]:
    """Return the median seconds of two things done in turn."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(11):
        for what, found in zip((one, other), times, strict=True):
            began = time.perf_counter()
            what()
            found.append(time.perf_counter() - began)
    return statistics.median(times[0]), statistics.median(times[1])


def _median(what: Callable[[], object]) -> float:
    """Return the median milliseconds of something done several times."""
    times = []
    for _ in range(_TIMES):
        began = time.perf_counter()
        what()
        times.append((time.perf_counter() - began) * 1e3)
    return statistics.median(times)


def _resident() -> int:
    """Return the bytes of memory in use, without what allocators keep for later."""
    gc.collect()
    pa.default_memory_pool().release_unused()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _child(name: str, size: int) -> None:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        print(_run(name, f"{directory}/orders", size), end="", flush=True)


def _run(name: str, uri: str, size: int) -> str:
    command = [sys.executable, "-m", "benchmarks.merges", name, uri, str(size)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def _parts() -> Iterator[Callable[[str, int], None]]:
    yield from (keys, index, compaction, scan, commits, wide, wide_merge)


if __name__ == "__main__":
    {part.__name__: part for part in _parts()}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
