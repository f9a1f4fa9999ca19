"""The change events of a table as columns, and the last check before they are events."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import polars as pl

from operators.eager import listed
from operators.schema import Schema
from operators.sequences import BYTES, NEVER, from_values, to_column

TECHNICAL = ("_row", "_op", "_sequence", "_unavailable")
"""The columns that stand before the declared ones in every frame of events."""

UNORDERED = "truncate needs sequence_by, as positions of different partitions cannot be compared"

SequenceBy = str | tuple[str, ...] | None
"""What orders the events of a key: a column or a field of the source, several of them, or None for the position."""


@dataclass(frozen=True)
class Columns:
    """What a table declares: its columns, its business key, and what orders the events of a key."""

    schema: Schema
    keys: tuple[str, ...]
    sequence_by: SequenceBy

    @cached_property
    def of_events(self) -> list[str]:
        """The columns of a frame of events, in order."""
        return [*TECHNICAL, *self.schema]

    @cached_property
    def sequence_parts(self) -> tuple[str, ...]:
        """What the sequence is made of, the most significant first; nothing where it is the position."""
        return () if self.sequence_by is None else names_of(self.sequence_by)

    @property
    def sequence_column(self) -> str | None:
        """The declared column that is the sequence, if it is one."""
        return next(
            (name for name in self.sequence_parts if self.sequence_parts == (name,) and name in self.schema), None
        )

    def sequence(self, part: Callable[[str], pl.Expr]) -> pl.Expr:
        """Return the sequence as an expression, given that of a part: Int64, or a struct that `judge` packs."""
        if not self.sequence_parts:
            return pl.lit(None, pl.Int64)
        parts = [part(name).alias(name) for name in self.sequence_parts]
        return parts[0] if len(parts) == 1 else pl.struct(parts)


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


def names_of(names: str | Sequence[str]) -> tuple[str, ...]:
    """Return names of which there may be only one.

    >>> names_of("lsn"), names_of(["tx", "lsn"])
    (('lsn',), ('tx', 'lsn'))
    """
    return (names,) if isinstance(names, str) else tuple(names)


def sequence_of(column: str) -> pl.Expr:
    """Return a sequence column as Int64: dates as days, timestamps as microseconds since the epoch."""
    return pl.col(column).to_physical().cast(pl.Int64)


def judge(candidates: pl.DataFrame, columns: Columns) -> Judged:
    """Return `candidates` without those that have a reason, no business key or no sequence.

    `candidates` has the columns of events and `_reason` String, NULL for a record nothing is known against.
    """
    if len(columns.sequence_parts) > 1:
        candidates = candidates.with_columns(_packed(candidates["_sequence"]))
    required = [*columns.keys, *([] if columns.sequence_by is None else ["_sequence"])]
    if (
        candidates["_reason"].null_count() == len(candidates)
        and not any(candidates[name].null_count() for name in required)
        and not (columns.sequence_parts and _is_never(candidates["_sequence"], len(columns.sequence_parts)).any())
    ):
        return Judged(candidates[columns.of_events], [], [])
    reasons = [pl.col("_reason"), *(_without_key(key) for key in columns.keys)]
    if columns.sequence_by is not None:
        name = ", ".join(map(repr, columns.sequence_parts))
        missing = pl.lit(f"sequence {name}: received NULL or nothing, expected a value")
        least = pl.lit(f"sequence {name}: received the least number there is, expected a greater one")
        is_never = pl.lit(_is_never(candidates["_sequence"], len(columns.sequence_parts)))
        reasons.append(pl.when(pl.col("_sequence").is_null()).then(missing).when(is_never).then(least))
    checked = candidates.with_columns(_reason=pl.coalesce(reasons))
    events = checked.select(columns.of_events)
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


def _packed(sequences: pl.Series) -> pl.Series:
    """Return structs of numbers as bytes that sort as they do, NULL where a number is missing."""
    if not isinstance(sequences.dtype, pl.Struct):  # not one of the events has any
        return pl.Series("_sequence", [None] * len(sequences), pl.Binary)
    parts = sequences.struct.unnest()
    missing = parts.select(pl.any_horizontal(pl.all().is_null())).to_series()
    packed = to_column(from_values(parts.fill_null(0).to_struct()))
    return packed.set(missing, None) if missing.any() else packed


def _is_never(sequences: pl.Series, parts: int) -> pl.Series:
    """Mark sequences that stand for none at all (`operators.sequences.NEVER`)."""
    least = pl.Series([NEVER if parts == 1 else bytes(BYTES * parts)], dtype=sequences.dtype)
    return sequences.eq(least).fill_null(value=False)


def _without_key(key: str) -> pl.Expr:
    missing = pl.lit(f"key column {key!r}: received NULL or nothing, expected a value")
    return pl.when((pl.col("_op") != "truncate") & pl.col(key).is_null()).then(missing)
