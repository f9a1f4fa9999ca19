"""What a Silver stage knows of its table, and keeps in step with it: current rows, or histories."""

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

import numpy as np
import polars as pl

from flows.lake import Lake
from flows.silver import Silver
from flows.tables import side_table
from operators.changes import Changes
from operators.key_index import Slots
from operators.scd1 import Counts, Scd1
from operators.scd1 import Plan as CurrentPlan
from operators.scd2 import Plan as HistoryPlan
from operators.scd2 import Scd2
from storage.errors import HoleError
from storage.maintenance import Maintenance
from storage.merge_writer import MergeWriter, RowChanges
from storage.owned_table import Commit, OwnedTable
from storage.positions import Positions
from storage.row_locator import RowLocator
from storage.staging import is_below, read_deletes
from storage.table_declaration import read_snapshot


class Plan(Protocol):
    """The effect of a batch of events, not made yet."""

    @property
    def changes(self) -> Changes:
        """What changes in the table."""
        ...

    @property
    def counts(self) -> Counts:
        """What became of the events."""
        ...


_Plan = TypeVar("_Plan")


class State(Protocol[_Plan]):
    """Detects changes.

    A batch is planned; what no row shows is remembered; the rows are merged; then the plan is applied.
    """

    def plan(self, events: pl.DataFrame, /) -> _Plan:
        """Work out what events change."""
        ...

    def remember(self, plan: _Plan, positions: Positions, /) -> None:
        """Commit what must be known and will show in no row. Raises TransientError."""
        ...

    def apply(self, plan: _Plan, /) -> None:
        """Make the state what it is after a plan."""
        ...


def open_state(
    silver: Silver, lake: Lake, pipeline: str, locator: RowLocator, positions: Mapping[str, int]
) -> State[Any]:
    """Read back what is known of the table whose rows `locator` finds, and which stands at these positions."""
    if silver.history == "scd1":
        return Current(silver, lake, locator, positions)
    return Histories(silver, lake, pipeline, locator, positions)


class Current:
    """The state of an SCD1 table; deletes are read back from staging."""

    def __init__(self, silver: Silver, lake: Lake, locator: RowLocator, positions: Mapping[str, int]) -> None:
        self._scd1 = Scd1(pl.Schema(silver.schema), silver.keys, locator)
        locator.load(self._scd1.load, self._scd1.loaded_columns)
        self._scd1.load_deletes(*read_deletes(lake.staging(silver.name), positions))
        self.plan, self.apply = self._scd1.plan, self._scd1.apply

    def remember(self, plan: CurrentPlan, positions: Positions) -> None:
        """Remember nothing: staging has the deletes."""


class Histories:
    """The state of an SCD2 table, and the table beside it of events that no row shows.

    That one commits first. When a run ends between the two, what it has of later positions comes again, and is written
    a second time, which changes nothing.
    """

    def __init__(
        self, silver: Silver, lake: Lake, pipeline: str, locator: RowLocator, positions: Mapping[str, int]
    ) -> None:
        self._positions = positions
        _check_side(lake.side(silver.name), positions)
        self._side = OwnedTable(lake.side(silver.name), side_table(silver, pipeline))
        remembered = RowLocator(self._side)
        self._writer = MergeWriter(self._side, remembered)
        self._maintenance = Maintenance(self._side, remembered, lake.retention)
        self._scd2 = Scd2(
            pl.Schema(silver.schema),
            silver.keys,
            locator,
            remembered,
            sequence=silver.sequence_type,
            tracked=silver.track,
        )
        locator.load(self._scd2.load, self._scd2.loaded_columns)
        remembered.load(self._load, [*self._scd2.remembered_columns, "_topic", "_partition", "_offset"])
        self.plan, self.apply = self._scd2.plan, self._scd2.apply

    def remember(self, plan: HistoryPlan, positions: Positions) -> None:
        """Commit what no row shows. Raises TransientError."""
        if plan.remembered.height:
            nothing, none = plan.remembered.clear(), np.empty(0, np.int64)
            slots = plan.remembered_slots
            changes = RowChanges(plan.remembered, slots, nothing, nothing, none, nothing, none)
            self._writer.merge(changes, Commit(positions))
            self._maintenance.tick()

    def _load(self, events: pl.DataFrame) -> Slots:
        merged = events.select(is_below(self._positions)).to_series()
        return self._scd2.load_remembered(events, merged.to_numpy())


def _check_side(uri: str, positions: Mapping[str, int]) -> None:
    """Check that the table beside a history, which is made before its first commit, is still there."""
    if positions and read_snapshot(uri) is None:
        raise HoleError(
            f"{uri}: the table is gone, and with it the events that no row of the history shows. Restore it, or move "
            "the Silver table away too: both are made anew from staging"
        )
