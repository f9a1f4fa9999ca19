"""The current row of keys whose events all carried every column: their newest event, the one of the greatest rank."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from operators.eager import rows_where
from operators.equality import equal_rows
from operators.keys.held_rows import Flags
from operators.keys.key_index import Slots
from operators.sequences import Sequences
from operators.silver.current import Current, Part, Winners
from operators.silver.outcomes import Counts, Outcome, pairs
from operators.silver.rank import Ints, Rank, last_of_each


@dataclass(frozen=True, slots=True)
class _Ranked:
    """Events and their keys and ranks, sorted by both."""

    events: pl.DataFrame
    keys: Slots
    ranks: Rank


def newest(  # noqa: PLR0913, PLR0917 - events, and what is known of their keys
    current: Current, events: pl.DataFrame, keys: Slots, sequences: Sequences, floor: Any, below: Slots
) -> Part:
    """Work out what events with these keys change.

    `sequences` has the newest sequence of the key of each event, or what no event has where none is known. What is
    older than `floor` counts no more; rows `below` it go, unless an event brings them back.
    """
    ranks = current.ranks(events)
    order = ranks.order(keys)
    ranked = _Ranked(events[order], keys[order], ranks.at(order))
    held = _held(current, ranked, sequences[order], floor)
    again = ranked.ranks.deleted & ranked.ranks.ties(held)
    won = last_of_each(ranked.keys) & ranked.ranks.above(held) & (ranked.ranks.sequence >= floor) & ~again
    winners = Winners(rows_where(ranked.events, won), ranked.keys[won], ranked.ranks.deleted[won])
    changes, unchanged = current.changes(winners, below)
    no_op = np.zeros(len(won), bool)
    no_op[won] = unchanged
    hidden = unchanged | winners.deleted
    return Part(
        changes,
        _outcome(current, ranked, held, won, no_op),
        winners.keys,
        ranked.ranks.sequence[won],
        np.zeros(len(winners.keys), bool),
        rows_where(winners.events[current.event], hidden),
        winners.keys[hidden],
        keys[:0],
        keys[:0],
    )


def _held(current: Current, ranked: _Ranked, sequences: Sequences, floor: Any) -> Rank:
    """Return what the key of each event holds; a position only where it decides.

    A key without a row holds a delete. Below the floor nothing is held any more.
    """
    counts = np.where(sequences >= floor, sequences, current.never(1))
    held = Rank.held(counts, ~current.held.present(ranked.keys))
    tied = np.flatnonzero(ranked.ranks.ties(held) & ~ranked.ranks.deleted)
    if tied.size:
        newest = _newest_known(current, ranked.keys[tied])
        held.partition[tied], held.offset[tied] = newest.ranks.partition, newest.ranks.offset
    return held


def _newest_known(current: Current, keys: Slots) -> _Ranked:
    """Return for each of these keys, each of which has a row, its newest event, shown by that row or not."""
    distinct, places = np.unique(keys, return_inverse=True)
    known, _ = current.known(distinct)
    order = known.ranks.order(known.keys)
    order = order[last_of_each(known.keys[order])][places]
    return _Ranked(known.events[order], keys, known.ranks.at(order))


def _outcome(current: Current, ranked: _Ranked, held: Rank, won: Flags, no_op: Flags) -> Outcome:
    """Label each event; of two upserts that tie, the values tell a copy from another row."""
    keys, ranks, declared = ranked.keys, ranked.ranks, current.declared
    ties_next = np.zeros(len(keys), bool)
    ties_next[:-1] = (keys[1:] == keys[:-1]) & ranks.at(slice(None, -1)).ties(ranks.at(slice(1, None)))
    ties_held = ranks.ties(held) & ~ties_next
    tied = ties_next | ties_held
    if not tied.any():
        counts = Counts(int((won & ~no_op).sum()), int((won & no_op).sum()), int((~won).sum()))
        return Outcome(counts, pl.DataFrame(schema=current.pairs))
    same = ranks.deleted & tied
    next_to = np.flatnonzero(ties_next & ~ranks.deleted)
    values = ranked.events[declared] if len(next_to) else ranked.events[declared].clear()
    same[next_to] = equal_rows(values[next_to], values[next_to + 1])
    beside = np.flatnonzero(ties_held & ~ranks.deleted)
    known = _newest_known(current, keys[beside])
    same[beside] = equal_rows(ranked.events[beside][declared], known.events[declared])
    counts = Counts(
        applied=int((won & ~tied & ~no_op).sum()),
        no_op=int((won & ~tied & no_op).sum()),
        superseded=int((~won & ~tied).sum()),
        duplicate=int((tied & same).sum()),
        ambiguous=int((tied & ~same).sum()),
    )
    return Outcome(counts, _pairs(current, ranked, next_to[~same[next_to]], beside, known, ~same[beside]))


def _pairs(  # noqa: PLR0913, PLR0917 - two kinds of pairs
    current: Current, ranked: _Ranked, next_to: Ints, beside: Ints, known: _Ranked, clash: Flags
) -> pl.DataFrame:
    """Return the pairs of events of the batch, and of an event of the batch with one that is known."""
    found = [pairs(ranked.events[next_to + 1], ranked.events[next_to], current.pairs)]
    if clash.any():
        ours, theirs = ranked.events[beside[clash]], known.events[np.flatnonzero(clash)]
        stands = ranked.ranks.at(beside[clash]).above(known.ranks.at(clash))
        found.append(pairs(rows_where(ours, stands), rows_where(theirs, stands), current.pairs))
        found.append(pairs(rows_where(theirs, ~stands), rows_where(ours, ~stands), current.pairs))
    return pl.concat(found)
