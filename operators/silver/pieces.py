"""The current row of keys whose events did not all carry every column: it is pieced together from several of them.

A *reset* is an event that leaves nothing of those before it: a delete, or an upsert that carried all columns. Of a key
these events are needed, and no others, to know its row whatever comes late:

1. the last reset;
2. behind it, for each column the last event that carried it;
3. the last event of all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from operators.eager import rows_where
from operators.keys.held_rows import Flags
from operators.keys.key_index import Slots
from operators.silver.current import Current, Part, Winners
from operators.silver.line import NEW, Known, Line, in_line
from operators.silver.outcomes import Counts, outcome
from operators.silver.rank import Ints, last_of_each
from operators.silver.unavailable import UNAVAILABLE, fill_unavailable


@dataclass(frozen=True, slots=True)
class _Pieced:
    """What the events of a line come to: `rows` are its events with their missing values filled in.

    `last` marks the last event of each key, `live` those that are needed, `partial` those that lack a column.
    `since_reset` marks those not before the last reset of their key.
    """

    rows: pl.DataFrame
    last: Flags
    live: Flags
    partial: Flags
    since_reset: Flags


def pieced(current: Current, events: pl.DataFrame, keys: Slots, every: Slots, floor: Any) -> Part:
    """Work out what events with these keys change; `every` has all keys to look at, ascending.

    What is older than `floor` counts no more.
    """
    known, slots = current.known(every)
    shown = known.events.height - len(slots)
    events = events[current.event]
    line = in_line(events, keys, current.ranks(events), known, (events.clear(), keys[:0]))
    below = line.sequence < floor
    late = int((below & (line.origin == NEW)).sum())
    line = line.some(~below)
    made = _pieced(line, current.declared)
    winners = Winners(rows_where(made.rows, made.last), line.keys[made.last], line.ranks.deleted[made.last])
    changes, unchanged = current.changes(winners, every[current.held.present(every)])
    stays = unchanged[np.searchsorted(winners.keys, line.keys)]
    is_shown = np.where(stays, _is_row(line, known, shown), made.last & ~line.ranks.deleted)
    live = made.live | (is_shown & made.since_reset)
    remembered = live & ~(is_shown & ~made.partial)
    new, kept = remembered & (line.origin < shown), remembered & (line.origin >= shown)
    sequences = current.never(len(every))
    sequences[np.searchsorted(every, winners.keys)] = line.sequence[made.last]
    found = outcome(line, events.height - late, ~live, stays, current.declared, current.pairs)
    return Part(
        changes,
        replace(found, counts=found.counts.plus(Counts(superseded=late))),
        every,
        sequences,
        np.isin(every, line.keys[remembered & made.partial]),
        line.events[np.flatnonzero(new)],
        line.keys[new],
        slots[line.origin[kept] - shown],
        line.keys[kept],
    )


def _is_row(line: Line, known: Known, shown: int) -> Flags:
    """Mark the events that the rows of their keys show now; `shown` rows come first in `known`."""
    if not shown:
        return np.zeros(len(line.keys), bool)
    places = np.minimum(np.searchsorted(known.keys[:shown], line.keys), shown - 1)
    row = known.ranks.at(places)
    here = (known.keys[places] == line.keys) & row.ties(line.ranks)
    same: Flags = here & (row.partition == line.ranks.partition) & (row.offset == line.ranks.offset)
    return same


def _pieced(line: Line, declared: Sequence[str]) -> _Pieced:
    """Piece the current row of each key together."""
    partial = line.events[UNAVAILABLE].is_not_null().to_numpy()
    last = last_of_each(line.keys)
    begins = ~partial
    begins[:1] = True
    begins[1:] |= last[:-1]
    life: Ints = np.cumsum(begins)
    ends = np.flatnonzero(last)
    since_reset = life == life[ends[np.searchsorted(ends, np.arange(len(life)))]]
    rows, live = line.events, last | (since_reset & ~partial)
    if partial.any():
        rows = fill_unavailable(rows, life, rows.clear(), line.keys[:0])
        for name in declared:
            live |= since_reset & _last_carrier(line.events[UNAVAILABLE], name, life)
    return _Pieced(rows, last, live, partial, since_reset)


def _last_carrier(unavailable: pl.Series, name: str, life: Ints) -> Flags:
    """Mark of each life the last event that carried a column."""
    carriers = np.flatnonzero(~unavailable.list.contains(name).fill_null(value=False).to_numpy())
    marked = np.zeros(len(life), bool)
    marked[carriers[last_of_each(life[carriers])]] = True
    return marked
