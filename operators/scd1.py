"""Change detection for SCD1: which events of a batch change the current row of their key.

The event of the greatest rank (see `rank`) is a key's current row, whatever the order of arrival. A deleted key
keeps the sequence of its delete, its tombstone, and a truncate keeps its sequence as a floor, so that an older event
which arrives later stays without effect.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from operators.changes import Changes
from operators.eager import rows_where
from operators.equality import equal_rows
from operators.growing import grown
from operators.hashing import hash_rows
from operators.held_rows import Flags, HeldRows
from operators.key_index import KeyIndex, Slots
from operators.rank import NEVER, Rank, last_of_each
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
class Ranked:
    """Slots of keys and ranks of events, sorted by both; `rows` tells which row of `events` each is of."""

    events: pl.DataFrame
    rows: Slots
    slots: Slots
    ranks: Rank

    def some(self, flags: Flags) -> pl.DataFrame:
        """Return the events that are flagged, sorted."""
        return self.events[self.rows[flags]]


@dataclass(frozen=True, slots=True)
class Plan:
    """The effect of one batch, applied to the state once it is committed to the table.

    `newest` has the events, one a key, of a greater rank than their key held.
    """

    changes: Changes
    counts: Counts
    newest: Ranked
    floor: int


class Scd1:
    """Keys and sequences of one Silver table, whose current rows someone else holds.

    `plan` leaves the state as it is and `apply` changes it: in between, the caller commits the changes, after which
    `held` must show them. Memory: see `KeyIndex`, and 8 to 9 bytes a key for its sequence.
    """

    def __init__(self, schema: pl.Schema, keys: Sequence[str], held: HeldRows) -> None:
        self._declared = schema.names()
        self._held = held
        self._index = KeyIndex(keys)
        self._sequences = np.empty(0, np.int64)
        self._floor = NEVER
        self.loaded_columns = [*keys, "_sequence"]

    def load(self, rows: pl.DataFrame) -> Slots:
        """Take in rows as they stand in the Silver table, of which only `loaded_columns` count; return their slots."""
        slots = self._admit(rows)
        self._sequences[slots] = rows["_sequence"].fill_null(NEVER).to_numpy()
        return slots

    def load_deletes(self, events: pl.DataFrame, floor: int | None) -> None:
        """Take in tombstones: the deletes merged so far, and the sequence of the newest truncate.

        Call it after `load`: a delete whose key has a row is ignored, because the row is newer.
        """
        self._floor = max(self._floor, NEVER if floor is None else floor)
        slots = self._admit(events)
        dead = ~self._held.present(slots)
        np.maximum.at(self._sequences, slots[dead], events["_sequence"].to_numpy()[dead])

    def plan(self, events: pl.DataFrame) -> Plan:
        """Work out what `events`, in any order, change.

        Columns: `_op` ("upsert", "delete" or "truncate"), `_sequence`, `_topic`, `_partition`, `_offset`,
        `_changed_at`, `_unavailable` and the declared ones; for a delete only the keys count.
        """
        truncate = (events["_op"] == "truncate").to_numpy()
        floor = max([self._floor, *(events["_sequence"].to_numpy()[truncate].tolist())])
        events = rows_where(events, ~truncate)
        ranked = self._ranked(events)
        held = self._held_ranks(ranked, floor)
        fresh = ranked.ranks.above(held) & (ranked.ranks.sequence >= floor)
        newest = self._newest(ranked, fresh, floor)
        changes, unchanged = self._outcome(newest, floor)
        won = last_of_each(ranked.slots) & fresh
        no_op = np.zeros(len(won), bool)
        no_op[won] = unchanged
        counts = self._count(ranked, held, won, no_op)
        return Plan(changes, replace(counts, applied=counts.applied + int(truncate.sum())), newest, floor)

    def apply(self, plan: Plan) -> None:
        """Make the state what it is after `plan`."""
        self._floor = plan.floor
        self._sequences[plan.newest.slots] = plan.newest.ranks.sequence

    def _admit(self, rows: pl.DataFrame) -> Slots:
        slots = self._index.admit(rows)
        self._sequences = grown(self._sequences, len(self._index), fill=NEVER)
        return slots

    def _ranked(self, events: pl.DataFrame) -> Ranked:
        slots = self._admit(events)
        ranks = Rank.of(events, (events["_op"] == "delete").to_numpy())
        order = ranks.order(slots)
        return Ranked(events, order, slots[order], ranks.at(order))

    def _held_ranks(self, ranked: Ranked, floor: int) -> Rank:
        """Return what each event's key holds; a position only where it decides, since that is in the row itself.

        A key without a row holds a delete. Below the floor nothing is held any more.
        """
        slots, ranks = ranked.slots, ranked.ranks
        held = Rank.never(len(slots))
        sequences = self._sequences[slots]
        held.sequence[:] = np.where(sequences >= floor, sequences, NEVER)
        held.deleted[:] = ~self._held.present(slots)
        tied = np.flatnonzero(ranks.ties(held) & ~ranks.deleted)
        if tied.size:
            rows = self._held.rows(slots[tied])
            held.partition[tied] = rows["_partition"].fill_null(-1).to_numpy()
            held.offset[tied] = rows["_offset"].fill_null(-1).to_numpy()
        return held

    def _newest(self, ranked: Ranked, fresh: Flags, floor: int) -> Ranked:
        """Pick the last fresh event of each slot, its unavailable values filled in, as a Silver row."""
        if ranked.events[UNAVAILABLE].null_count() < ranked.events.height:
            ranked = self._fill(ranked, fresh, floor)
        won = last_of_each(ranked.slots) & fresh
        rows = ranked.some(won)
        row_hash = pl.Series("_row_hash", hash_rows(rows[self._declared]).view(np.int64))
        rows = rows.hstack([row_hash])[[*self._declared, *TECHNICAL]]
        return Ranked(rows, np.arange(rows.height), ranked.slots[won], ranked.ranks.at(won))

    def _fill(self, ranked: Ranked, fresh: Flags, floor: int) -> Ranked:
        """Return the same with the unavailable values of fresh events filled in."""
        events, slots = ranked.events[ranked.rows], ranked.slots
        holders = np.unique(slots[fresh])
        holders = holders[self._held.present(holders) & (self._sequences[holders] >= floor)]
        filled = fill_unavailable(events.filter(fresh), slots[fresh], self._held.rows(holders), holders)
        places = np.cumsum(fresh) - 1
        events = (
            events.with_columns(
                pl.when(pl.Series(fresh)).then(filled[name].gather(np.maximum(places, 0))).otherwise(name).alias(name)
                for name in self._declared
            )
            if filled.height
            else events
        )
        return replace(ranked, events=events, rows=np.arange(events.height))

    def _outcome(self, newest: Ranked, floor: int) -> tuple[Changes, Flags]:
        """Return the changes, and which of the newest events change no value."""
        present, deleted = self._held.present(newest.slots), newest.ranks.deleted
        inserted, updated = ~deleted & ~present, ~deleted & present
        updated_from = self._held.rows(newest.slots[updated])
        updated_to = rows_where(newest.events, updated)
        unchanged = deleted & ~present
        unchanged[updated] = equal_rows(updated_from[self._declared], updated_to[self._declared])
        removed = newest.slots[deleted & present]
        if floor > self._floor:
            removed = np.union1d(removed, np.setdiff1d(self._below(floor), newest.slots))
        changes = Changes(
            rows_where(newest.events, inserted),
            newest.slots[inserted],
            updated_from,
            updated_to,
            newest.slots[updated],
            self._held.rows(removed),
            removed,
        )
        return changes, unchanged

    def _below(self, floor: int) -> Slots:
        """Return the slots with a row older than a truncate."""
        slots = np.flatnonzero(self._sequences[: len(self._index)] < floor)
        return slots[self._held.present(slots)]

    def _count(self, ranked: Ranked, held: Rank, won: Flags, no_op: Flags) -> Counts:
        """Label each event; of two upserts that tie, the values tell a copy from another row."""
        slots, ranks = ranked.slots, ranked.ranks
        last = last_of_each(slots)
        after = np.minimum(np.arange(len(slots)) + 1, len(slots) - 1)
        ties_next = ~last & ranks.ties(ranks.at(after))
        ties_held = ranks.ties(held) & ~ties_next
        same = ranks.deleted & (ties_next | ties_held)
        declared = ranked.events[self._declared]
        rows = np.flatnonzero(ties_next & ~ranks.deleted)
        same[rows] = equal_rows(declared[ranked.rows[rows]], declared[ranked.rows[rows + 1]])
        rows = np.flatnonzero(ties_held & ~ranks.deleted)
        same[rows] = equal_rows(declared[ranked.rows[rows]], self._held.rows(slots[rows])[self._declared])
        tied = ties_next | ties_held
        return Counts(
            applied=int((won & ~tied & ~no_op).sum()),
            no_op=int((won & ~tied & no_op).sum()),
            superseded=int((~won & ~tied).sum()),
            duplicate=int((tied & same).sum()),
            ambiguous=int((tied & ~same).sum()),
        )
