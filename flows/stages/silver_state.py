"""What a Silver stage knows of its table, and keeps in step with it: current rows, or histories."""

from datetime import timedelta
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from flows.lake import Lake
from flows.silver import Silver
from flows.stages.merged import Merged
from flows.stages.tables import side_table
from operators.keys.changes import Changes
from operators.keys.held_rows import Flags
from operators.keys.key_index import Slots
from operators.order import Order
from operators.silver.history_rows import OverlapError
from operators.silver.outcomes import Outcome
from operators.silver.remembered import Memory
from operators.silver.scd1 import Scd1
from operators.silver.scd2 import Scd2
from storage.delta.maintenance import Maintenance
from storage.delta.merge_writer import MergeWriter, RowChanges
from storage.delta.owned_table import Commit, OwnedTable
from storage.delta.positions import Positions
from storage.delta.row_locator import RowLocator
from storage.delta.table_declaration import read_snapshot
from storage.errors import HoleError, TableMismatchError


class Plan(Protocol):
    """The effect of a batch of events, not made yet."""

    @property
    def changes(self) -> Changes:
        """What changes in the table."""
        ...

    @property
    def outcome(self) -> Outcome:
        """What became of the events."""
        ...

    @property
    def memory(self) -> Memory:
        """What must be known and will show in no row."""
        ...


_Plan = TypeVar("_Plan")


class ChangeDetection(Protocol[_Plan]):
    """Works out what events change, and knows what came of it; `operators` has one for each kind of history."""

    loaded_columns: list[str]
    remembered_columns: list[str]

    def load(self, rows: pl.DataFrame, /) -> Slots:
        """Take in rows of the table."""
        ...

    def load_remembered(self, events: pl.DataFrame, merged: Flags, /) -> Slots:
        """Take in remembered events."""
        ...

    def plan(self, events: pl.DataFrame, /) -> _Plan:
        """Work out what events change."""
        ...

    def apply(self, plan: _Plan, /) -> None:
        """Make the state what it is after a plan."""
        ...


class SilverState:
    """The state of a Silver table, and the table beside it of events that no row shows.

    A batch is planned; what no row shows is remembered; the rows are merged; then the plan is applied. When a run ends
    before the rows are merged, the events come again: what is remembered of them already is not honoured at the start,
    is remembered anew, and goes.
    """

    def __init__(self, silver: Silver, lake: Lake, pipeline: str, locator: RowLocator, merged: Merged) -> None:
        self._merged, self._uri = merged, lake.silver(silver.name)
        _check_side(lake.side(silver.name), merged)
        self._side = OwnedTable(lake.side(silver.name), side_table(silver, pipeline))
        remembered = RowLocator(self._side)
        self._writer = MergeWriter(self._side, remembered)
        self._maintenance = Maintenance(self._side, remembered, lake.retention)
        self._detection = _detection(silver, locator, remembered)
        locator.load(self._detection.load, self._detection.loaded_columns)
        self._expired = _expiry(lake.side(silver.name), silver.tombstone_retention)
        told = [*self._detection.remembered_columns, "_topic", "_partition", "_offset", "_changed_at"]
        remembered.load(self._load, told, takes_more=False)
        self._locator = locator

    def plan(self, events: pl.DataFrame) -> Plan:
        """Work out what `events` change. Raises TableMismatchError when rows that others wrote are no history."""
        try:
            plan: Plan = self._detection.plan(events)
        except OverlapError as error:
            rows = self._locator.rows(error.slots).to_dicts()
            raise TableMismatchError(
                f"{self._uri}: two rows of a key are valid at the same time, {rows[0]} and {rows[1]}; expected a row "
                "to end where the next one begins. Another writer has added one of them: delete the one that is wrong"
            ) from None
        return plan

    def apply(self, plan: Plan) -> None:
        """Make the state what it is after a plan whose rows are merged."""
        self._detection.apply(plan)
        self._maintenance.tick()

    def close(self) -> None:
        """Leave the table alone from now on."""
        self._maintenance.close()

    def remember(self, plan: Plan, positions: Positions) -> None:
        """Commit what no row shows. Raises TransientError."""
        memory = plan.memory
        if memory.events.height:
            nothing, none = memory.events.clear(), np.empty(0, np.int64)
            changes = RowChanges(memory.events, memory.slots, nothing, nothing, none, nothing, memory.forgotten)
            self._writer.merge(changes, Commit(positions))

    def _load(self, events: pl.DataFrame) -> npt.NDArray[np.int64]:
        honoured = events.select(self._merged.has() & ~self._expired).to_series()
        return self._detection.load_remembered(events, honoured.to_numpy())


def _detection(silver: Silver, held: RowLocator, remembered: RowLocator) -> ChangeDetection[Any]:
    schema, order = pl.Schema(silver.schema), Order(silver.sequence_type, first_stands=silver.ties == "quarantine")
    if silver.history == "scd1":
        return Scd1(schema, silver.keys, held, remembered, order)
    return Scd2(schema, silver.keys, held, remembered, order, tracked=silver.tracked)


def _expiry(uri: str, retention: timedelta | None) -> pl.Expr:
    """Tell of each remembered event whether it is a delete so much older, by its log, than the newest that there is."""
    if retention is None:
        return pl.lit(value=False)
    newest = pl.scan_delta(uri).select(pl.col("_changed_at").max()).collect().item()
    if newest is None:
        return pl.lit(value=False)
    expired: pl.Expr = (pl.col("_op") == "delete") & (pl.col("_changed_at") < newest - retention)
    return expired.fill_null(value=False)


def _check_side(uri: str, merged: Merged) -> None:
    """Check that the table beside a Silver table, which is made before its first commit, is still there."""
    if merged.anything and read_snapshot(uri) is None:
        raise HoleError(
            f"{uri}: the table is gone, and with it the events that no row of Silver shows. Restore it, or run "
            "`goldwax rebuild MODULE TABLE`: both are made anew from staging"
        )
