"""The stage that makes records durable: quarantine first, then staging, each range once."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

import polars as pl

from flows.event_batch import QUARANTINE, EventBatch, joined_ranges
from flows.lake import Lake
from flows.metrics import count_unmet
from flows.silver import Silver
from flows.stages.decoding import Decoding
from flows.stages.learned import as_learned
from flows.stages.settling import decide
from flows.stages.stage import advance
from flows.stages.tables import quarantine_table, staging_table
from operators.decoding.expectations import ExpectationError
from storage.delta.maintenance import Maintenance
from storage.delta.owned_table import Commit, OwnedTable
from storage.delta.positions import take_from
from storage.logs.records import Records
from storage.staging import first_staged

_AS_READ = [name for name in QUARANTINE if name not in ("stage", "reason")]


class _AppendTable:
    """An append-only table and the positions it holds."""

    def __init__(self, table: OwnedTable, partitions: Iterable[str], retention: timedelta) -> None:
        self._table = table
        self._maintenance = Maintenance(table, table, retention)
        self._positions = table.positions(partitions)

    def fresh(self, batches: Iterable[EventBatch]) -> list[EventBatch]:
        """Return what is new to the table; of batches it holds already, the empty rest, which says how far they are.

        Batches of one partition follow each other. Raises HoleError.
        """
        positions, fresh = dict(self._positions), []
        held: dict[str, EventBatch] = {}
        for batch in batches:
            start = take_from(positions.get(batch.range.partition_id), batch.range)
            if start is None:
                held[batch.range.partition_id] = batch.starting_at(batch.end)
            else:
                fresh.append(batch.starting_at(start))
                positions[batch.range.partition_id] = batch.end
        return [*held.values(), *fresh]

    def is_new(self, batch: EventBatch) -> bool:
        """Tell whether the table holds no position of the batch's partition: then where it begins is committed too."""
        return batch.range.partition_id not in self._positions

    def lacking(self, batch: EventBatch) -> EventBatch:
        """Return a batch with those of its rejects that the table does not hold.

        A table that is ahead of the batch holds what came there before a run ended: the same records but, at offsets of
        snapshots, perhaps rows of another one.
        """
        if self._positions.get(batch.range.partition_id, 0) <= batch.start:
            return batch
        held = pl.scan_delta(self._table.uri).filter(pl.col("_offset").is_in(batch.rejects["_offset"].implode()))
        lacking = batch.rejects.lazy().join(held, on=_AS_READ, how="anti", nulls_equal=True, maintain_order="left")
        return replace(batch, rejects=lacking.collect())

    def append(self, rows: pl.DataFrame, batches: Sequence[EventBatch], counts: Mapping[str, object]) -> None:
        reached = {batch.range.partition_id: batch.end for batch in batches}
        ends = {name: max(end, self._positions.get(name, end)) for name, end in reached.items()}
        firsts = {
            first_staged(batch.range.partition_id): batch.start for batch in reversed(batches) if self.is_new(batch)
        }
        self._table.append(rows, Commit(ends | firsts, {"ranges": joined_ranges(batches), **counts}))
        self._positions |= ends
        self._maintenance.tick()


class StagingStage:
    """Appends every record once to the staging table of a Silver table, in the order of its partition.

    Quarantine commits before staging and holds no position back: where it is ahead it takes the rejects that it lacks,
    and a partition that had none since stands where it stood. Columns that are learned from a record commit before
    both, so that what quarantine has seen is decided the same when it comes again; records before it commit before the
    columns.
    """

    def __init__(
        self, silver: Silver, lake: Lake, pipeline: str, partitions: Sequence[str], decoding: Decoding
    ) -> None:
        self._silver, self._lake, self._pipeline, self._partitions = silver, lake, pipeline, partitions
        self._decoding, self._learner = decoding, silver.learner()
        self._open()

    def advance(self, inputs: Sequence[EventBatch | Records]) -> list[EventBatch]:
        """Commit what is new of `inputs` and return it, durable."""
        batches = self._decoding.rest(inputs)
        return advance(lambda: self._commit(batches), self._open)

    def _open(self) -> None:
        name, pipeline = self._silver.name, self._pipeline
        self._know(as_learned(self._silver, self._lake))
        staging = OwnedTable(self._lake.staging(name), staging_table(self._silver, pipeline))
        quarantine = OwnedTable(self._lake.quarantine(name), quarantine_table(pipeline))
        self._table = staging
        self._staging = _AppendTable(staging, self._partitions, self._lake.retention)
        self._quarantine = _AppendTable(quarantine, self._partitions, self._lake.retention)

    def _commit(self, batches: Sequence[EventBatch]) -> list[EventBatch]:
        left: Sequence[EventBatch] = self._staging.fresh(batches)
        if self._learner is None:
            return self._append(left)
        done: list[EventBatch] = []
        while left:
            decided = decide(left, self._learner, self._silver)
            done += self._append(decided.batches)
            if decided.rest:
                self._table.evolve(staging_table(decided.learned, self._pipeline))
                self._know(decided.learned)
            left = decided.rest
        return done

    def _append(self, fresh: Sequence[EventBatch]) -> list[EventBatch]:
        covering = [batch for batch in fresh if batch.end > batch.start or self._staging.is_new(batch)]
        unmet = _unmet(covering)
        self._commit_rejects([batch for batch in covering if batch.rejects.height])
        if covering:
            rows = pl.concat([batch.events for batch in covering])
            self._staging.append(rows, covering, {"read": rows.height, **({"unmet": unmet} if unmet else {})})
            count_unmet(self._silver.name, unmet)
        return [*fresh]

    def _know(self, silver: Silver) -> None:
        """Remember what the table has learned; the decoders of this process then read it faster."""
        if silver.schema != self._silver.schema:
            self._decoding.become(silver.decoder, silver.schema)
        self._silver = silver

    def _commit_rejects(self, batches: Sequence[EventBatch]) -> None:
        lacking = [batch for each in batches if (batch := self._quarantine.lacking(each)).rejects.height]
        if lacking:
            rejects = pl.concat([batch.rejects for batch in lacking])
            self._quarantine.append(rejects, lacking, {"read": rejects.height})


def _unmet(batches: Sequence[EventBatch]) -> dict[str, int]:
    """Count how often each expectation was not met. Raises ExpectationError for a record that stops the run."""
    found = [batch.unmet for batch in batches if batch.unmet.height]
    if not found:
        return {}
    unmet = pl.concat(found)
    if stops := unmet["stops"].drop_nulls().to_list():
        raise ExpectationError(
            f"{stops[0]}. Correct the record where it comes from, or declare what else to do than otherwise='fail'"
        )
    return dict(unmet["expectation"].value_counts().sort("expectation").rows())
