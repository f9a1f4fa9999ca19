"""The history of keys: which rows a set of events makes, whatever order they came in.

Events of a key are put in the order of their rank (see `rank`). Then:

1. Of the events at one sequence the one of the greatest rank counts.
2. A value that an event did not carry is the latest one before it, back to the last delete.
3. An upsert opens a row, unless the row before it has the same tracked values: then it belongs to that row's *run*, and
   what is not tracked is updated in place.
4. A row is valid from the sequence of the first event of its run to that of the next row, or of a delete.

Some events show in no row: deletes, upserts that changed nothing, and those of a run whose values another has replaced.
They must be remembered all the same, since an event that comes late may fall between them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from operators.equality import equal_rows
from operators.keys.held_rows import Flags
from operators.sequences import Sequences
from operators.silver.rank import Ints, Rank
from operators.silver.unavailable import UNAVAILABLE, fill_unavailable


@dataclass(frozen=True, slots=True)
class Timeline:
    """The rows that events make, sorted by slot and `valid_from`.

    `events` are the events as given, their unavailable values filled in; `row` tells for each history row which of
    them it shows. `valid_to` counts only where not `is_open`. Of the events, `silent` ones changed nothing; `hidden`
    ones must be remembered because no row shows them, or not that they lacked values, and so must those that gave
    values to another at their sequence.
    """

    events: pl.DataFrame
    row: Ints
    slots: Ints
    valid_from: Sequences
    valid_to: Sequences
    is_open: Flags
    silent: Flags
    hidden: Flags


def timeline(  # noqa: PLR0913, PLR0917 - an event has as many parts
    events: pl.DataFrame,
    slots: Ints,
    ranks: Rank,
    sequence: Sequences,
    declared: Sequence[str],
    tracked: Sequence[str],
) -> Timeline:
    """Return the history of keys from all their events, which are sorted by slot and rank.

    `sequence` has the sequences that make `valid_from` and `valid_to`; those of `ranks` only say what comes before
    what, and what counts as one. A delete of a key that is not there is silent too.
    """
    events = _filled(events, slots, ranks.deleted)
    last = _last_of_each_sequence(slots, ranks.sequence)
    counts = np.flatnonzero(last)
    group: Ints = np.cumsum(last) - last  # for each event, which of `counts` it comes down to
    slots, sequence, deleted = slots[counts], sequence[counts], ranks.deleted[counts]
    follows = _follows_upsert(slots, deleted) & ~deleted
    later = np.flatnonzero(follows)
    silent, in_run = deleted & ~_follows_upsert(slots, deleted), follows.copy()
    in_run[later] = _same(events, counts, later, tracked)
    silent[later] = in_run[later] & _same(events, counts, later, [name for name in declared if name not in tracked])
    starts = np.flatnonzero(~in_run & ~deleted)
    ends = np.append(np.flatnonzero(~in_run), len(counts))
    after = ends[np.searchsorted(ends, starts, side="right")]
    shown = np.maximum.accumulate(np.where(silent, 0, np.arange(len(counts))))[after - 1]
    is_open = np.ones(len(starts), bool)
    inside = after < len(counts)
    is_open[inside] = slots[after[inside]] != slots[starts[inside]]
    valid_to = sequence[np.minimum(after, len(counts) - 1)]
    partial = events[UNAVAILABLE].is_not_null().to_numpy()
    hidden = partial[counts][group]
    hidden[counts] = True
    hidden[counts[shown]] = partial[counts[shown]]
    changed_nothing = np.zeros(events.height, bool)
    changed_nothing[counts] = silent
    return Timeline(events, counts[shown], slots[starts], sequence[starts], valid_to, is_open, changed_nothing, hidden)


def _follows_upsert(slots: Ints, deleted: Flags) -> Flags:
    """Tell for each event whether the one before it is an upsert of the same key."""
    follows = np.zeros(len(slots), bool)
    follows[1:] = (slots[1:] == slots[:-1]) & ~deleted[:-1]
    return follows


def _filled(events: pl.DataFrame, slots: Ints, deleted: Flags) -> pl.DataFrame:
    if events[UNAVAILABLE].null_count() == events.height:
        return events
    begins = np.ones(len(slots), bool)  # a key, or the life of a key after a delete
    begins[1:] = (slots[1:] != slots[:-1]) | deleted[:-1]
    return fill_unavailable(events, np.cumsum(begins), events.clear(), slots[:0])


def _last_of_each_sequence(slots: Ints, sequence: Sequences) -> Flags:
    last = np.ones(len(slots), bool)
    last[:-1] = (slots[1:] != slots[:-1]) | (sequence[1:] != sequence[:-1])
    return last


def _same(events: pl.DataFrame, rows: Ints, places: Ints, columns: Sequence[str]) -> Flags:
    """Tell for each place whether the event there has the same values as the one before it."""
    if not columns:
        return np.ones(len(places), bool)
    values = events[[*columns]]
    return equal_rows(values[rows[places]], values[rows[places - 1]])
