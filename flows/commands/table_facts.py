"""What a Delta table says about itself: version, rows, and what the ledgers of its commits add up to."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError
from polars.exceptions import PolarsError

from flows.lake import SIDE, Lake
from flows.pipeline import Pipeline
from flows.reading.snapshot_step import REFUSED, TAKEN, snapshot_partition
from flows.snapshots import Snapshots
from storage.delta.ledger import REBUILT
from storage.delta.owned_table import LEDGER
from storage.delta.table_declaration import read_snapshot
from storage.errors import UnreadableTableError
from storage.object_store import reason
from storage.staged_state import read_fates

COUNTS = ("read", "applied", "no_op", "superseded", "duplicate", "ambiguous", "quarantined", "dropped")


@dataclass(frozen=True, slots=True)
class TablePlace:
    """One table of a pipeline and where it is; `snapshots` are those that a staging table holds the events of."""

    layer: str
    name: str
    uri: str
    snapshots: Snapshots | None = None


@dataclass(frozen=True, slots=True)
class TableFacts:
    """One table as it is: `totals` add up the counts of the ledgers still in its log, from the last rebuild on.

    `positions` are its own. They map a partition to the next offset to read, or for Gold a Silver table to the version
    shown; `unmet` an expectation to how many records did not meet it. A record that is sent in again is read again.
    `taken` says which full snapshots were taken in.
    """

    place: TablePlace
    version: int
    rows: int
    totals: dict[str, int]
    positions: dict[str, int]
    unmet: dict[str, int]
    taken: str = ""


def table_places(pipeline: Pipeline, lake: Lake) -> Iterator[TablePlace]:
    """Yield the tables of a pipeline, layer by layer."""
    for silver in pipeline.silvers:
        yield TablePlace("staging", silver.name, lake.staging(silver.name), silver.snapshots)
        yield TablePlace("quarantine", silver.name, lake.quarantine(silver.name))
        yield TablePlace("silver", silver.name, lake.silver(silver.name))
        yield TablePlace("silver", f"{silver.name}{SIDE}", lake.side(silver.name))
        yield TablePlace("ambiguous", silver.name, lake.ambiguous(silver.name))
    for kpi in pipeline.kpis:
        yield TablePlace("gold", kpi.name, lake.gold(kpi.name))


def table_version(uri: str) -> int:
    """Return the version of a table, -1 where there is none. Raises UnreadableTableError, UnsupportedTableError."""
    snapshot = read_snapshot(uri)
    return snapshot.version if snapshot else -1


def merged_version(uri: str) -> int:
    """Return the version of the newest commit of rows by an owner, -1 where there is none; maintenance counts not."""
    if table_version(uri) < 0:
        return -1
    return next((int(entry["version"]) for entry in DeltaTable(uri).history() if LEDGER in entry), -1)


def table_facts(place: TablePlace) -> TableFacts | None:
    """Read the facts of a table, None where there is none. Raises UnreadableTableError."""
    try:
        return _facts(place, DeltaTable(place.uri))
    except TableNotFoundError:
        return None
    except (DeltaError, PolarsError) as error:
        raise UnreadableTableError(
            f"{place.uri}: the Delta table cannot be read: {reason(error)}. Restore it, or move it away"
        ) from error


def _facts(place: TablePlace, table: DeltaTable) -> TableFacts:
    rows = int(pl.scan_delta(table).select(pl.len()).collect().item())
    totals: Counter[str] = Counter()
    unmet: Counter[str] = Counter()
    positions: dict[str, int] = {}
    for entry in reversed(table.history()):
        ledger = json.loads(entry.get(LEDGER, "{}"))
        if ledger.get(REBUILT):
            totals.clear()
        totals.update({name: ledger[name] for name in COUNTS if name in ledger})
        unmet.update(ledger.get("unmet", {}))
        positions |= {name: end for name, (_, end) in ledger.get("ranges", {}).items()}
        if "silver" in ledger:
            positions[ledger["silver"]] = ledger["version"]
    return TableFacts(place, table.version(), rows, dict(totals), positions, dict(unmet), _taken(place))


def _taken(place: TablePlace) -> str:
    """Return how many snapshots a staging table holds the events of, and the newest version."""
    if place.snapshots is None:
        return ""
    fates = read_fates(place.uri, snapshot_partition(place.snapshots.topic), [TAKEN, REFUSED])
    taken = {*fates.filter(pl.col("_op") == TAKEN)["_sequence"]}
    refused = len({*fates["_sequence"]} - taken)
    newest = f", the newest {place.snapshots.shown(max(taken))}" if taken else ""
    return f"snapshots of {place.snapshots.path}: {len(taken)} taken in{newest}; {refused} refused"
