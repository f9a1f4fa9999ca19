"""Change detection for SCD1: which events of a batch change the current row of their key.

The event of the greatest rank (see `rank`) is a key's current row, whatever the order of arrival. A deleted key
keeps the rank of its delete, its tombstone, and a truncate keeps its sequence as a floor, so that an older event
which arrives later stays without effect.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from operators.changes import Changes
from operators.hashing import hash_rows
from operators.key_index import Slots
from operators.keyed_rows import KeyedRows
from operators.rank import NEVER, Flags, Ints, Rank, last_of_each
from operators.unavailable import UNAVAILABLE, fill_unavailable

TECHNICAL = pl.Schema(
    {
        "_sequence": pl.Int64(),
        "_row_hash": pl.Int64(),
        "_topic": pl.String(),
        "_partition": pl.Int32(),
        "_offset": pl.Int64(),
        "_changed_at": pl.Datetime("us", "UTC"),
    }
)
"""Columns of every Silver row behind the declared ones: the event it comes from, and when that was written."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the events of a batch; each event is counted once."""

    applied: int = 0
    no_op: int = 0
    superseded: int = 0
    duplicate: int = 0
    ambiguous: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """The effect of one batch, applied to the state once it is committed to the table."""

    changes: Changes
    counts: Counts
    newest: "Newest"
    removed: Slots
    floor: int


@dataclass(frozen=True, slots=True)
class Newest:
    """Events of a batch, one a key, of a greater rank than their key held; sorted by slot."""

    events: pl.DataFrame
    slots: Slots
    ranks: Rank


