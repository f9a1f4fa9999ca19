"""Making a Silver table anew from staging, by the declaration as it is now; the old rows stay readable until then.

1. *Clear* what attempts that did not end, and earlier rebuilds, left behind.
2. *Staging* is brought to the keys and the sequence that are declared now, where they changed (`restaging`).
3. *Derive.* A shadow of the table is made from all that is staged, by the same stage that keeps Silver. What no row
   shows goes beside it, under a name of its own.
4. *List* the ambiguous pairs that the shadow met in the place of those that are listed, in one commit; before 5, as
   pairs are before any commit they come from.
5. *Swap.* The rows of the shadow are copied to data files of the table, which nobody sees yet. One commit puts these
   rows, their columns, definition and positions, and the name of the table beside them, in the place of what was
   (`storage.delta.table_swap`). Older versions stay readable; a pipeline that runs by the old declaration is fenced.
   The table has a new id, by which Gold tables see that they must be made anew.
6. *Clear* the shadow.

A run that ends before 5 leaves the Silver table as it was; after 2, staging is for the new declaration already, and the
pipeline refuses to run until the next attempt, which starts over, is through. What comes to staging after 3 looked, the
pipeline merges when it runs next.
"""

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from flows.commands.restaging import CannotRebuildError, restage
from flows.event_batch import QUARANTINE, EventBatch
from flows.lake import SHADOW, SIDE, SIDE_PROPERTY, Lake
from flows.reading.in_flight import Progress
from flows.silver import Silver
from flows.stages.learned import as_learned
from flows.stages.silver_stage import SilverStage
from flows.stages.stage import advance
from flows.stages.tables import ambiguous_table, side_table, silver_table
from operators.decoding.avro_reader import Schemas
from operators.decoding.readers import unknown
from storage.delta.ledger import REBUILT, Ledgers
from storage.delta.owned_table import Commit, OwnedTable, read_positions, topic_positions
from storage.delta.positions import Range
from storage.delta.table import Edit, Table
from storage.delta.table_declaration import Declaration, check_pipeline, is_current, read_snapshot
from storage.delta.table_removal import remove_table, tables_at
from storage.delta.table_swap import Swap, live_parts, swap
from storage.errors import HoleError
from storage.staging import retry_topic, staged_ranges

_STEP = 1_000_000  # offsets of a partition between two words about how far it is

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A Silver table was made anew: the version that has the new rows, and how many they are."""

    version: int
    rows: int


@dataclass(frozen=True, slots=True)
class _Shadow(Lake):
    """The lake in which a Silver table, and the one beside it, have places that only one rebuild knows."""

    token: str = field(default_factory=lambda: uuid.uuid4().hex[:8])

    def silver(self, name: str) -> str:
        return f"{self.root}/silver/{name}{SHADOW}_{self.token}"

    def side(self, silver: str) -> str:
        return f"{self.root}/silver/{self.side_name(silver)}"

    def ambiguous(self, silver: str) -> str:
        return f"{self.root}/ambiguous/{silver}{SHADOW}_{self.token}"

    def side_name(self, silver: str) -> str:
        return f"{silver}{SIDE}_{self.token}"


def rebuild(silver: Silver, lake: Lake, pipeline: str, tell: Tell, schemas: Schemas = unknown) -> Rebuilt | None:
    """Make a Silver table anew; None when there is none, and staging is ready for the pipeline to make it.

    `tell` gets a line now and then; `schemas` gives the Avro schemas of ids. Raises CannotRebuildError, StorageError;
    then call it again. Of two at a time, the one that began first stops with an error.
    """
    silver = as_learned(silver, lake)
    is_there = _check(silver, lake, pipeline)
    _clear(silver, lake, pipeline, is_there=is_there)
    restage(silver, lake, pipeline, schemas)
    if not is_there:
        return None
    shadow = _Shadow(lake.root)
    commit = _derive(silver, shadow, pipeline, tell)
    silver = as_learned(silver, lake)  # a pipeline that runs may have learned more meanwhile
    rebuilt = _swap(silver, lake, pipeline, shadow, commit)
    remove_table(shadow.silver(silver.name))
    remove_table(shadow.ambiguous(silver.name))
    return rebuilt


def _check(silver: Silver, lake: Lake, pipeline: str) -> bool:
    """Tell whether the Silver table is there. Raises TableMismatchError and HoleError where it is not staging's."""
    real, staging = lake.silver(silver.name), lake.staging(silver.name)
    snapshot = read_snapshot(real)
    if snapshot is None:
        return False
    check_pipeline(real, snapshot, silver_table(silver, pipeline))
    staged, held = (
        {name: end for topic in _topics(silver) for name, end in topic_positions(uri, pipeline, topic).items()}
        for uri in (staging, real)
    )
    for name, reached in held.items():
        if read_snapshot(staging) and staged.get(name, 0) < reached:
            raise HoleError(
                f"{staging}: holds {name} up to {staged.get(name, 0)}, while silver/{silver.name} has read it up to "
                f"{reached}: rows would be lost. Restore the staging table first"
            )
    return True


