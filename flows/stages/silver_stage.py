"""The stage that keeps a Silver table: changes detected with keyed state, merged in one commit with the positions."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import polars as pl

from flows.event_batch import QUARANTINE, EventBatch, joined_ranges
from flows.lake import Lake
from flows.metrics import count_fates
from flows.reading.in_flight import Progress
from flows.silver import Silver
from flows.stages.ambiguous_pairs import AmbiguousPairs
from flows.stages.learned import as_learned
from flows.stages.merged import Merged
from flows.stages.row_changes import row_changes
from flows.stages.settling import in_columns
from flows.stages.silver_state import Plan, SilverState
from flows.stages.stage import advance
from flows.stages.tables import silver_table
from flows.ties import Ties
from operators.eager import rows_where
from operators.keys.changes import Changes
from operators.keys.held_rows import Flags
from operators.silver.outcomes import Counts
from storage.delta.maintenance import Maintenance
from storage.delta.merge_writer import MergeResult, MergeWriter
from storage.delta.owned_table import Commit, OwnedTable, read_positions
from storage.delta.positions import Range, take_from
from storage.delta.row_locator import RowLocator
from storage.staging import first_staged, read_range

_DONE = ("quarantined", "dropped")


@dataclass(frozen=True, slots=True)
class Handover:
    """What took a Silver table from one version to another: the images of the rows that changed.

    The versions are equal, and the images empty, when the stage only says where its table stands.
    """

    table: str
    from_version: int
    version: int
    before: pl.DataFrame
    after: pl.DataFrame


class SilverStage:
    """Merges staged events into one Silver table.

    The state, keys, sequences and tombstones, is read from Silver and staging when the table is opened, and is in step
    with `version` at all times: a plan is applied to it only when its commit is known to have happened.
    """

    def __init__(self, silver: Silver, lake: Lake, pipeline: str, progress: Progress) -> None:
        self._silver, self._lake, self._pipeline, self._progress = silver, lake, pipeline, progress
        self._open()

    def advance(self, batches: Sequence[EventBatch]) -> list[Handover]:
        """Merge what is new of `batches`, after what only staging holds of the records before them.

        Only the last commit is handed over with its images; a later stage reads the others from the change feed.
        """
        for missing in self._missing(batches):
            self._merged([missing])
        done = self._merged(batches)
        for batch in batches:
            self._progress.settle(batch.range)
        return [done]

    def close(self) -> None:
        """Leave the tables alone from now on."""
        self._maintenance.close()
        self._state.close()
        self._pairs.close()

    def _open(self) -> None:
        uri = self._lake.silver(self._silver.name)
        self._silver = as_learned(self._silver, self._lake)
        self._staged = self._silver.staged_schema
        self._table = OwnedTable(uri, silver_table(self._silver, self._pipeline))
        self._positions = self._table.every_position()
        locator = RowLocator(self._table)
        merged = Merged(self._silver, self._lake, self._pipeline, self._positions)
        self._state = SilverState(self._silver, self._lake, self._pipeline, locator, merged)
        self._pairs = AmbiguousPairs(self._silver, self._lake, self._pipeline, merged)
        self._writer = MergeWriter(self._table, locator)
        self._maintenance = Maintenance(self._table, locator, self._lake.retention)

    @property
    def _staging(self) -> str:
        return self._lake.staging(self._silver.name)

    def _missing(self, batches: Sequence[EventBatch]) -> Iterator[EventBatch]:
        """Yield what staging holds between our positions and the first batch of each partition."""
        firsts = {batch.range.partition_id: batch for batch in reversed(batches)}
        for name, batch in firsts.items():
            if self._positions.get(name, -1) >= batch.start:
                continue
            first = read_positions(self._staging, self._pipeline, [first_staged(name)])[first_staged(name)]
            wanted = Range(name, self._positions.get(name, first), batch.start)
            for start, end, rows in read_range(self._staging, wanted, first):
                rejects = pl.DataFrame(schema=QUARANTINE)
                yield EventBatch(batch.topic, batch.partition, start, end, rows, rejects)

    def _merged(self, batches: Sequence[EventBatch]) -> Handover:
        return advance(lambda: self._merge(batches), self._open)

    def _merge(self, batches: Sequence[EventBatch]) -> Handover:
        fresh = self._fresh(batches)
        if not fresh:
            nothing = pl.DataFrame(schema=self._silver.row_schema)
            standing = self._table.data_version
            return Handover(self._silver.name, standing, standing, nothing, nothing)
        events = pl.concat(self._in_columns(fresh))
        fates = {fate: (events["_op"] == fate).to_numpy() for fate in _DONE}
        plan: Plan = self._state.plan(rows_where(events, ~np.any([*fates.values()], axis=0)))
        ends = {batch.range.partition_id: batch.end for batch in fresh}
        self._pairs.settle(plan.outcome.pairs)
        self._state.remember(plan, ends)
        ledger = _ledger(fresh, plan.outcome.counts, fates, self._silver.ties)
        result = self._writer.merge(row_changes(plan.changes), Commit(ends, ledger))
        self._state.apply(plan)
        count_fates(self._silver.name, ledger)
        self._positions |= ends
        self._maintenance.tick()
        return _handover(self._silver.name, plan.changes, result)

    def _in_columns(self, batches: Sequence[EventBatch]) -> list[pl.DataFrame]:
        """Return events in the columns of the table, which is opened again where staging has learned more."""
        if any(batch.events.schema != self._staged for batch in batches):
            if as_learned(self._silver, self._lake).schema != self._silver.schema:
                self._open()
            return [in_columns(batch.events, self._staged) for batch in batches]
        return [batch.events for batch in batches]

    def _fresh(self, batches: Sequence[EventBatch]) -> list[EventBatch]:
        positions, fresh = dict(self._positions), []
        for batch in batches:
            start = take_from(positions.get(batch.range.partition_id), batch.range)
            if start is not None and (batch.end > start or batch.range.partition_id not in positions):
                fresh.append(batch.starting_at(start))
                positions[batch.range.partition_id] = batch.end
        return fresh


def _ledger(batches: Sequence[EventBatch], found: Counts, fates: Mapping[str, Flags], ties: Ties) -> dict[str, object]:
    done = {fate: int(flags.sum()) for fate, flags in fates.items()}
    if ties == "quarantine":
        done["quarantined"] += found.ambiguous
        found = replace(found, ambiguous=0)
    read = sum(batch.events.height for batch in batches)
    return {"ranges": joined_ranges(batches), "read": read, **asdict(found), **done}


def _handover(table: str, changes: Changes, result: MergeResult) -> Handover:
    return Handover(table, result.from_version, result.version, changes.before, changes.after)
