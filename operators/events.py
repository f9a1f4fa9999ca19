"""The change events of a table as columns, and the last check before they are events."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import polars as pl

from operators.eager import listed
from operators.schema import Schema

TECHNICAL: Schema = {
    "_row": pl.UInt32(),
    "_op": pl.String(),
    "_sequence": pl.Int64(),
    "_unavailable": pl.List(pl.String()),
}
"""The columns that stand before the declared ones in every frame of events."""


@dataclass(frozen=True)
class Columns:
    """What a table declares: its columns, its business key, and what orders the events of a key."""

    schema: Schema
    keys: tuple[str, ...]
    sequence_by: str | None

    @cached_property
    def of_events(self) -> Schema:
        """The columns of a frame of events, in order."""
        return {**TECHNICAL, **self.schema}

    @property
    def sequence_column(self) -> str | None:
        """The declared column that is the sequence, if it is one."""
        return self.sequence_by if self.sequence_by in self.schema else None


@dataclass(frozen=True)
class Judged:
    """Events (ascending by `_row`), (row, reason) of rejected records, and rows of dropped ones."""

    events: pl.DataFrame
    rejects: list[tuple[int, str]]
    dropped: list[int]

    def moved(self, index: Sequence[int]) -> "Judged":
        """Return the same with row i renamed to ``index[i]``."""
        rows = pl.Series("_row", index, pl.UInt32).gather(self.events["_row"])
        return Judged(
            self.events.with_columns(rows),
            [(index[row], reason) for row, reason in self.rejects],
            [index[row] for row in self.dropped],
        )


def sequence_of(column: str) -> pl.Expr:
    """Return a sequence column as Int64: dates as days, timestamps as microseconds since the epoch."""
    return pl.col(column).to_physical().cast(pl.Int64)


def judge(candidates: pl.DataFrame, columns: Columns) -> Judged:
    """Return `candidates` without those that have a reason, no business key or no sequence.

    `candidates` has the columns of events and `_reason` String, NULL for a record nothing is known against.
    """
    required = [*columns.keys, *([] if columns.sequence_by is None else ["_sequence"])]
    if candidates["_reason"].null_count() == len(candidates) and not any(
        candidates[name].null_count() for name in required
    ):
        return Judged(candidates[[*columns.of_events]], [], [])
    reasons = [pl.col("_reason"), *(_without_key(key) for key in columns.keys)]
    if columns.sequence_by is not None:
        missing = pl.lit(f"sequence {columns.sequence_by!r}: received NULL or nothing, expected a value")
        reasons.append(pl.when(pl.col("_sequence").is_null()).then(missing))
    checked = candidates.with_columns(_reason=pl.coalesce(reasons))
    events = checked.select(columns.of_events.keys())
    if checked["_reason"].null_count() == len(checked):
        return Judged(events, [], [])
    refused = checked.select("_row", "_reason").drop_nulls()
    return Judged(events.filter(checked["_reason"].is_null()), refused.rows(), [])


def without_null_updates(events: pl.DataFrame, ignored: Sequence[str]) -> pl.DataFrame:
    """Return `events` where a NULL in one of these columns of an upsert is a value that it does not carry."""
    doubtful = [name for name in ignored if events[name].null_count()]
    if not doubtful:
        return events
    upsert = (events["_op"] == "upsert").to_numpy()
    masks = {name: events[name].is_null().to_numpy() & upsert for name in doubtful}
    found = listed("_unavailable", masks, events.height)
    others = events["_unavailable"]
    if others.null_count() < events.height:  # what is unavailable is NULL, so a name would stand in both
        parts = [pl.lit(each.fill_null([])) for each in (found, others)]
        both = pl.concat_list(parts).list.unique(maintain_order=True)
        found = pl.select(_unavailable=pl.when(both.list.len() > 0).then(both)).to_series()
    return events.with_columns(found)


def _without_key(key: str) -> pl.Expr:
    missing = pl.lit(f"key column {key!r}: received NULL or nothing, expected a value")
    return pl.when((pl.col("_op") != "truncate") & pl.col(key).is_null()).then(missing)