def _topics(silver: Silver) -> list[str]:
    """Return what staging was read from: topic and snapshots, and the records that were sent in again."""
    initial = [silver.initial.topic] if silver.initial else []
    return [silver.source.topic, *initial, retry_topic(silver.name)]


def _clear(silver: Silver, lake: Lake, pipeline: str, *, is_there: bool) -> None:
    """Remove shadows, and tables beside the Silver table that nobody uses."""
    names = tables_at(f"{lake.root}/silver")
    shadows = [lake.silver(name) for name in names if name.startswith(f"{silver.name}{SHADOW}_")]
    listed = tables_at(f"{lake.root}/ambiguous")
    shadows += [lake.ambiguous(name) for name in listed if name.startswith(f"{silver.name}{SHADOW}_")]
    sides = [lake.silver(name) for name in names if f"{name}_".startswith(f"{silver.name}{SIDE}_")]
    used = lake.side(silver.name)
    if is_there:
        unused = [uri for uri in sides if uri != used]
    else:  # a Silver table that was put aside may come back; what it left must only not be in the way
        found = read_snapshot(used)
        unused = [used] if found and not is_current(found, side_table(silver, pipeline)) else []
    for uri in [*shadows, *unused]:
        remove_table(uri)


def _derive(silver: Silver, shadow: Lake, pipeline: str, tell: Tell) -> Commit:
    """Merge all that is staged into the shadow, and return what its commits come to, for the swap to say."""
    uri, staging = shadow.silver(silver.name), shadow.staging(silver.name)
    ranges = staged_ranges(staging, pipeline, *_topics(silver))
    names = [each.partition_id for each in ranges]
    stage = SilverStage(silver, shadow, pipeline, Progress(dict))
    ledgers, reached = Ledgers(uri), {each.partition_id: each.start for each in ranges}
    while ranges:
        for mark in _marks(silver, ranges, reached):
            stage.advance([mark])
            ledgers.follow()
            reached[mark.range.partition_id] = mark.end
            tell(f"{mark.range.partition_id}: merged up to {mark.end:,}")
        ranges = [
            each
            for each in staged_ranges(staging, pipeline, *_topics(silver))
            if each.end - reached.get(each.partition_id, each.end) >= _STEP
        ]
    stage.close()
    return Commit(read_positions(uri, pipeline, names), {REBUILT: True, **ledgers.total()})


def _marks(silver: Silver, ranges: Sequence[Range], reached: dict[str, int]) -> Iterator[EventBatch]:
    """Yield empty batches, each of which makes a stage catch up from staging to where it is."""
    events, rejects = pl.DataFrame(schema=silver.staged_schema), pl.DataFrame(schema=QUARANTINE)
    for each in ranges:
        topic, _, partition = each.partition_id.rpartition("/")
        for end in [*range(reached[each.partition_id] + _STEP, each.end, _STEP), each.end]:
            yield EventBatch(topic, int(partition), end, end, events, rejects)


def _swap(silver: Silver, lake: Lake, pipeline: str, shadow: _Shadow, commit: Commit) -> Rebuilt:
    name, derived = silver.name, shadow.silver(silver.name)
    if read_snapshot(derived) is None:
        raise CannotRebuildError(f"{derived}: is gone, as another rebuild of the table has begun since; this one stops")
    pairs, listed = ambiguous_table(silver, pipeline), lake.ambiguous(name)
    if read_snapshot(listed) is None:
        OwnedTable(listed, pairs)
    _replace(listed, shadow.ambiguous(name), pairs, Commit({}))
    properties = {SIDE_PROPERTY: shadow.side_name(name)}
    return _replace(lake.silver(name), derived, silver_table(silver, pipeline), commit, properties)


def _replace(
    uri: str, derived: str, declaration: Declaration, commit: Commit, properties: Mapping[str, str] | None = None
) -> Rebuilt:
    """Put the rows of another table in the place of those of a table."""
    real = Table(uri)
    files = [file for rows in live_parts(Table(derived)) for file in real.files.write(rows)]
    new = Swap(declaration, lambda table: Edit("REBUILD", files, table.data_files), commit, properties or {})
    version = advance(lambda: swap(uri, new), lambda: None)
    return Rebuilt(version, sum(file.rows for file in files))
