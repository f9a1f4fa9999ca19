"""Change detection for SCD1: which events of a batch change the current row of their key.

The event of the greatest rank (see `rank`) is a key's current row, whatever the order of arrival. What that leaves to
remember where no row shows it: a delete (the tombstone of its key), an upsert that changed nothing, and a truncate,
since an older event that comes later stays without effect.

A key whose events did not all carry every column is pieced together from several of them (see `pieces`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from operators.eager import rows_where
from operators.keys.changes import Changes, joined
from operators.keys.growing import grown
from operators.keys.held_rows import Flags, HeldRows
from operators.keys.key_index import KeyIndex, Slots
from operators.order import Order
from operators.sequences import from_column, later, latest, raise_to
from operators.silver.current import Current, Part
from operators.silver.newest import newest
from operators.silver.outcomes import Outcome
from operators.silver.pieces import pieced
from operators.silver.remembered import Memory, Remembered
from operators.silver.unavailable import UNAVAILABLE


@dataclass(frozen=True, slots=True)
class Plan:
    """The effect of one batch, applied to the state once it is committed to the tables."""

    changes: Changes
    outcome: Outcome
    memory: Memory
    parts: list[Part]
    floor: Any


class Scd1:
    """Keys and sequences of one Silver table, whose current rows `held` has, and `remembered` what none of them shows.

    `plan` leaves the state as it is and `apply` changes it: in between, the caller commits what is remembered and then
    the changes, after which the two must show them. Memory: see `KeyIndex` and `Remembered`, and 9 to 10 bytes a key.
    """

    def __init__(
        self,
        schema: pl.Schema,
        keys: Sequence[str],
        held: HeldRows,
        remembered: HeldRows,
        order: Order = Order(),
    ) -> None:
        self._held, self._remembered = held, Remembered(remembered)
        self._current = Current(schema, order, held, self._remembered)
        self._index = KeyIndex(keys)
        self._sequences = self._current.never(0)
        self._is_pieced = np.empty(0, bool)
        self._floor: Any = self._current.never(1)[0]
        self._floor_slot = np.empty(0, np.int64)
        self.loaded_columns = [*keys, "_sequence"]
        self.remembered_columns = [*keys, "_op", "_sequence", UNAVAILABLE]

    def load(self, rows: pl.DataFrame) -> Slots:
        """Take in rows as they stand in the table, of which only `loaded_columns` count; return their slots."""
        slots = self._admit(rows)
        self._sequences[slots] = later(self._sequences[slots], from_column(rows["_sequence"]))
        return slots

    def load_remembered(self, events: pl.DataFrame, merged: Flags) -> Slots:
        """Take in remembered events, of which only `remembered_columns` count; return their slots.

        Those that are not `merged` into the table yet will come again, and are not to be honoured early.
        """
        slots = self._remembered.load(events.height)
        sequence, truncate = from_column(events["_sequence"]), (events["_op"] == "truncate").to_numpy()
        for row in np.flatnonzero(truncate & merged):
            self._raise_floor(sequence[row], slots[[row]])
        own = np.flatnonzero(~truncate & merged)
        keys = self._admit(events[own])
        raise_to(self._sequences, keys, sequence[own])
        self._is_pieced[keys[events[UNAVAILABLE].is_not_null().to_numpy()[own]]] = True
        self._remembered.list(keys, slots[own])
        self._remembered.outdate(slots[~merged])
        return slots

    def plan(self, events: pl.DataFrame) -> Plan:
        """Work out what `events`, in any order, change.

        Columns: `_op` ("upsert", "delete" or "truncate"), `_sequence`, `_topic`, `_partition`, `_offset`,
        `_changed_at`, `_unavailable` and the declared ones; for a delete only the keys count.
        """
        truncate = (events["_op"] == "truncate").to_numpy()
        wipes, events = rows_where(events, truncate), rows_where(events, ~truncate)
        floor = max(self._floor, latest(from_column(wipes["_sequence"]))) if wipes.height else self._floor
        slots = self._admit(events)
        apart = self._apart(events, slots, floor)
        whole = np.ones(len(slots), bool) if not len(apart) else ~np.isin(slots, apart)
        own, below = slots[whole], self._below(floor, apart)
        parts = [newest(self._current, rows_where(events, whole), own, self._sequences[own], floor, below)]
        if len(apart):
            parts.append(pieced(self._current, rows_where(events, ~whole), slots[~whole], apart, floor))
        wipe = wipes.sort("_sequence").tail(int(floor > self._floor)) if wipes.height else wipes
        remembered = pl.concat([*(part.events for part in parts), wipe[self._current.event]])
        outcome = parts[0].outcome if len(parts) == 1 else parts[0].outcome.plus(parts[1].outcome)
        changes = joined([part.changes for part in parts])
        return Plan(changes, outcome.with_truncates(wipes.height), self._remembered.plan(remembered), parts, floor)

    def apply(self, plan: Plan) -> None:
        """Make the state what it is after `plan`."""
        self._remembered.apply(plan.memory)
        slots = plan.memory.slots
        for part in plan.parts:
            self._sequences[part.keys] = later(self._sequences[part.keys], part.sequences)
            self._is_pieced[part.keys] = part.is_pieced
            self._remember(part, slots[: part.events.height])
            slots = slots[part.events.height :]
        if plan.floor > self._floor:
            self._raise_floor(plan.floor, slots)

    def _remember(self, part: Part, slots: Slots) -> None:
        had = part.keys[self._remembered.any(part.keys)]
        if len(had):
            self._remembered.outdate(np.setdiff1d(self._remembered.of(had), np.concatenate([part.kept, slots])))
            self._remembered.drop(had)
        self._remembered.list(part.kept_keys, part.kept)
        self._remembered.list(part.event_keys, slots)

    def _raise_floor(self, floor: Any, slot: Slots) -> None:
        """Take in a remembered truncate; of two the newer one is enough, and makes up for older tombstones."""
        if floor <= self._floor:
            self._remembered.outdate(slot)
            return
        self._remembered.outdate(self._floor_slot)
        self._floor, self._floor_slot = floor, slot
        below = np.flatnonzero(self._sequences[: len(self._index)] < floor)
        below = below[self._remembered.any(below)]
        self._remembered.outdate(self._remembered.of(below))
        self._remembered.drop(below)

    def _admit(self, rows: pl.DataFrame) -> Slots:
        slots = self._index.admit(rows)
        self._sequences = grown(self._sequences, len(self._index), fill=self._current.never(1)[0])
        self._is_pieced = grown(self._is_pieced, len(self._index))
        return slots

    def _apart(self, events: pl.DataFrame, slots: Slots, floor: Any) -> Slots:
        """Return the keys that are pieced together, or have to be from now on, ascending."""
        lacking = self._is_pieced[slots]
        if events[UNAVAILABLE].null_count() < events.height:
            lacking |= events[UNAVAILABLE].is_not_null().to_numpy()
        cut = np.flatnonzero(self._is_pieced) if floor > self._floor else slots[:0]
        return np.union1d(slots[lacking], cut) if lacking.any() or len(cut) else cut

    def _below(self, floor: Any, apart: Slots) -> Slots:
        """Return the keys with a row that a truncate of the batch removes, without those that are looked at apart."""
        if floor == self._floor:
            return apart[:0]
        slots = np.flatnonzero(self._sequences[: len(self._index)] < floor)
        return np.setdiff1d(slots[self._held.present(slots)], apart)
