"""The stage that keeps a Gold table: advance it from the Silver version it holds to a newer one."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
from deltalake import DeltaTable

from flows.kpi import Kpi
from flows.lake import Lake
from flows.stages.row_changes import row_changes
from flows.stages.silver_stage import Handover
from flows.stages.stage import advance
from flows.stages.tables import gold_table
from operators.eager import rows_where
from operators.silver.scd2 import IS_CURRENT
from storage.delta.change_feed import read_changes
from storage.delta.maintenance import Maintenance
from storage.delta.merge_writer import MergeWriter
from storage.delta.owned_table import Commit, OwnedTable, table_id
from storage.delta.row_locator import RowLocator
from storage.errors import HoleError

_FEED_STEP = 20  # Silver versions read at a time, which bounds the memory of a catch-up


@dataclass(frozen=True, slots=True)
class Refreshed:
    """A Gold table now shows its Silver table at `silver_version`."""

    kpi: str
    silver_version: int


class GoldStage:
    """Refreshes the Gold table of one KPI; its position is the version of the Silver table it has seen.

    1. Changes come handed over in memory, and continue at the position.
    2. Where they do not, the versions in between are read from Silver's change feed first.
    3. A table that is new, was made by another declaration or from another Silver table, or whose missing versions
       are gone from the feed, is made anew from all rows of Silver: rows and columns change in one commit.
    """

    def __init__(self, kpi: Kpi, lake: Lake, pipeline: str) -> None:
        self._kpi, self._lake, self._pipeline = kpi, lake, pipeline
        self._silver = kpi.source.name
        self._open()

    def advance(self, handovers: Sequence[Handover]) -> list[Refreshed]:
        """Commit what is new of `handovers`, in order of version."""
        return advance(lambda: self._refresh(handovers), self._open)

    def _open(self) -> None:
        declaration = gold_table(self._kpi, self._pipeline, table_id(self._silver_uri))
        self._table = OwnedTable(self._lake.gold(self._kpi.name), declaration)
        self._rollup = self._kpi.rollup()
        self._of_history = self._kpi.source.history == "scd2"
        self._inputs = [*self._rollup.inputs, *([IS_CURRENT] if self._of_history else [])]
        locator = RowLocator(self._table)
        if self._table.is_current:
            locator.load(self._rollup.load, self._rollup.schema.names())
        self._writer = MergeWriter(self._table, locator)
        self._maintenance = Maintenance(self._table, locator, self._lake.retention)
        self._position = self._table.positions([self._silver]).get(self._silver) if self._table.is_current else None

    @property
    def _silver_uri(self) -> str:
        return self._lake.silver(self._silver)

    def _refresh(self, handovers: Sequence[Handover]) -> list[Refreshed]:
        before = self._position
        waiting: list[Handover] = []
        for handover in handovers:
            reached = waiting[-1].version if waiting else self._position
            if reached is not None and handover.version <= reached:
                continue
            if handover.from_version == reached:
                waiting.append(handover)
            else:
                self._take(waiting)
                waiting = []
                self._catch_up(handover.version)
        self._take(waiting)
        return [Refreshed(self._kpi.name, self._position)] if self._position not in (None, before) else []

    def _take(self, handovers: Sequence[Handover]) -> None:
        if handovers:
            before = pl.concat([handover.before[self._inputs] for handover in handovers])
            after = pl.concat([handover.after[self._inputs] for handover in handovers])
            self._advance_to(handovers[-1].version, before, after)

    def _catch_up(self, version: int) -> None:
        if self._position is None:
            self._make_anew(version)
        while self._position is not None and self._position < version:
            step = min(self._position + _FEED_STEP, version)
            schema = pl.Schema({name: self._kpi.source.row_schema[name] for name in self._inputs})
            try:
                images = read_changes(self._silver_uri, self._position, step, schema)
            except HoleError:
                self._make_anew(version)
            else:
                if images.before.height or images.after.height:
                    self._advance_to(step, images.before, images.after)
                self._position = step  # versions that changed no row need no commit

    def _advance_to(self, version: int, before: pl.DataFrame, after: pl.DataFrame) -> None:
        changes = self._rollup.plan(self._counted(before), self._counted(after))
        self._writer.merge(row_changes(changes), self._said(version))
        self._rollup.apply(changes)
        self._position = version
        self._maintenance.tick()

    def _make_anew(self, version: int) -> None:
        """Replace whatever the table holds by the KPI over all rows of Silver at `version`."""
        silver = DeltaTable(self._silver_uri, version=version)
        rows = self._counted(pl.scan_delta(silver).select(self._inputs).collect())
        self._table.replace(self._rollup.batch(rows), self._said(version))
        self._open()

    def _counted(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return the rows that a KPI is made of: of a history, the current ones."""
        return rows_where(rows, rows[IS_CURRENT].to_numpy()) if self._of_history else rows

    def _said(self, version: int) -> Commit:
        ledger = {"silver": self._silver, "from_version": self._position, "version": version}
        return Commit({self._silver: version}, ledger)
