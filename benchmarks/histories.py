"""SCD2: batches of changes merged into a history of many rows, from decoded events in hand to the commit.

Measured in a process of its own: `python -m benchmarks.histories ROWS`.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from flows import EventLog, Silver
from flows.lake import Lake
from flows.stages.merged import Merged
from flows.stages.row_changes import row_changes
from flows.stages.silver_state import SilverState
from flows.stages.tables import silver_table
from storage.delta.maintenance import Maintenance
from storage.delta.merge_writer import MergeWriter
from storage.delta.owned_table import Commit, OwnedTable
from storage.delta.row_locator import RowLocator

_VERSIONS = 10
_BATCH = 10_000
_FILL = 500_000  # keys
_WARM_UP, _TIMES = 8, 30
_PAUSE = 0.05  # seconds between two merges, as in a stream

ORDERS = Silver(
    "orders",
    source=EventLog("orders"),
    schema={"order_id": "int64", "country": "string", "status": "string", "amount": "int64"},
    keys=["order_id"],
    history="scd2",
)


def run(*, quick: bool = False) -> None:
    """Print the table."""
    print(f"\nSCD2 merge of {_BATCH:,} random keys, change feed on, median of {_TIMES}\n")
    for rows in (1_000_000, 10_000_000):
        subprocess.run([sys.executable, "-m", "benchmarks.histories", str(rows // (10 if quick else 1))], check=True)


class _History:
    """A table of orders, each with ten versions, and what keeps it."""

    def __init__(self, directory: str, keys: int) -> None:
        self._keys, self._chance, self._next = keys, np.random.default_rng(1), _VERSIONS * keys
        lake = Lake(directory)
        self._table = OwnedTable(lake.silver("orders"), silver_table(ORDERS, "bench"))
        for start in range(0, keys, _FILL):
            self._table.append(self._versions(np.arange(start, min(start + _FILL, keys))), Commit({}))
        locator = RowLocator(self._table)
        began = time.perf_counter()
        merged = Merged(ORDERS, lake, "bench", {})
        self._state = SilverState(ORDERS, lake, "bench", locator, merged)
        self._writer = MergeWriter(self._table, locator)
        self._maintenance = Maintenance(self._table, locator, lake.retention)
        self.loaded = time.perf_counter() - began

    def merge(self, late: float) -> tuple[float, float]:
        """Merge events of random keys; return the seconds of all of it, and of the commit alone."""
        events = self._events(late)
        began = time.perf_counter()
        plan = self._state.plan(events)
        self._state.remember(plan, {})
        done = self._writer.merge(row_changes(plan.changes), Commit({"bench": 1}))
        self._state.apply(plan)
        took = time.perf_counter() - began
        self._maintenance.tick()
        return took, done.seconds

    def _versions(self, keys: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> pl.DataFrame:
        order_id, version = np.repeat(keys, _VERSIONS), np.tile(np.arange(_VERSIONS), len(keys))
        start = version * self._keys + order_id
        rows = self._values(order_id).with_columns(
            valid_from=pl.Series(start),
            valid_to=pl.when(pl.Series(version < _VERSIONS - 1)).then(pl.Series(start + self._keys)),
            is_current=pl.Series(version == _VERSIONS - 1),
            _sequence=pl.Series(start),
            _row_hash=pl.lit(0, pl.Int64),
            _topic=pl.lit("orders"),
            _partition=pl.lit(0, pl.Int32),
            _offset=pl.Series(start),
            _changed_at=pl.lit(None, pl.Datetime("us", "UTC")),
        )
        return rows.select(ORDERS.row_schema.names())

    def _values(self, order_id: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> pl.DataFrame:
        size, chance = len(order_id), self._chance
        return pl.DataFrame(
            {
                "order_id": order_id,
                "country": pl.Series(["DE", "FR", "JP", "BR", "US"]).gather(chance.integers(0, 5, size)),
                "status": pl.Series(["new", "paid", "shipped", "returned"]).gather(chance.integers(0, 4, size)),
                "amount": chance.integers(0, 10**9, size),
            }
        )

    def _events(self, late: float) -> pl.DataFrame:
        at = np.arange(self._next, self._next + _BATCH)
        self._next += _BATCH
        sequence = np.where(
            self._chance.random(_BATCH) < late, self._chance.integers(0, _VERSIONS * self._keys, _BATCH), at
        )
        return self._values(self._chance.integers(0, self._keys, _BATCH)).with_columns(
            _op=pl.lit("upsert"),
            _sequence=pl.Series(sequence),
            _topic=pl.lit("orders"),
            _partition=pl.lit(0, pl.Int32),
            _offset=pl.Series(at),
            _changed_at=pl.lit(None, pl.Datetime("us", "UTC")),
            _unavailable=pl.lit(None, pl.List(pl.String)),
        )


def _measured(rows: int) -> None:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        history = _History(str(Path(directory)), rows // _VERSIONS)
        told = [f"  {rows:>10,} rows, opened in {history.loaded:.1f} s:"]
        for late in (0.0, 0.05):
            times = []
            for number in range(_WARM_UP + _TIMES):
                time.sleep(_PAUSE)
                times += [history.merge(late)] if number >= _WARM_UP else [history.merge(late)][:0]
            whole, merge = (statistics.median(part) * 1e3 for part in zip(*times, strict=True))
            told.append(f"{late:.0%} late {whole:.1f} ms (the commit {merge:.1f} ms)")
        print(*told, flush=True)


if __name__ == "__main__":
    _measured(int(sys.argv[1]))
