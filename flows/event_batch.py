"""What flows from a partition to the tables: the change events of a range of records, in columns."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import polars as pl

from operators.schema import Schema
from storage.delta.positions import Range, partition_id

POSITION = pl.Schema({"_topic": pl.String(), "_partition": pl.Int32(), "_offset": pl.Int64()})
ORIGIN = pl.Schema({**POSITION, "_changed_at": pl.Datetime("us", "UTC"), "_retried": pl.Int64()})
UNMET = pl.Schema({"_offset": pl.Int64(), "_retried": pl.Int64(), "expectation": pl.String(), "stops": pl.String()})
"""Columns of what was not met: a row a record and expectation; `stops` says which record stops the run, and why."""
NOTHING_UNMET = pl.DataFrame(schema=UNMET)
_PLACE = pl.coalesce("_retried", "_offset")  # where a row is in the partition that it was read from
_RAW = pl.Schema(
    {
        **ORIGIN,
        "key": pl.Binary(),
        "value": pl.Binary(),
        "headers": pl.String(),
    }
)
QUARANTINE = pl.Schema({**_RAW, "stage": pl.String(), "reason": pl.String()})
"""Columns of a quarantine table: the raw record, and why it is here.

`headers` is a JSON list of [name, value], where {"base64": …} is a value that is not UTF-8. `_retried` is the number of
the request that the record came again with, NULL the first time.
"""
UNDECIDED = pl.Schema({"_row": pl.Int64(), **_RAW})
"""Columns of undecided records: the row of `events` that each has, and the raw record."""


_NUMBER = pl.Int64()


def staging_schema(declared: Schema, sequence: pl.DataType = _NUMBER) -> pl.Schema:
    """Return the columns of a staging table: one row for each record read, whatever became of it.

    `_op` is "upsert", "delete" or "truncate", "quarantined" for a record that could not become a row, "dropped"
    for one that rightly carries no event. `_sequence` of these two is the position, or the version of the snapshot, and
    stays so. `_changed_at` is when the record was written to its log. A record that was sent in again has one more row,
    with the position it had, and the number of the request in `_retried`. `sequence` is the type of `_sequence`, as it
    is stored (`operators.sequences`).
    """
    return pl.Schema(
        {
            **ORIGIN,
            "_op": pl.String(),
            "_sequence": sequence,
            "_unavailable": pl.List(pl.String()),
            **declared,
        }
    )


def position_as(sequence: pl.DataType) -> pl.Expr:
    """Return the position as the sequence of a record that has none: NULL where sequences are of several columns."""
    return pl.col("_offset") if sequence == pl.Int64 else pl.lit(None, sequence)


@dataclass(frozen=True, slots=True)
class EventBatch:
    """The records of one partition from `start` up to `end`, decoded.

    `events` has the columns of `staging_schema`, `rejects` those of `QUARANTINE`, `unmet` those of `UNMET`; all are in
    offset order. The offsets of the partition of retries are in `_retried`. `undecided`, with the columns `UNDECIDED`,
    are upserts that may have fields which are no columns yet: none where a table ignores these, nor in staging.
    """

    topic: str
    partition: int
    start: int
    end: int
    events: pl.DataFrame
    rejects: pl.DataFrame
    unmet: pl.DataFrame = field(default_factory=lambda: NOTHING_UNMET)
    undecided: pl.DataFrame | None = None

    @property
    def range(self) -> Range:
        """The range of the partition that this batch covers."""
        return Range(partition_id(self.topic, self.partition), self.start, self.end)

    def starting_at(self, offset: int) -> "EventBatch":
        """Return the part of this batch from `offset` on."""
        return self if offset == self.start else self._part(offset, self.end)

    def ending_at(self, offset: int) -> "EventBatch":
        """Return the part of this batch before `offset`."""
        return self._part(self.start, offset)

    def _part(self, start: int, end: int) -> "EventBatch":
        mine = _PLACE.is_between(start, end, closed="left")
        events, rejects, unmet = (rows.filter(mine) for rows in (self.events, self.rejects, self.unmet))
        undecided = self.undecided
        if undecided is not None:
            before: int = self.events.select((start > _PLACE).sum()).item()
            undecided = undecided.filter(mine).with_columns(pl.col("_row") - before)
        return replace(self, start=start, end=end, events=events, rejects=rejects, unmet=unmet, undecided=undecided)


def joined_ranges(batches: Iterable[EventBatch]) -> dict[str, tuple[int, int]]:
    """Return the range that batches cover of each partition; batches of a partition follow each other."""
    ranges: dict[str, tuple[int, int]] = {}
    for batch in batches:
        name = batch.range.partition_id
        ranges[name] = (ranges.get(name, (batch.start, 0))[0], batch.end)
    return ranges
