"""Change detection for SCD2: the history of each key, one row for every state it was in.

A batch needs of most keys only the row they have now: its events are newer than all that is known of the key. Where one
is not, it is late, and the rows and remembered events of that key are fetched, all of them. Both kinds go the same
way: what is known and what is new are put on one `timeline`, and the rows it shows are compared with those there are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from operators.eager import rows_where
from operators.equality import equal_rows
from operators.keys.changes import Changes
from operators.keys.growing import grown
from operators.keys.hashing import hash_rows
from operators.keys.held_rows import Flags, HeldRows
from operators.keys.key_index import KeyIndex, Slots
from operators.order import Order
from operators.sequences import (
    Sequences,
    earliest_of,
    from_column,
    from_values,
    later,
    never,
    raise_to,
    to_column,
    to_values,
)
from operators.silver.history_rows import HistoryRows, RowLists
from operators.silver.line import EVENT, TRUNCATE, Known, Line, as_sent_last, in_line, shown_events
from operators.silver.outcomes import Outcome, outcome, pair_schema
from operators.silver.rank import Ints, Rank, first_of_each, in_slot_order, last_of_each
from operators.silver.remembered import Memory, Remembered
from operators.silver.technical import TECHNICAL, technical
from operators.silver.timeline import Timeline, timeline
from operators.silver.unavailable import UNAVAILABLE

VALID_FROM, VALID_TO, IS_CURRENT = "valid_from", "valid_to", "is_current"
_NONE = -1


def history_columns(sequence: pl.DataType) -> pl.Schema:
    """Return the columns that a history has behind the declared ones: from when to when a row was so."""
    return pl.Schema({VALID_FROM: sequence, VALID_TO: sequence, IS_CURRENT: pl.Boolean()})


@dataclass(frozen=True, slots=True)
class Plan:
    """The effect of one batch, applied to the state once it is committed to the tables."""

    changes: Changes
    outcome: Outcome
    memory: Memory
    rows: RowLists
    newest: Sequences
    remembered_keys: Slots
    truncates: Sequences


@dataclass(frozen=True, slots=True)
class _History:
    """The rows of some keys, by key and start, and as events these and then what is remembered of the keys."""

    rows: pl.DataFrame
    slots: Slots
    keys: Slots
    starts: Sequences
    known: Known


class Scd2:
    """Keys, and the histories of their rows, of one Silver table; who holds the rows is `held`.

    `remembered` holds the events that no row shows. `plan` leaves the state as it is and `apply` changes it: in
    between, the caller commits. Memory: see `KeyIndex`; besides some 27 bytes a key, 24 a row, 14 a remembered event.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - a declaration has as many parts
        self,
        schema: pl.Schema,
        keys: Sequence[str],
        held: HeldRows,
        remembered: HeldRows,
        order: Order = Order(),
        tracked: Sequence[str] | None = None,
    ) -> None:
        self._declared = schema.names()
        self._tracked = self._declared if tracked is None else [*tracked]
        self._held, self._remembered = held, Remembered(remembered)
        self._order = order
        self._never = never(order.sequence, 1)
        self._history = history_columns(order.sequence)
        self._index = KeyIndex(keys)
        self._rows = HistoryRows(held, self._never[:0])
        self._last = self._truncates = self._never[:0]
        self._of_event = [*EVENT, *self._declared]
        self._pairs = pair_schema(pl.Schema({**technical(order.sequence), **schema}), self._declared)
        nobody = pl.Schema(
            {"_op": pl.String(), UNAVAILABLE: pl.List(pl.String()), **technical(order.sequence), **schema}
        )
        self._none = pl.DataFrame([{"_op": "truncate", "_partition": -1, "_offset": -1}], nobody)[self._of_event]
        self.loaded_columns = [*keys, "_sequence", VALID_FROM, IS_CURRENT]
        self.remembered_columns = [*keys, "_op", "_sequence"]

    def load(self, rows: pl.DataFrame) -> Slots:
        """Take in rows as they stand in the table, of which only `loaded_columns` count; return their slots."""
        keys = self._admit(rows)
        raise_to(self._last, keys, from_column(rows["_sequence"]))
        return self._rows.load(keys, from_values(rows[VALID_FROM]), rows[IS_CURRENT].to_numpy())

    def load_remembered(self, events: pl.DataFrame, merged: Flags) -> Slots:
        """Take in remembered events, of which only `remembered_columns` count; return their slots.

        Those that are not `merged` into the table yet will come again, and are not to be honoured early.
        """
        slots = self._remembered.load(events.height)
        sequence, truncate = from_column(events["_sequence"]), (events["_op"] == "truncate").to_numpy()
        self._take_truncates(sequence[truncate & merged])
        own = np.flatnonzero(~truncate & merged)
        keys = self._admit(events[own])
        raise_to(self._last, keys, sequence[own])
        self._remembered.list(keys, slots[own])
        self._remembered.outdate(slots[~merged])
        return slots

    def plan(self, events: pl.DataFrame) -> Plan:
        """Work out what `events`, in any order, change; the columns are those that `Scd1.plan` takes.

        Raises OverlapError when rows that were loaded are no history.
        """
        self._rows.settle()
        truncate = (events["_op"] == "truncate").to_numpy()
        wipes, events = rows_where(events, truncate)[self._of_event], rows_where(events, ~truncate)[self._of_event]
        truncates = from_column(wipes["_sequence"])
        keys = self._admit(events)
        ranks = self._ranks(events)
        touched, late = self._touched(keys, ranks.sequence, truncates)
        history = self._history_of(touched, late)
        truncated = self._truncated(touched[late], (keys, ranks.sequence), history.known, truncates)
        line = in_line(events, keys, ranks, history.known, truncated)
        made = timeline(line.events, line.keys, line.ranks, line.sequence, self._declared, self._tracked)
        changes, slots = self._changes(history, made)
        fresh = np.flatnonzero(made.hidden & (line.origin < len(history.slots)) & (line.origin != TRUNCATE))
        bases = self._rows.bases(touched, late)
        rows = RowLists(touched, bases, made.slots, slots, made.valid_from, made.is_open)
        found = outcome(line, events.height, _beaten(line), made.silent, self._declared, self._pairs)
        memory = self._remembered.plan(pl.concat([line.events[fresh], wipes]))
        newest = line.sequence[last_of_each(line.keys)]
        return Plan(changes, found.with_truncates(len(truncates)), memory, rows, newest, line.keys[fresh], truncates)

    def apply(self, plan: Plan) -> None:
        """Make the state what it is after `plan`."""
        self._rows.apply(plan.rows, len(plan.changes.inserted_slots))
        self._remembered.apply(plan.memory)
        self._remembered.list(plan.remembered_keys, plan.memory.slots[: len(plan.remembered_keys)])
        self._last[plan.rows.keys] = later(self._last[plan.rows.keys], plan.newest)
        self._take_truncates(plan.truncates)

    def _take_truncates(self, sequences: Sequences) -> None:
        self._truncates = np.union1d(self._truncates, sequences)

    @property
    def _newest_truncate(self) -> Sequences:
        return np.append(self._never, self._truncates)[-1:]

    def _admit(self, rows: pl.DataFrame) -> Slots:
        keys = self._index.admit(rows)
        self._last = grown(self._last, len(self._index), fill=self._never[0])
        return keys

    def _touched(self, keys: Slots, sequence: Sequences, truncates: Sequences) -> tuple[Slots, Flags]:
        """Return the keys of a batch, ascending, and whether an event of theirs is not newer than all that is known.

        A truncate is an event of every key.
        """
        if len(truncates):
            everyone = np.arange(len(self._index))
            return everyone, np.ones(len(everyone), bool)
        order = in_slot_order(keys)
        first = first_of_each(keys[order])
        touched = keys[order[first]]
        last = later(self._last[touched], self._newest_truncate)
        return touched, (earliest_of(np.flatnonzero(first), sequence[order]) <= last) & (last != self._never[0])

    def _truncated(
        self, late: Slots, new: tuple[Slots, Sequences], known: Known, truncates: Sequences
    ) -> tuple[pl.DataFrame, Slots]:
        """Return truncates as events of late keys: behind each event of theirs the next one, as no other matters."""
        every = np.union1d(self._truncates, truncates)
        keys = np.concatenate([new[0], known.keys])
        following = np.searchsorted(every, np.concatenate([new[1], known.ranks.sequence]), side="right")
        counts = (following < len(every)) & np.isin(keys, late)
        pairs = np.unique(keys[counts] * (len(every) + 1) + following[counts])
        keys, following = np.divmod(pairs, len(every) + 1)
        events = self._none[np.zeros(len(pairs), np.int64)].with_columns(to_column(every[following]))
        return events, keys

    def _history_of(self, touched: Slots, late: Flags) -> _History:
        """Return the open rows of these keys, of late ones all rows, and what is remembered of those."""
        slots, keys, starts = self._rows.of(touched, late)
        rows = self._held.rows(slots)
        remembered, event_keys = self._remembered.events(self._remembered.of(touched[late]))
        order = as_sent_last(remembered)
        remembered = remembered[order][self._of_event]
        of_rows = shown_events(rows)[self._of_event]
        ranks = self._ranks(of_rows)
        whole = late[np.searchsorted(touched, keys)]  # else the events of its run are not known, and not needed
        ranks = replace(ranks, sequence=np.where(whole, ranks.sequence, starts))
        known = Known(
            pl.concat([of_rows, remembered]),
            np.concatenate([keys, event_keys[order]]),
            ranks.followed_by(self._ranks(remembered)),
        )
        return _History(rows, slots, keys, starts, known)

    def _ranks(self, events: pl.DataFrame) -> Rank:
        return Rank.of(events, (events["_op"] == "delete").to_numpy(), first_stands=self._order.first_stands)

    def _changes(self, history: _History, made: Timeline) -> tuple[Changes, Slots]:
        """Compare the rows that are to be with those there are; return the changes, and the slots of all rows."""
        rows = self._shown(made)
        match = _matches((history.keys, history.starts), (made.slots, made.valid_from))
        kept = match != _NONE
        found, were = rows_where(rows, kept), _rows_at(history.rows, match[kept])
        differ = ~equal_rows(found, were)
        gone = np.ones(len(history.slots), bool)
        gone[match[kept]] = False
        slots = np.empty(rows.height, np.int64)
        slots[kept] = history.slots[match[kept]]
        slots[~kept] = self._rows.next(int((~kept).sum()))
        changes = Changes(
            rows_where(rows, ~kept),
            slots[~kept],
            rows_where(were, differ),
            rows_where(found, differ),
            slots[kept][differ],
            rows_where(history.rows, gone),
            history.slots[gone],
        )
        return changes, slots

    def _shown(self, made: Timeline) -> pl.DataFrame:
        """Return the rows of a timeline as the table has them."""
        events = made.events[made.row]
        ends = to_values(made.valid_to, self._order.sequence).alias(VALID_TO)
        columns = [
            to_values(made.valid_from, self._order.sequence).alias(VALID_FROM),
            ends.zip_with(pl.Series(~made.is_open), ends.clear(len(ends))),
            pl.Series(IS_CURRENT, made.is_open),
            pl.Series("_row_hash", hash_rows(events[self._declared]).view(np.int64)),
        ]
        return events.hstack(columns)[[*self._declared, *self._history, *TECHNICAL]]


