"""Deciding about undecided records before they are committed: what they are in columns, or why they cannot be.

Batches are taken in their order and records in that of their offsets, which is how staging commits them, so that the
same is decided however they are cut into batches (`operators.decoding.learning`).

Where a record teaches, what stands before it is committed first, then the columns, then the rest. So a record never
comes again, after a run that ended in between, to a table that has learned from a later one of its partition: whether
it carries a column would else depend on that. A request to read records again is one offset, so all of it is the rest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from flows.event_batch import QUARANTINE, UNDECIDED, EventBatch, position_as
from flows.reading.snapshot_step import PARTITION
from flows.silver import Silver
from operators.decoding.formats import keeps_absent
from operators.decoding.learning import Learner, Settled
from operators.eager import constant

NEW_FIELDS = "new fields"
"""The stage that quarantine names for records that are refused here."""

_KEPT = ("_topic", "_partition", "_offset", "_changed_at", "_retried")
_NOTHING = pl.DataFrame(schema=UNDECIDED)


@dataclass(frozen=True, slots=True)
class Decided:
    """`batches` without undecided records, in the columns of the table, and the `rest`, from a record on that teaches.

    Before the rest is decided, the table must be the one that has `learned`; there is none if that is the same table.
    """

    batches: Sequence[EventBatch]
    rest: Sequence[EventBatch]
    learned: Silver


def decide(batches: Sequence[EventBatch], learner: Learner, silver: Silver) -> Decided:
    """Decide about the undecided records of `batches`, up to the first that teaches the table a column."""
    pending = [_NOTHING if batch.undecided is None else batch.undecided for batch in batches]
    documents = [value for each in pending if each.height for value in each["value"].to_list()]
    if not documents:
        return Decided([_untouched(batch, silver) for batch in batches], [], silver)
    settled = learner.settle(documents, silver.learned)
    starts = np.cumsum([0, *map(len, pending)])
    done, rest = list(batches), list[EventBatch]()
    if settled.reached < len(documents):
        cut = int(np.searchsorted(starts, settled.reached, side="right")) - 1
        done, rest = _cut(batches, cut, settled.reached - int(starts[cut]))
    decided = [_decided(batch, silver, settled, start) for batch, start in zip(done, starts.tolist(), strict=False)]
    return Decided(decided, rest, silver.having_learned(settled.columns))


def in_columns(events: pl.DataFrame, wanted: pl.Schema) -> pl.DataFrame:
    """Return staged events in the columns of a table that has learned more since: added ones are NULL."""
    if events.schema == wanted:
        return events
    added = [constant(name, None, dtype, events.height) for name, dtype in wanted.items() if name not in events.columns]
    return events.hstack(added)[wanted.names()].cast(wanted)


def _cut(batches: Sequence[EventBatch], at: int, undecided: int) -> tuple[list[EventBatch], list[EventBatch]]:
    """Return what stands before this undecided record of the batch `at`, and what from there on."""
    batch = batches[at]
    rows = _NOTHING if batch.undecided is None else batch.undecided
    place = int(rows.row(undecided, named=True)["_offset" if rows["_retried"][undecided] is None else "_retried"])
    before = [batch.ending_at(place)] if place > batch.start else []
    return [*batches[:at], *before], [batch.starting_at(place), *batches[at + 1 :]]


def _untouched(batch: EventBatch, silver: Silver) -> EventBatch:
    return replace(batch, events=_completed(batch, silver), undecided=None)


def _completed(batch: EventBatch, silver: Silver) -> pl.DataFrame:
    """Return the events of a batch in the columns of the table, which whoever decoded it may not have known.

    An upsert that is not undecided has none of those, and does not carry them where absent fields keep their values;
    nor do rows of snapshots, which have declared columns only.
    """
    wanted, found = silver.staged_schema, batch.events
    events = in_columns(found, wanted)
    added = [name for name in wanted.names() if name not in found.columns]
    if not added or not (keeps_absent(silver.format) or batch.partition == PARTITION):
        return events
    lacking = (events["_op"] == "upsert").to_numpy().copy()
    if batch.undecided is not None:
        lacking[batch.undecided["_row"].to_numpy()] = False
    names = pl.concat_list(pl.col("_unavailable").fill_null([]), pl.lit(added))
    return events.with_columns(_unavailable=pl.when(pl.lit(pl.Series(lacking))).then(names).otherwise("_unavailable"))


def _decided(batch: EventBatch, silver: Silver, settled: Settled, start: int) -> EventBatch:
    """Return a batch with what became of its undecided records, which begin at `start` of the settled ones."""
    undecided = batch.undecided
    if undecided is None or not undecided.height:
        return _untouched(batch, silver)
    mine, events = settled.part(start, start + undecided.height), _completed(batch, silver)
    places = undecided["_row"].to_numpy()
    taken_at, refused_at = places[mine.rows["_row"].to_numpy()], places[np.array([*mine.refused], np.int64)]
    parts = [events, _with_learned(events[taken_at], mine.rows), _quarantined(events[refused_at])]
    order = np.arange(events.height)
    order[np.concatenate([taken_at, refused_at])] = np.arange(undecided.height) + events.height
    rejects = _with_refused(batch.rejects, undecided, mine.refused)
    return replace(batch, events=pl.concat(parts)[order], rejects=rejects, undecided=None)


def _with_learned(events: pl.DataFrame, taken: pl.DataFrame) -> pl.DataFrame:
    learned = taken.get_columns()[2:]
    if taken["_unavailable"].null_count() == taken.height:
        return events.with_columns(learned)
    both = pl.concat_list(pl.col("_unavailable").fill_null([]), taken["_unavailable"].fill_null([]))
    names = both.list.unique(maintain_order=True)
    return events.with_columns(*learned, pl.when(names.list.len() > 0).then(names).alias("_unavailable"))


def _quarantined(events: pl.DataFrame) -> pl.DataFrame:
    """Return the staging rows of refused records: where they stood in their topic, and no more."""
    nothing = [pl.lit(None, dtype).alias(name) for name, dtype in events.schema.items() if name not in _KEPT]
    position = position_as(events.schema["_sequence"])
    return events.with_columns(nothing).with_columns(_op=pl.lit("quarantined"), _sequence=position)


def _with_refused(rejects: pl.DataFrame, undecided: pl.DataFrame, refused: Mapping[int, str]) -> pl.DataFrame:
    if not refused:
        return rejects
    raw = undecided[[*refused]]
    told = raw.with_columns(stage=pl.lit(NEW_FIELDS), reason=pl.Series([*refused.values()], dtype=pl.String))
    both = pl.concat([rejects, told.select(QUARANTINE.names())])
    return both.sort(pl.coalesce("_retried", "_offset"), maintain_order=True)
