"""All events of some keys in one line: what is known of them, what is new, and what becomes of the new ones."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from operators.equality import equal_rows
from operators.held_rows import Flags
from operators.key_index import Slots
from operators.rank import Ints, Rank
from operators.scd1 import Counts
from operators.timeline import Timeline
from operators.unavailable import UNAVAILABLE

EVENT = ["_op", "_sequence", "_topic", "_partition", "_offset", "_changed_at", UNAVAILABLE]
"""The columns of an event in a line, before the declared ones."""

NEW, TRUNCATE = -1, -2


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of some keys: rows of the table, by key and start, and as `events` these and then remembered ones.

    `slots`, `row_keys` and `starts` are of the rows, `keys` and `ranks` of the events.
    """

    rows: pl.DataFrame
    slots: Slots
    row_keys: Slots
    starts: Ints
    events: pl.DataFrame
    keys: Slots
    ranks: Rank


@dataclass(frozen=True, slots=True)
class Line:
    """Events sorted by key and rank.

    `origin` is the row of `Known.events` that an event is, `NEW` or `TRUNCATE`. The sequences of `ranks` put truncates
    before all else at their sequence; the real ones are in `sequence`.
    """

    events: pl.DataFrame
    keys: Slots
    ranks: Rank
    sequence: Ints
    origin: Ints


def in_line(
    events: pl.DataFrame, keys: Slots, ranks: Rank, known: Known, truncated: tuple[pl.DataFrame, Slots]
) -> Line:
    """Put new events, what is known, and truncates with the keys that they are for, in one line."""
    truncates, truncated_keys = truncated
    every = pl.concat([truncates, events, known.events])
    ranks = Rank.of(truncates, np.ones(truncates.height, bool)).followed_by(ranks).followed_by(known.ranks)
    keys = np.concatenate([truncated_keys, keys, known.keys])
    origin = np.repeat([TRUNCATE, NEW], [truncates.height, events.height])
    origin = np.concatenate([origin, np.arange(known.events.height)])
    sequence = ranks.sequence
    if truncates.height:
        points = np.searchsorted(np.unique(sequence), sequence)
        ranks = replace(ranks, sequence=2 * points + (origin != TRUNCATE))
    order = ranks.order(keys)
    order = order[_last_of_equals(keys[order], ranks.at(order))]
    return Line(every[order], keys[order], ranks.at(order), sequence[order], origin[order])


def _last_of_equals(keys: Slots, ranks: Rank) -> Flags:
    """Mark of events of the same rank the last.

    They are one event, as it came again, as its row shows it, and as it was remembered, at the end as it was sent.
    """
    last = np.ones(len(keys), bool)
    here, after = ranks.at(slice(None, -1)), ranks.at(slice(1, None))
    elsewhere = (here.partition != after.partition) | (here.offset != after.offset)
    last[:-1] = (keys[1:] != keys[:-1]) | ~here.ties(after) | elsewhere
    return last


def count(line: Line, made: Timeline, size: int, declared: Sequence[str]) -> Counts:
    """Label each of `size` new events; of events at one sequence, the values tell a copy from another row."""
    new, deleted = line.origin == NEW, line.ranks.deleted
    here, after = line.ranks.at(slice(None, -1)), line.ranks.at(slice(1, None))
    same_key = line.keys[1:] == line.keys[:-1]
    ties_next, beaten = np.zeros((2, len(new)), bool)
    ties_next[:-1] = same_key & here.ties(after)
    group = np.cumsum(~ties_next) - ~ties_next  # of events that tie
    tied = new & (ties_next | (np.bincount(group, ~new) > 0)[group])
    places = np.flatnonzero(tied & ~deleted)
    values, same = line.events[[*declared]], deleted.copy()
    same[places] = equal_rows(values[places], values[places + np.where(ties_next[places], 1, -1)])
    beaten[:-1] = same_key & (here.sequence == after.sequence) & after.deleted & ~here.deleted  # by a delete
    outcome = new & ~tied
    return Counts(
        applied=int((outcome & ~beaten & ~made.silent).sum()),
        no_op=int((outcome & ~beaten & made.silent).sum()),
        superseded=int((outcome & beaten).sum()),
        duplicate=int((tied & same).sum()) + size - int(new.sum()),
        ambiguous=int((tied & ~same).sum()),
    )