def _rows_at(rows: pl.DataFrame, places: Ints) -> pl.DataFrame:
    """Return the rows at these places, without copying any where that is all of them."""
    return rows if np.array_equal(places, np.arange(rows.height)) else rows[places]


def _beaten(line: Line) -> Flags:
    """Mark the upserts whose sequence has a delete, which wins."""
    beaten = np.zeros(len(line.keys), bool)
    here, after = line.ranks.at(slice(None, -1)), line.ranks.at(slice(1, None))
    same = (line.keys[1:] == line.keys[:-1]) & (here.sequence == after.sequence)
    beaten[:-1] = same & after.deleted & ~here.deleted
    return beaten


def _matches(old: tuple[Slots, Sequences], new: tuple[Slots, Sequences]) -> Ints:
    """Return for each new (key, start) the place of the same in `old`, -1 where it is not there.

    Both are sorted, and no pair is twice in either.
    """
    (old_keys, old_starts), (keys, starts) = old, new
    match = np.full(len(keys), _NONE)
    if not len(old_keys):
        return match
    place = np.minimum(np.searchsorted(old_keys, keys), len(old_keys) - 1)
    same = (old_keys[place] == keys) & (old_starts[place] == starts)
    match[same] = place[same]
    several = old_keys[np.minimum(place + 1, len(old_keys) - 1)] == keys  # this key has more than the row at `place`
    rest = np.flatnonzero(several & ~same)
    if rest.size:
        places = np.flatnonzero(np.isin(old_keys, keys[rest]))
        match[rest] = _matches_by_sorting((old_keys[places], old_starts[places]), (keys[rest], starts[rest]), places)
    return match


def _matches_by_sorting(old: tuple[Slots, Sequences], new: tuple[Slots, Sequences], places: Ints) -> Ints:
    """Do the same where keys have several old rows; `places` is what to return for each of `old`."""
    keys, starts = (np.concatenate(part) for part in zip(old, new, strict=True))
    order = np.lexsort((starts, keys))  # stable, so that of two the old one comes first
    pairs = np.flatnonzero((keys[order[1:]] == keys[order[:-1]]) & (starts[order[1:]] == starts[order[:-1]]))
    match = np.full(len(new[0]), _NONE)
    match[order[pairs + 1] - len(old[0])] = places[order[pairs]]
    return match