class Scd1:
    """Current rows and ranks of all keys of one Silver table.

    `plan` leaves the rows as they are and `apply` changes them: in between, the caller commits the changes.
    Memory: see `KeyedRows`, and 21 bytes a key for its rank.
    """

    def __init__(self, schema: pl.Schema, keys: Sequence[str]) -> None:
        self._declared = schema.names()
        self._rows = KeyedRows(keys, pl.Schema({**schema, **TECHNICAL}))
        self._ranks = Rank.never(0)
        self._floor = NEVER

    @property
    def live(self) -> int:
        """How many keys have a current row."""
        return self._rows.live

    def load(self, rows: pl.DataFrame) -> None:
        """Take in current rows as they stand in the Silver table, one a key."""
        slots = self._admit(rows)
        self._ranks.store(slots, Rank.of(rows, np.zeros(rows.height, bool)))
        self._rows.put(slots, rows)

    def load_deletes(self, events: pl.DataFrame, floor: int | None) -> None:
        """Take in tombstones: the deletes merged so far, and the sequence of the newest truncate.

        Call it after `load`: a delete whose key has a row is ignored, because the row is newer.
        """
        self._floor = max(self._floor, NEVER if floor is None else floor)
        slots = self._admit(events)
        dead = ~self._rows.present(slots)
        slots, ranks = slots[dead], Rank.of(events, np.ones(events.height, bool)).at(dead)
        order = ranks.order(slots)
        newest = order[last_of_each(slots[order])]
        self._ranks.store(slots[newest], ranks.at(newest))

    def plan(self, events: pl.DataFrame) -> Plan:
        """Work out what `events`, in any order, change.

        Columns: `_op` ("upsert", "delete" or "truncate"), `_sequence`, `_topic`, `_partition`, `_offset`,
        `_changed_at`, `_unavailable` and the declared ones; for a delete only the keys count.
        """
        truncates = events.filter(pl.col("_op") == "truncate")
        floor = max([self._floor, *truncates["_sequence"].to_list()])
        events = events.filter(pl.col("_op") != "truncate") if truncates.height else events
        slots = self._admit(events)
        ranks = Rank.of(events, (events["_op"] == "delete").to_numpy())
        order = ranks.order(slots)
        events, slots, ranks = events[order], slots[order], ranks.at(order)
        fresh = ranks.above(self._ranks.at(slots)) & (ranks.sequence >= floor)
        newest = self._newest(events, slots, ranks, fresh, floor)
        changes, removed, unchanged = self._outcome(newest, floor)
        won = last_of_each(slots) & fresh
        no_op = np.zeros(len(slots), bool)
        no_op[won] = unchanged
        counts = self._count(events, slots, ranks, won, no_op)
        return Plan(changes, replace(counts, applied=counts.applied + truncates.height), newest, removed, floor)

    def apply(self, plan: Plan) -> None:
        """Make the state what it is after `plan`."""
        self._floor = plan.floor
        self._ranks.store(plan.newest.slots, plan.newest.ranks)
        self._rows.remove(plan.removed)
        upserted = ~plan.newest.ranks.deleted
        self._rows.put(plan.newest.slots[upserted], plan.newest.events.filter(upserted))

    def _admit(self, rows: pl.DataFrame) -> Slots:
        slots = self._rows.admit(rows)
        if self._rows.keys > len(self._ranks.sequence):
            self._ranks = self._ranks.grown(max(self._rows.keys, 2 * len(self._ranks.sequence)))
        return slots

    def _newest(self, events: pl.DataFrame, slots: Slots, ranks: Rank, fresh: Flags, floor: int) -> Newest:
        """Pick the last fresh event of each slot, its unavailable values filled in, as a Silver row."""
        if events[UNAVAILABLE].null_count() < events.height:
            events = self._fill(events, slots, fresh, floor)
        won = last_of_each(slots) & fresh
        rows = events.filter(won)
        row_hash = pl.Series(hash_rows(rows.select(self._declared)).view(np.int64))
        rows = rows.with_columns(row_hash.alias("_row_hash")).select(*self._declared, *TECHNICAL)
        return Newest(rows, slots[won], ranks.at(won))

    def _fill(self, events: pl.DataFrame, slots: Slots, fresh: Flags, floor: int) -> pl.DataFrame:
        holders = np.unique(slots[fresh])
        holders = holders[self._rows.present(holders) & (self._ranks.sequence[holders] >= floor)]
        filled = fill_unavailable(events.filter(fresh), slots[fresh], self._rows.rows(holders), holders)
        places = np.cumsum(fresh) - 1
        return (
            events.with_columns(
                pl.when(pl.Series(fresh)).then(filled[name].gather(np.maximum(places, 0))).otherwise(name).alias(name)
                for name in self._declared
            )
            if filled.height
            else events
        )

    def _outcome(self, newest: Newest, floor: int) -> tuple[Changes, Slots, Flags]:
        """Return the changes, the slots that lose their row, and which of the newest events change no value."""
        present, deleted = self._rows.present(newest.slots), newest.ranks.deleted
        updated = ~deleted & present
        updated_from = self._rows.rows(newest.slots[updated])
        updated_to = newest.events.filter(updated)
        unchanged = deleted & ~present
        unchanged[updated] = _equal_rows(updated_from.select(self._declared), updated_to.select(self._declared))
        removed = newest.slots[deleted & present]
        if floor > self._floor:
            removed = np.union1d(removed, np.setdiff1d(self._below(floor), newest.slots))
        inserted = newest.events.filter(~deleted & ~present)
        return Changes(inserted, updated_from, updated_to, self._rows.rows(removed)), removed, unchanged

    def _below(self, floor: int) -> Slots:
        """Return the slots with a row older than a truncate."""
        slots = np.flatnonzero(self._ranks.sequence[: self._rows.keys] < floor)
        return slots[self._rows.present(slots)]

    def _count(self, events: pl.DataFrame, slots: Slots, ranks: Rank, won: Flags, no_op: Flags) -> Counts:
        """Label each event, sorted by slot and rank; ties are told apart by the hash of their rows."""
        after = np.minimum(np.arange(len(slots)) + 1, len(slots) - 1)
        ties_next = ~last_of_each(slots) & ranks.ties(ranks.at(after))
        remembered = ranks.deleted | self._rows.present(slots)  # of a truncated row only the rank is left
        ties_held = ranks.ties(self._ranks.at(slots)) & remembered & ~ties_next
        same = ranks.deleted & (ties_next | ties_held)
        rows = np.flatnonzero(ties_next & ~ranks.deleted)
        same[rows] = self._hashes(events, rows) == self._hashes(events, rows + 1)
        rows = np.flatnonzero(ties_held & ~ranks.deleted)
        same[rows] = self._hashes(events, rows) == self._rows.rows(slots[rows])["_row_hash"].to_numpy()
        tied = ties_next | ties_held
        return Counts(
            applied=int((won & ~tied & ~no_op).sum()),
            no_op=int((won & ~tied & no_op).sum()),
            superseded=int((~won & ~tied).sum()),
            duplicate=int((tied & same).sum()),
            ambiguous=int((tied & ~same).sum()),
        )

    def _hashes(self, events: pl.DataFrame, rows: Ints) -> Ints:
        hashes: Ints = hash_rows(events[rows].select(self._declared)).view(np.int64)
        return hashes


def _equal_rows(left: pl.DataFrame, right: pl.DataFrame) -> Flags:
    """Tell row by row whether all columns are equal, NULL being equal to NULL."""
    same = np.ones(left.height, bool)
    for ours, theirs in zip(left.iter_columns(), right.iter_columns(), strict=True):
        same &= ours.eq_missing(theirs).to_numpy()
    return same
