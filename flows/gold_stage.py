"""The stage that keeps a Gold table: advance it from the Silver version it holds to a newer one."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
from deltalake import DeltaTable

from flows.arrow import arrow_schema
from flows.kpi import Kpi
from flows.lake import Lake
from flows.silver_stage import Handover
from flows.stage import advance
from storage.change_feed import read_changes
from storage.merge_writer import RewriteMergeWriter, RowChanges
from storage.table import Commit, OwnedTable


@dataclass(frozen=True, slots=True)
class Refreshed:
    """A Gold table now shows its Silver table at `silver_version`."""

    kpi: str
    silver_version: int


class GoldStage:
    """Refreshes the Gold table of one KPI; its position is the version of the Silver table it has seen.

    Changes come handed over in memory. Where they do not continue at the position, the versions in between are read
    from Silver's change feed first; a new table starts with all rows of Silver.
    """

    def __init__(self, kpi: Kpi, lake: Lake, pipeline: str) -> None:
        self._kpi, self._lake, self._pipeline = kpi, lake, pipeline
        self._silver = kpi.source.name
        self._open()

    def advance(self, handovers: Sequence[Handover]) -> list[Refreshed]:
        """Commit what is new of `handovers`, in order of version."""
        return advance(lambda: self._refresh(handovers), self._open)

    def _open(self) -> None:
        self._rollup = self._kpi.rollup()
        self._table = OwnedTable(self._lake.gold(self._kpi.name), arrow_schema(self._rollup.schema), self._pipeline)
        self._writer = RewriteMergeWriter(self._table, self._rollup.grain)
        self._position = self._table.positions([self._silver]).get(self._silver)
        self._rollup.load(self._table.read())

    def _refresh(self, handovers: Sequence[Handover]) -> list[Refreshed]:
        reached = self._position
        before, after = [self._nothing()], [self._nothing()]
        for handover in handovers:
            if reached is None:
                after.append(self._all_of_silver(handover.version))
            elif handover.version > reached:
                if handover.from_version != reached:
                    missing = self._feed(reached, handover.from_version)
                    before.append(missing.before)
                    after.append(missing.after)
                before.append(handover.before.select(self._rollup.inputs))
                after.append(handover.after.select(self._rollup.inputs))
            reached = max(handover.version, reached or 0)
        if reached is None or reached == self._position:
            return []
        self._commit(pl.concat(before), pl.concat(after), reached)
        return [Refreshed(self._kpi.name, reached)]

    def _commit(self, before: pl.DataFrame, after: pl.DataFrame, version: int) -> None:
        changes = self._rollup.plan(before, after)
        rows = RowChanges(changes.inserted, changes.updated_from, changes.updated_to, changes.deleted)
        ledger = {"silver": self._silver, "from_version": self._position, "version": version}
        self._writer.merge(rows, Commit({self._silver: version}, ledger))
        self._rollup.apply(changes)
        self._position = version

    def _nothing(self) -> pl.DataFrame:
        return pl.DataFrame(schema={name: self._kpi.source.schema[name] for name in self._rollup.inputs})

    def _all_of_silver(self, version: int) -> pl.DataFrame:
        table = DeltaTable(self._lake.silver(self._silver), version=version)
        return pl.scan_delta(table).select(self._rollup.inputs).collect()

    def _feed(self, after_version: int, version: int) -> Handover:
        schema = self._nothing().schema
        images = read_changes(self._lake.silver(self._silver), after_version, version, schema)
        return Handover(self._silver, after_version, version, images.before, images.after)
