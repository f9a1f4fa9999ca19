"""Deciding about undecided records before they are committed: what they are in columns, or why they cannot be.

Batches are taken in their order and records in that of their offsets, which is how staging commits them, so that the
same is decided however they are cut into batches (`operators.learning`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from flows.event_batch import QUARANTINE, EventBatch, staging_schema
from operators.eager import constant
from operators.learning import Learner, Settled
from operators.schema import Schema

_STAGE = "new fields"


@dataclass(frozen=True, slots=True)
class Decided:
    """Batches without undecided records, in the columns of a table that has `learned` these besides."""

    batches: Sequence[EventBatch]
    learned: Schema


def decide(batches: Sequence[EventBatch], learner: Learner, declared: Schema, learned: Schema) -> Decided:
    """Decide about the undecided records of `batches` for a table that has declared columns and learned ones."""
    pending = [
        pl.Series("value", [], pl.Binary) if batch.undecided is None else batch.undecided["value"] for batch in batches
    ]
    documents = pl.concat(pending).to_list() if batches else []
    settled = learner.settle(documents, learned) if documents else Settled(learned, pl.DataFrame(), {})
    wanted = staging_schema({**declared, **settled.columns})
    ends = np.cumsum([0, *map(len, pending)]).tolist()
    decided = [
        _decided(batch, wanted, settled.part(start, end)) if end > start else _untouched(batch, wanted)
        for batch, start, end in zip(batches, ends, ends[1:], strict=False)
    ]
    return Decided(decided, settled.columns)


def in_columns(events: pl.DataFrame, wanted: pl.Schema) -> pl.DataFrame:
    """Return staged events in the columns of a table that has learned more since: added ones are NULL."""
    if events.schema == wanted:
        return events
    added = [constant(name, None, dtype, events.height) for name, dtype in wanted.items() if name not in events.columns]
    return events.hstack(added)[wanted.names()].cast(wanted)


def _untouched(batch: EventBatch, wanted: pl.Schema) -> EventBatch:
    return replace(batch, events=in_columns(batch.events, wanted), undecided=None)


def _decided(batch: EventBatch, wanted: pl.Schema, settled: Settled) -> EventBatch:
    """Return a batch with what became of its undecided records, `settled`."""
    events, undecided, refused = in_columns(batch.events, wanted), batch.undecided, settled.refused
    if undecided is None:
        return _untouched(batch, wanted)
    places = np.searchsorted(events["_offset"].to_numpy(), undecided["_offset"].to_numpy())
    taken_at, refused_at = places[settled.rows["_row"].to_numpy()], places[np.array([*refused], np.int64)]
    parts = [events, _with_learned(events[taken_at], settled.rows), _quarantined(events[refused_at])]
    order = np.arange(events.height)
    order[np.concatenate([taken_at, refused_at])] = np.arange(undecided.height) + events.height
    rejects = _with_refused(batch.rejects, undecided, refused)
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
    kept = ("_topic", "_partition", "_offset", "_changed_at")
    nothing = [pl.lit(None, dtype).alias(name) for name, dtype in events.schema.items() if name not in kept]
    return events.with_columns(nothing).with_columns(_op=pl.lit("quarantined"), _sequence=pl.col("_offset"))


def _with_refused(rejects: pl.DataFrame, undecided: pl.DataFrame, refused: Mapping[int, str]) -> pl.DataFrame:
    if not refused:
        return rejects
    raw = undecided[[*refused]]
    told = raw.with_columns(stage=pl.lit(_STAGE), reason=pl.Series([*refused.values()], dtype=pl.String))
    return pl.concat([rejects, told.select(QUARANTINE.names())]).sort("_offset")
