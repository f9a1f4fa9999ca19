"""Change detection for SCD2: the history of each key, one row for every state it was in.

A batch needs of most keys only the row they have now: its events are newer than all that is known of the key. Where one
is not, it is late, and the rows and remembered events of that key are fetched, all of them. Both kinds go the same
way: what is known and what is new are put on one `timeline`, and the rows it shows are compared with those there are.

A row is known by a number of its own, its slot in the table, that it never loses.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from operators.chains import Chains
from operators.changes import Changes
from operators.eager import rows_where
from operators.equality import equal_rows
from operators.growing import grown
from operators.hashing import hash_rows
from operators.held_rows import Flags, HeldRows
from operators.key_index import KeyIndex, Slots
from operators.line import EVENT, TRUNCATE, Known, Line, as_sent_last, in_line, shown_events
from operators.outcomes import Outcome, outcome, pair_schema
from operators.rank import NEVER, Ints, Rank, last_of_each
from operators.remembered import Memory, Remembered
from operators.technical import TECHNICAL
from operators.timeline import Timeline, timeline
from operators.unavailable import UNAVAILABLE

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
    newest: "_Lists"


@dataclass(frozen=True, slots=True)
class _Lists:
    """What the lists of some keys become: rows in their order, after the base of each key."""

    keys: Slots
    bases: Ints
    last: Ints
    row_keys: Slots
    rows: Slots
    starts: Ints
    is_open: Flags
    event_keys: Slots
    truncates: Ints


@dataclass(frozen=True, slots=True)
class _History:
    """The rows of some keys, by key and start, and as events these and then what is remembered of the keys."""

    rows: pl.DataFrame
    slots: Slots
    keys: Slots
    starts: Ints
    known: Known


class Scd2:
    """Keys, and the histories of their rows, of one Silver table; who holds the rows is `held`.

    `remembered` holds the events that no row shows. `plan` leaves the state as it is and `apply` changes it: in
    between, the caller commits. Memory: see `KeyIndex`; besides some 27 bytes a key, 24 a row, 14 a remembered event.
    """

    def __init__(  # noqa: PLR0913 - a declaration has as many parts
        self,
        schema: pl.Schema,
        keys: Sequence[str],
        held: HeldRows,
        remembered: HeldRows,
        *,
        sequence: pl.DataType | None = None,
        tracked: Sequence[str] | None = None,
        first_stands: bool = False,
    ) -> None:
        self._declared = schema.names()
        self._tracked = self._declared if tracked is None else [*tracked]
        self._held, self._remembered = held, Remembered(remembered)
        self._first_stands = first_stands
        self._sequence = sequence or pl.Int64()
        self._history = history_columns(self._sequence)
        self._index = KeyIndex(keys)
        self._rows = Chains()
        self._row_count = 0
        self._starts, self._is_open = np.empty(0, np.int64), np.empty(0, bool)
        self._row_keys = np.empty(0, np.int32)
        self._last = np.empty(0, np.int64)
        self._truncates = np.empty(0, np.int64)
        self._unlisted: list[tuple[Slots, Slots]] = []
        self._of_event = [*EVENT, *self._declared]
        self._pairs = pair_schema(pl.Schema({**TECHNICAL, **schema}), self._declared, keys)
        nobody = pl.Schema({"_op": pl.String(), UNAVAILABLE: pl.List(pl.String()), **TECHNICAL, **schema})
        self._none = pl.DataFrame([{"_op": "truncate", "_partition": -1, "_offset": -1}], nobody)[self._of_event]
        self.loaded_columns = [*keys, "_sequence", VALID_FROM, IS_CURRENT]
        self.remembered_columns = [*keys, "_op", "_sequence"]

    def load(self, rows: pl.DataFrame) -> Slots:
        """Take in rows as they stand in the table, of which only `loaded_columns` count; return their slots."""
        keys, slots = self._admit(rows), self._new_rows(rows.height)
        self._row_keys[slots] = keys
        self._starts[slots] = rows[VALID_FROM].to_physical().cast(pl.Int64).to_numpy()
        self._is_open[slots] = rows[IS_CURRENT].to_numpy()
        np.maximum.at(self._last, keys, rows["_sequence"].to_numpy())
        self._unlisted.append((keys, slots))
        return slots

    def load_remembered(self, events: pl.DataFrame, merged: Flags) -> Slots:
        """Take in remembered events, of which only `remembered_columns` count; return their slots.

        Those that are not `merged` into the table yet will come again, and are not to be honoured early.
        """
        slots = self._remembered.load(events.height)
        sequence, truncate = events["_sequence"].to_numpy(), (events["_op"] == "truncate").to_numpy()
        self._take_truncates(sequence[truncate & merged])
        own = np.flatnonzero(~truncate & merged)
        keys = self._admit(events[own])
        np.maximum.at(self._last, keys, sequence[own])
        self._remembered.list(keys, slots[own])
        self._remembered.outdate(slots[~merged])
        return slots

    def plan(self, events: pl.DataFrame) -> Plan:
        """Work out what `events`, in any order, change; the columns are those that `Scd1.plan` takes."""
        self._list_loaded()
        truncate = (events["_op"] == "truncate").to_numpy()
        wipes, events = rows_where(events, truncate)[self._of_event], rows_where(events, ~truncate)[self._of_event]
        truncates = wipes["_sequence"].to_numpy()
        keys = self._admit(events)
        ranks = self._ranks(events)
        touched, late = self._touched(keys, ranks.sequence, truncates)
        history = self._history_of(touched, late)
        line = in_line(events, keys, ranks, history.known, self._truncated(touched[late], truncates))
        made = timeline(line.events, line.keys, line.ranks, line.sequence, self._declared, self._tracked)
        changes, slots = self._changes(history, made)
        fresh = np.flatnonzero(made.hidden & (line.origin < len(history.slots)) & (line.origin != TRUNCATE))
        lists = _Lists(
            touched,
            self._bases(touched, late),
            line.sequence[last_of_each(line.keys)],
            made.slots,
            slots,
            made.valid_from,
            made.is_open,
            line.keys[fresh],
            truncates,
        )
        found = outcome(line, events.height, _beaten(line), made.silent, self._declared, self._pairs)
        memory = self._remembered.plan(pl.concat([line.events[fresh], wipes]))
        return Plan(changes, found.with_truncates(len(truncates)), memory, lists)

    def apply(self, plan: Plan) -> None:
        """Make the state what it is after `plan`."""
        lists = plan.newest
        self._new_rows(len(plan.changes.inserted_slots))
        self._rows.cut(lists.keys, lists.bases)
        bases = lists.bases[np.searchsorted(lists.keys, lists.row_keys)]
        self._rows.put(lists.row_keys, lists.rows, bases)
        self._row_keys[lists.rows] = lists.row_keys
        self._starts[lists.rows], self._is_open[lists.rows] = lists.starts, lists.is_open
        self._remembered.apply(plan.memory)
        self._remembered.list(lists.event_keys, plan.memory.slots[: len(lists.event_keys)])
        self._last[lists.keys] = np.maximum(self._last[lists.keys], lists.last)
        self._take_truncates(lists.truncates)

    def _take_truncates(self, sequences: Ints) -> None:
        self._truncates = np.union1d(self._truncates, sequences)

    def _admit(self, rows: pl.DataFrame) -> Slots:
        keys = self._index.admit(rows)
        self._last = grown(self._last, len(self._index), fill=NEVER)
        return keys

    def _new_rows(self, count: int) -> Slots:
        slots = np.arange(self._row_count, self._row_count + count)
        self._row_count += count
        self._starts, self._is_open = grown(self._starts, self._row_count), grown(self._is_open, self._row_count)
        self._row_keys = grown(self._row_keys, self._row_count)
        return slots

    def _list_loaded(self) -> None:
        """List the rows that were loaded since; they come in any order."""
        if self._unlisted:
            keys, slots = (np.concatenate(part) for part in zip(*self._unlisted, strict=True))
            self._unlisted.clear()
            keys = np.unique(keys)
            slots = np.concatenate([self._rows.all(keys), slots])
            slots = slots[self._held.present(slots)]  # rows that another writer moved have new slots
            slots = slots[np.lexsort((self._starts[slots], self._row_keys[slots]))]
            self._rows.put(self._row_keys[slots], slots, np.full(len(slots), _NONE))

    def _touched(self, keys: Slots, sequence: Ints, truncates: Ints) -> tuple[Slots, Flags]:
        """Return the keys of a batch, ascending, and whether an event of theirs is not newer than all that is known.

        A truncate is an event of every key.
        """
        if len(truncates):
            everyone = np.arange(len(self._index))
            return everyone, np.ones(len(everyone), bool)
        touched, places = np.unique(keys, return_inverse=True)
        earliest = np.full(len(touched), np.iinfo(np.int64).max)
        np.minimum.at(earliest, places, sequence)
        last = np.maximum(self._last[touched], self._truncates.max(initial=NEVER))
        return touched, (earliest <= last) & (last != NEVER)

    def _truncated(self, keys: Slots, truncates: Ints) -> tuple[pl.DataFrame, Slots]:
        """Return all truncates, as events of each of these keys."""
        every = np.union1d(self._truncates, truncates)
        events = self._none[np.full(len(keys) * len(every), 0)].with_columns(
            _sequence=pl.Series(np.tile(every, len(keys)), dtype=pl.Int64)
        )
        return events, np.repeat(keys, len(every))

    def _current(self, keys: Slots) -> tuple[Slots, Flags]:
        """Return the newest row of each key, and whether it is open."""
        newest = self._rows.newest(keys)
        is_open = newest != _NONE
        is_open[is_open] = self._is_open[newest[is_open]]
        return newest, is_open

    def _bases(self, touched: Slots, late: Flags) -> Ints:
        """Return for each key the row after which its list goes on."""
        newest, is_open = self._current(touched)
        bases = newest.copy()
        bases[is_open] = self._rows.older(newest[is_open])
        bases[late] = _NONE
        return bases

    def _history_of(self, touched: Slots, late: Flags) -> _History:
        """Return the open rows of these keys, of late ones all rows, and what is remembered of those."""
        newest, is_open = self._current(touched)
        slots = np.concatenate([newest[is_open & ~late], self._rows.all(touched[late])])
        slots = slots[np.lexsort((self._starts[slots], self._row_keys[slots]))]
        rows, keys, starts = self._held.rows(slots), self._row_keys[slots].astype(np.int64), self._starts[slots]
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
        return Rank.of(events, (events["_op"] == "delete").to_numpy(), first_stands=self._first_stands)

    def _changes(self, history: _History, made: Timeline) -> tuple[Changes, Slots]:
        """Compare the rows that are to be with those there are; return the changes, and the slots of all rows."""
        rows = self._shown(made)
        match = _matches((history.keys, history.starts), (made.slots, made.valid_from))
        kept = match != _NONE
        same = np.zeros(rows.height, bool)
        same[kept] = equal_rows(rows_where(rows, kept), history.rows[match[kept]])
        gone = np.ones(len(history.slots), bool)
        gone[match[kept]] = False
        slots = np.empty(rows.height, np.int64)
        slots[kept] = history.slots[match[kept]]
        slots[~kept] = self._row_count + np.arange(int((~kept).sum()))
        changed = kept & ~same
        changes = Changes(
            rows_where(rows, ~kept),
            slots[~kept],
            history.rows[match[changed]],
            rows_where(rows, changed),
            slots[changed],
            rows_where(history.rows, gone),
            history.slots[gone],
        )
        return changes, slots

    def _shown(self, made: Timeline) -> pl.DataFrame:
        """Return the rows of a timeline as the table has them."""
        events = made.events[made.row]
        ends = pl.Series(VALID_TO, made.valid_to).set(pl.Series(made.is_open), None)
        columns = [
            pl.Series(VALID_FROM, made.valid_from).cast(self._sequence),
            ends.cast(self._sequence),
            pl.Series(IS_CURRENT, made.is_open),
            pl.Series("_row_hash", hash_rows(events[self._declared]).view(np.int64)),
        ]
        return events.hstack(columns)[[*self._declared, *self._history, *TECHNICAL]]


def _beaten(line: Line) -> Flags:
    """Mark the upserts whose sequence has a delete, which wins."""
    beaten = np.zeros(len(line.keys), bool)
    here, after = line.ranks.at(slice(None, -1)), line.ranks.at(slice(1, None))
    same = (line.keys[1:] == line.keys[:-1]) & (here.sequence == after.sequence)
    beaten[:-1] = same & after.deleted & ~here.deleted
    return beaten


def _matches(old: tuple[Slots, Ints], new: tuple[Slots, Ints]) -> Ints:
    """Return for each new (key, start) the place of the same in `old`, -1 where it is not there; no pair is twice."""
    keys, starts = (np.concatenate(part) for part in zip(old, new, strict=True))
    order = np.lexsort((starts, keys))  # stable, so that of two the old one comes first
    pairs = np.flatnonzero((keys[order[1:]] == keys[order[:-1]]) & (starts[order[1:]] == starts[order[:-1]]))
    match = np.full(len(new[0]), _NONE)
    match[order[pairs + 1] - len(old[0])] = order[pairs]
    return match
