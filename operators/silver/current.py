"""What an SCD1 table and the memory beside it say of its keys, and what a batch makes of some of them."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from operators.eager import rows_where
from operators.equality import equal_rows
from operators.keys.changes import Changes
from operators.keys.hashing import hash_rows
from operators.keys.held_rows import Flags, HeldRows
from operators.keys.key_index import Slots
from operators.order import Order
from operators.sequences import Sequences, never
from operators.silver.line import EVENT, Known, as_sent_last, shown_events
from operators.silver.outcomes import Outcome, pair_schema
from operators.silver.rank import Rank
from operators.silver.remembered import Remembered
from operators.silver.technical import TECHNICAL, technical


@dataclass(frozen=True, slots=True)
class Part:
    """What becomes of some keys, their newest sequences, and which events are remembered of them.

    The latter are new ones, `events` with `event_keys`, and of those that are remembered already `kept` with
    `kept_keys`. `is_pieced` tells which of the `keys` are pieced together.
    """

    changes: Changes
    outcome: Outcome
    keys: Slots
    sequences: Sequences
    is_pieced: Flags
    events: pl.DataFrame
    event_keys: Slots
    kept: Slots
    kept_keys: Slots


@dataclass(frozen=True, slots=True)
class Winners:
    """The events that make the current rows of some keys, one of each, none of its values missing; or deletes."""

    events: pl.DataFrame
    keys: Slots
    deleted: Flags


class Current:
    """Current rows of keys, held by someone else, and the remembered events of these keys."""

    def __init__(self, schema: pl.Schema, order: Order, held: HeldRows, remembered: Remembered) -> None:
        self.declared = schema.names()
        self._order = order
        self.held, self.remembered = held, remembered
        self.event = [*EVENT, *self.declared]
        self.pairs = pair_schema(pl.Schema({**technical(order.sequence), **schema}), self.declared)

    def never(self, size: int) -> Sequences:
        """Return so many sequences that no event has."""
        return never(self._order.sequence, size)

    def ranks(self, events: pl.DataFrame) -> Rank:
        """Return the ranks of events."""
        return Rank.of(events, (events["_op"] == "delete").to_numpy(), first_stands=self._order.first_stands)

    def known(self, keys: Slots) -> tuple[Known, Slots]:
        """Return what is known of these distinct keys, and the slots of the events that are remembered of them."""
        holders = keys[self.held.present(keys)]
        slots = self.remembered.of(keys[self.remembered.any(keys)])
        events, event_keys = self.remembered.events(slots)
        order = as_sent_last(events)
        both = pl.concat([shown_events(self.held.rows(holders))[self.event], events[order][self.event]])
        return Known(both, np.concatenate([holders, event_keys[order]]), self.ranks(both)), slots[order]

    def as_rows(self, events: pl.DataFrame) -> pl.DataFrame:
        """Return events as rows of the table."""
        row_hash = pl.Series("_row_hash", hash_rows(events[self.declared]).view(np.int64))
        return events.hstack([row_hash])[[*self.declared, *TECHNICAL]]

    def changes(self, winners: Winners, below: Slots) -> tuple[Changes, Flags]:
        """Return what changes, and which of the winners change no value.

        The rows of the keys `below` go, unless they are among the winners'.
        """
        present, deleted = self.held.present(winners.keys), winners.deleted
        inserted, updated = ~deleted & ~present, ~deleted & present
        updated_from = self.held.rows(winners.keys[updated])
        updated_to = self.as_rows(rows_where(winners.events, updated))
        same = equal_rows(updated_from[self.declared], updated_to[self.declared])
        unchanged = deleted & ~present
        unchanged[updated] = same
        removed = winners.keys[deleted & present]
        if len(below):
            removed = np.union1d(removed, np.setdiff1d(below, winners.keys))
        changes = Changes(
            self.as_rows(rows_where(winners.events, inserted)),
            winners.keys[inserted],
            rows_where(updated_from, ~same),
            rows_where(updated_to, ~same),
            winners.keys[updated][~same],
            self.held.rows(removed),
            removed,
        )
        return changes, unchanged
