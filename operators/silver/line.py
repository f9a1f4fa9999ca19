"""All events of some keys in one line: what is known of them, and what is new."""

from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from operators.eager import constant
from operators.keys.held_rows import Flags
from operators.keys.key_index import Slots
from operators.sequences import Sequences
from operators.silver.rank import Ints, Rank
from operators.silver.unavailable import UNAVAILABLE

EVENT = ["_op", "_sequence", "_topic", "_partition", "_offset", "_changed_at", UNAVAILABLE]
"""The columns of an event in a line, before the declared ones."""

NEW, TRUNCATE = -1, -2


@dataclass(frozen=True, slots=True)
class Known:
    """Events that are known of some keys: first those that rows of the table show, then remembered ones."""

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
    sequence: Sequences
    origin: Ints

    def some(self, flags: Flags) -> "Line":
        """Return the events that are flagged."""
        rows = np.flatnonzero(flags)
        return Line(self.events[rows], self.keys[rows], self.ranks.at(rows), self.sequence[rows], self.origin[rows])


def shown_events(rows: pl.DataFrame) -> pl.DataFrame:
    """Return rows of the table as the upserts that they show, in the columns of a line after which others follow."""
    upsert = constant("_op", "upsert", pl.String(), rows.height)
    return rows.hstack([upsert, constant(UNAVAILABLE, None, pl.List(pl.String()), rows.height)])


def as_sent_last(remembered: pl.DataFrame) -> Ints:
    """Return the order of remembered events in which, of equal ones, the one as it was sent comes last."""
    order: Ints = np.argsort(remembered[UNAVAILABLE].is_not_null().to_numpy(), kind="stable")
    return order


def in_line(
    events: pl.DataFrame, keys: Slots, ranks: Rank, known: Known, truncated: tuple[pl.DataFrame, Slots]
) -> Line:
    """Put new events, what is known, and truncates with the keys that they are for, in one line."""
    truncates, truncated_keys = truncated
    every = pl.concat([truncates, known.events, events], rechunk=True)  # new events are the latest, as a rule
    ranks = Rank.of(truncates, np.ones(truncates.height, bool)).followed_by(known.ranks).followed_by(ranks)
    keys = np.concatenate([truncated_keys, known.keys, keys])
    origin = np.full(len(keys), NEW)
    origin[: truncates.height] = TRUNCATE
    origin[truncates.height : len(origin) - events.height] = np.arange(known.events.height)
    sequence = ranks.sequence
    if truncates.height:
        points = np.searchsorted(np.unique(sequence), sequence)
        ranks = replace(ranks, sequence=2 * points + (origin != TRUNCATE))
    order = ranks.order(keys)
    order = order[_one_of_equals(keys[order], ranks.at(order), origin[order])]
    return Line(every[order], keys[order], ranks.at(order), sequence[order], origin[order])


def _one_of_equals(keys: Slots, ranks: Rank, origin: Ints) -> Flags:
    """Mark of events of the same rank the one of the greatest origin.

    They are one event, as it came again, as its row shows it, and as it was remembered, at the end as it was sent.
    """
    marked, repeats = np.ones(len(keys), bool), np.zeros(len(keys), bool)
    here, after = ranks.at(slice(None, -1)), ranks.at(slice(1, None))
    there = (here.partition == after.partition) & (here.offset == after.offset)
    repeats[1:] = there & (keys[1:] == keys[:-1]) & here.ties(after)
    if repeats.any():
        group = np.cumsum(~repeats)
        order = np.lexsort((origin, group))
        marked[order[:-1]] = group[order[1:]] != group[order[:-1]]
    return marked
