"""Making a Silver table anew from staging, by the declaration as it is now; the old rows stay readable until then.

1. *Clear* what attempts that did not end, and earlier rebuilds, left behind.
2. *Staging* is brought to the keys and the sequence that are declared now, where they changed (`flows.restaging`).
3. *Derive.* A shadow of the table is made from all that is staged, by the same stage that keeps Silver. What no row of
   a history shows goes beside it, under a name of its own.
4. *Copy* the rows of the shadow to data files of the table, which nobody sees yet.
5. *Swap.* One commit puts these rows, their columns, definition and positions, and the name of the table beside them,
   in the place of what was (`storage.table_swap`). Older versions stay readable; a pipeline that still runs by the old
   declaration is fenced. The table has a new id, by which Gold tables see that they must be made anew.
6. *Clear* the shadow.

A run that ends before 5 leaves the Silver table as it was; after 2, staging is for the new declaration already, and the
pipeline refuses to run until the next attempt, which starts over, is through. What comes to staging after 3 looked, the
pipeline merges when it runs next.
"""

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from flows.event_batch import QUARANTINE, EventBatch, staging_schema
from flows.in_flight import Progress
from flows.lake import SHADOW, SIDE, SIDE_PROPERTY, Lake
from flows.restaging import restage
from flows.silver import Silver
from flows.silver_stage import SilverStage
from flows.stage import advance
from flows.tables import silver_table
from storage.ledger import REBUILT, Ledgers
from storage.owned_table import Commit, read_positions
from storage.positions import Range
from storage.staging import staged_ranges
from storage.table import Edit, Table
from storage.table_declaration import check_pipeline, read_snapshot
from storage.table_removal import remove_table, tables_at
from storage.table_swap import Swap, live_parts, swap

_STEP = 1_000_000  # offsets of a partition between two words about how far it is

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A Silver table was made anew: the version that has the new rows, and how many they are."""

    version: int
    rows: int


@dataclass(frozen=True, slots=True)
class _Shadow(Lake):
    """The lake in which a Silver table, and the one beside it, have other places until they are done."""

    side_name: str = ""

    def silver(self, name: str) -> str:
        return f"{self.root}/silver/{name}{SHADOW}"

    def side(self, silver: str) -> str:  # noqa: ARG002 - a lake has one for each
        return f"{self.root}/silver/{self.side_name}"


def rebuild(silver: Silver, lake: Lake, pipeline: str, tell: Tell) -> Rebuilt | None:
    """Make a Silver table anew; None when there is none, and staging is ready for the pipeline to make it.

    `tell` gets a line now and then. Raises CannotRebuildError, StorageError; then call it again.
    """
    real = lake.silver(silver.name)
    snapshot = read_snapshot(real)
    if snapshot:
        check_pipeline(real, snapshot, silver_table(silver, pipeline))
    _clear(silver, lake)
    restage(silver, lake, pipeline)
    if snapshot is None:
        return None
    shadow = _Shadow(lake.root, side_name=f"{silver.name}{SIDE}_{uuid.uuid4().hex[:8]}")
    commit = _derive(silver, shadow, pipeline, tell)
    rebuilt = _swap(silver, lake, pipeline, shadow, commit)
    remove_table(shadow.silver(silver.name))
    return rebuilt


def _clear(silver: Silver, lake: Lake) -> None:
    """Remove the shadow, and the tables beside the Silver table that it does not use."""
    used = lake.side(silver.name) if read_snapshot(lake.silver(silver.name)) else ""
    sides = [lake.silver(name) for name in tables_at(f"{lake.root}/silver") if _is_side(name, silver.name)]
    for uri in [lake.silver(f"{silver.name}{SHADOW}"), *sides]:
        if uri != used:
            remove_table(uri)


def _is_side(name: str, silver: str) -> bool:
    return name == f"{silver}{SIDE}" or name.startswith(f"{silver}{SIDE}_")


def _derive(silver: Silver, shadow: Lake, pipeline: str, tell: Tell) -> Commit:
    """Merge all that is staged into the shadow, and return what its commits come to, for the swap to say."""
    uri, staging = shadow.silver(silver.name), shadow.staging(silver.name)
    ranges = staged_ranges(staging, pipeline, silver.source.topic)
    names = [each.partition_id for each in ranges]
    stage = SilverStage(silver, shadow, pipeline, names, Progress(dict))
    ledgers, reached = Ledgers(uri), {each.partition_id: each.start for each in ranges}
    while ranges:
        for mark in _marks(silver, ranges, reached):
            stage.advance([mark])
            ledgers.follow()
            reached[mark.range.partition_id] = mark.end
            tell(f"{mark.range.partition_id}: merged up to {mark.end:,}")
        ranges = [
            each
            for each in staged_ranges(staging, pipeline, silver.source.topic)
            if each.end - reached.get(each.partition_id, each.end) >= _STEP
        ]
    stage.close()
    return Commit(read_positions(uri, pipeline, names), {REBUILT: True, **ledgers.total()})


def _marks(silver: Silver, ranges: Sequence[Range], reached: dict[str, int]) -> Iterator[EventBatch]:
    """Yield empty batches, each of which makes a stage catch up from staging to where it is."""
    events, rejects = pl.DataFrame(schema=staging_schema(silver.schema)), pl.DataFrame(schema=QUARANTINE)
    for each in ranges:
        topic, _, partition = each.partition_id.rpartition("/")
        for end in [*range(reached[each.partition_id] + _STEP, each.end, _STEP), each.end]:
            yield EventBatch(topic, int(partition), end, end, events, rejects)


def _swap(silver: Silver, lake: Lake, pipeline: str, shadow: _Shadow, commit: Commit) -> Rebuilt:
    real, derived = Table(lake.silver(silver.name)), Table(shadow.silver(silver.name))
    files = [file for rows in live_parts(derived) for file in real.files.write(rows)]
    new = Swap(
        silver_table(silver, pipeline),
        lambda table: Edit("REBUILD", files, table.data_files),
        commit,
        {SIDE_PROPERTY: shadow.side_name},
    )
    version = advance(lambda: swap(real.uri, new), lambda: None)
    return Rebuilt(version, sum(file.rows for file in files))
