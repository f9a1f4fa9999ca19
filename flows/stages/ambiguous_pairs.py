"""The table of ambiguous pairs: two events of a key at one sequence, with different rows."""

from collections.abc import Mapping

import polars as pl

from flows.event_batch import POSITION
from flows.lake import Lake
from flows.silver import Silver
from flows.stages.merged import Merged
from flows.stages.tables import ambiguous_table
from operators.sequences import from_column, to_values
from operators.silver.outcomes import OTHER
from storage.delta.maintenance import Maintenance
from storage.delta.owned_table import Commit, OwnedTable
from storage.errors import AmbiguousError

_POSITION = POSITION.names()
_POSITIONS = [*_POSITION, *(f"{OTHER}{name}" for name in _POSITION)]


class AmbiguousPairs:
    """Lists pairs before the Silver commit that they come from.

    A run that ends between the two commits finds the pairs again: those that are listed already, and of which Silver
    has not `merged` both events, are not listed twice.
    """

    def __init__(self, silver: Silver, lake: Lake, pipeline: str, merged: Merged) -> None:
        self._silver, uri = silver, lake.ambiguous(silver.name)
        self._table = OwnedTable(uri, ambiguous_table(silver, pipeline))
        self._maintenance = Maintenance(self._table, self._table, lake.retention)
        both = merged.has() & merged.has(OTHER)
        self._listed = pl.scan_delta(uri).filter(~both).select(_POSITIONS).collect()

    def close(self) -> None:
        """Leave the table alone from now on."""
        self._maintenance.close()

    def settle(self, pairs: pl.DataFrame) -> None:
        """List new pairs. Raises AmbiguousError where the table's policy is to stop, and TransientError."""
        if not pairs.height:
            return
        if self._silver.ties == "fail":
            raise AmbiguousError(_described(self._silver, pairs))
        if self._listed.height:
            pairs = pairs.join(self._listed, on=_POSITIONS, how="anti")
        self._table.append(pairs, Commit({}, {"listed": pairs.height}))
        self._maintenance.tick()


def _described(silver: Silver, pairs: pl.DataFrame) -> str:
    pair = pairs.row(0, named=True)
    key = ", ".join(f"{name}={pair[name]!r}" for name in silver.keys)
    values = [name for name in silver.schema if name not in silver.keys]
    ours = {name: pair[name] for name in values}
    theirs = {name: pair[f"{OTHER}_{name}"] for name in values}
    sequence = _sequence(silver, pairs)
    return (
        f"silver/{silver.name}: {pairs.height} ambiguous pairs, the first of {key} at sequence {sequence}: "
        f"{ours} at {_place(pair, '')}, {theirs} at {_place(pair, OTHER)}. Two events of a key at one sequence have no "
        "order: mend the source, name more columns in sequence_by, or declare ties='last_position' or 'quarantine'"
    )


def _sequence(silver: Silver, pairs: pl.DataFrame) -> object:
    """Return the sequence of the first pair as it was declared."""
    return to_values(from_column(pairs["_sequence"][:1]), silver.sequence_type)[0]


def _place(pair: Mapping[str, object], prefix: str) -> str:
    topic, partition, offset = (pair[f"{prefix}{name}"] for name in _POSITION)
    return f"{topic}/{partition} offset {offset}"
