"""What one full snapshot becomes: change events, and a last batch that says what became of the snapshot itself.

1. Deletes and upserts come first, in batches. Each is durable on its own: a run that ends in between finds it in
   staging, and the snapshot, compared again, has only the others left.
2. The last batch has a record for each refused row, and one, "dropped", for the snapshot. It is committed as a whole,
   so a snapshot with this record is done, and the refused rows are in quarantine once. Those of a run that ended in
   between stay there, also when another snapshot has come since.
3. A snapshot that is not taken in has only one record, "quarantined".
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain

import numpy as np
import polars as pl

from flows.event_batch import QUARANTINE, EventBatch, staging_schema
from operators.eager import constant
from operators.schema import Schema
from storage.delta.positions import partition_id
from storage.snapshots.full_snapshots import FullSnapshot

PARTITION = -1
"""The partition of all snapshots. Where only the position decides between two events, that of a stream wins."""

TAKEN, REFUSED = "dropped", "quarantined"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_REASONS = pl.Schema({"raw": pl.String(), "reason": pl.String()})


@dataclass(frozen=True, slots=True)
class Step:
    """One snapshot on its way to staging.

    `upserts` and `deletes` have declared columns and perhaps `_sequence`, without which it is the version. `refused`
    has `raw` and `reason` of rows or, without `taken`, of the snapshot. `is_last` tells that none waits behind it.
    """

    topic: str
    schema: Schema
    snapshot: FullSnapshot
    upserts: pl.DataFrame
    deletes: pl.DataFrame
    refused: pl.DataFrame
    taken: bool
    is_last: bool

    @classmethod
    def refusal(cls, topic: str, schema: Schema, snapshot: FullSnapshot, reason: str, *, is_last: bool) -> "Step":
        """Return the step of a snapshot that is not taken in."""
        nothing, refused = pl.DataFrame(schema=schema), pl.DataFrame([(snapshot.name, reason)], _REASONS, orient="row")
        return cls(topic, schema, snapshot, nothing, nothing, refused, taken=False, is_last=is_last)

    def batches(self, position: int, rows: int) -> Iterator[EventBatch]:
        """Yield the batches, of at most so many rows but the last, that follow a position."""
        changes = chain(_slices(self.deletes, "delete", rows), _slices(self.upserts, "upsert", rows))
        for op, part in changes:
            yield self._batch(self._events(part, op, position), position, pl.DataFrame(schema=QUARANTINE))
            position += part.height
        fates = pl.DataFrame({"_op": [REFUSED] * self.refused.height + [TAKEN] * self.taken}, {"_op": pl.String()})
        events = self._events(fates, None, position)
        yield self._batch(events, position, self._rejects(events[: self.refused.height]))

    def _batch(self, events: pl.DataFrame, start: int, rejects: pl.DataFrame) -> EventBatch:
        return EventBatch(self.topic, PARTITION, start, start + events.height, events, rejects)

    def _events(self, rows: pl.DataFrame, op: str | None, start: int) -> pl.DataFrame:
        written = _EPOCH + timedelta(milliseconds=self.snapshot.written_at) if self.snapshot.written_at >= 0 else None
        given = {
            "_topic": self.topic,
            "_partition": PARTITION,
            "_changed_at": written,
            "_op": op,
            "_sequence": self.snapshot.version,
        }
        offsets = pl.Series("_offset", np.arange(start, start + rows.height))
        return pl.DataFrame(
            [
                offsets
                if name == "_offset"
                else rows[name]
                if name in rows.columns
                else constant(name, given.get(name), dtype, rows.height)
                for name, dtype in staging_schema(self.schema).items()
            ]
        )

    def _rejects(self, events: pl.DataFrame) -> pl.DataFrame:
        return events.with_columns(
            self.refused["raw"].cast(pl.Binary).alias("value"),
            self.refused["reason"],
            key=pl.lit(None, pl.Binary),
            headers=pl.lit(json.dumps([["snapshot", self.snapshot.name]])),
            stage=pl.lit("snapshot"),
        ).select(QUARANTINE.names())


def snapshot_partition(topic: str) -> str:
    """Return the name that the position of snapshots is kept under."""
    return partition_id(topic, PARTITION)


def _slices(rows: pl.DataFrame, op: str, size: int) -> Iterator[tuple[str, pl.DataFrame]]:
    return ((op, part) for part in rows.iter_slices(size) if part.height)
