"""What became of the events of a batch: counts, and the pairs of which nothing but the position decides."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from operators.equality import equal_rows
from operators.keys.held_rows import Flags
from operators.silver.line import NEW, Line
from operators.silver.rank import Ints
from operators.silver.unavailable import UNAVAILABLE

OTHER = "_other"
_POSITION = ["_topic", "_partition", "_offset"]


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the events of a batch; each event is counted once."""

    applied: int = 0
    no_op: int = 0
    superseded: int = 0
    duplicate: int = 0
    ambiguous: int = 0

    def plus(self, other: "Counts") -> "Counts":
        """Return the counts of both."""
        return Counts(
            self.applied + other.applied,
            self.no_op + other.no_op,
            self.superseded + other.superseded,
            self.duplicate + other.duplicate,
            self.ambiguous + other.ambiguous,
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """Counts, and the ambiguous pairs in the columns of `pair_schema`, one for each event that is counted so."""

    counts: Counts
    pairs: pl.DataFrame

    def plus(self, other: "Outcome") -> "Outcome":
        """Return the outcome of both."""
        return Outcome(self.counts.plus(other.counts), pl.concat([self.pairs, other.pairs]))

    def with_truncates(self, count: int) -> "Outcome":
        """Return the same with so many truncates, which always count as applied."""
        return replace(self, counts=self.counts.plus(Counts(applied=count)))


def pair_schema(event: pl.Schema, declared: Sequence[str]) -> pl.Schema:
    """Return the columns of a pair: the event that stands, then position and values of the other."""
    stands = {name: event[name] for name in [*declared, "_sequence", *_POSITION]}
    yields = {f"{OTHER}{name}": event[name] for name in _POSITION}
    values = {f"{OTHER}_{name}": event[name] for name in declared}
    return pl.Schema({**stands, **yields, **values})


def pairs(stands: pl.DataFrame, yields: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
    """Put events of one key and sequence side by side."""
    own = [name for name in schema if not name.startswith(OTHER)]
    others = [name for name in schema if name.startswith(OTHER)]
    columns = [yields[_own_name(name)].alias(name) for name in others]
    return stands[own].hstack(columns)


def _own_name(name: str) -> str:
    column = name.removeprefix(OTHER)
    return column if column in _POSITION else column.removeprefix("_")


def outcome(  # noqa: PLR0913, PLR0917 - events, what became of them, and how to tell them apart
    line: Line, size: int, superseded: Flags, no_op: Flags, declared: Sequence[str], schema: pl.Schema
) -> Outcome:
    """Label each of `size` new events, of which the line has all but those that were known already.

    Of events that tie, the values tell a copy from another row. `superseded` and `no_op` count for all others; what is
    neither is applied.
    """
    new, deleted = line.origin == NEW, line.ranks.deleted
    here, after = line.ranks.at(slice(None, -1)), line.ranks.at(slice(1, None))
    ties_next = np.zeros(len(new), bool)
    ties_next[:-1] = (line.keys[1:] == line.keys[:-1]) & here.ties(after)
    group = np.cumsum(~ties_next) - ~ties_next  # of events that tie
    tied = new & (ties_next | (np.bincount(group, ~new) > 0)[group])
    places = np.flatnonzero(tied & ~deleted)
    first = np.where(_follows_known(~new, group)[places], places - 1, places)
    same = _alike(line.events, first, declared)
    clash = first[~same]
    counts = Counts(
        applied=int((new & ~tied & ~superseded & ~no_op).sum()),
        no_op=int((new & ~tied & ~superseded & no_op).sum()),
        superseded=int((new & ~tied & superseded).sum()),
        duplicate=int((tied & deleted).sum()) + int(same.sum()) + size - int(new.sum()),
        ambiguous=len(clash),
    )
    return Outcome(counts, pairs(line.events[clash + 1], line.events[clash], schema))


def _follows_known(known: Flags, group: Ints) -> Flags:
    """Tell of each event whether one that was known before comes before it in its group.

    Then the pair that it is counted for is that with the event before it, else that with the one behind it: so each new
    event of a group has a pair of its own.
    """
    seen = np.cumsum(known)
    start = np.searchsorted(group, group)
    follows: Flags = seen - seen[start] + known[start] > 0
    return follows


def _alike(events: pl.DataFrame, places: Ints, declared: Sequence[str]) -> Flags:
    """Tell for each place whether the event there and the next one say the same."""
    columns = [*declared] if events[UNAVAILABLE].null_count() == events.height else [*declared, UNAVAILABLE]
    values = events[columns]
    return equal_rows(values[places], values[places + 1])
