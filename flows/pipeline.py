"""Declaring a pipeline: the tables, and where they live."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from bytewax.dataflow import Dataflow

from flows.batching import Batching
from flows.dataflow import build
from flows.kpi import Kpi
from flows.lake import Lake
from flows.names import checked_name
from flows.run import Run
from flows.settings import Settings
from flows.silver import Silver
from flows.stages.learned import as_learned
from flows.stages.tables import ambiguous_table, gold_table, quarantine_table, side_table, silver_table, staging_table
from operators.declared import check_fields
from operators.schema import DeclarationError
from storage.delta.table_declaration import check_table
from storage.errors import StorageError

_LEAST_RETENTION = timedelta(minutes=1)


@dataclass(frozen=True, eq=False)
class Pipeline:
    """Silver tables and the KPIs over them, in one lake.

    `lake` is a directory or URL; the environment's `GOLDWAX_LAKE` wins over it. `max_rows` and `max_delay` say when
    a batch is committed: when so many rows wait, or the first of them has waited so long. For `retention` readers
    can use, and go back to, older versions of a table; then the files only these have are removed.

    Raises DeclarationError.
    """

    name: str
    tables: Sequence[Silver | Kpi]
    lake: str = "lake"
    max_rows: int = 200_000
    max_delay: timedelta = timedelta(milliseconds=50)
    retention: timedelta = timedelta(hours=1)

    def __post_init__(self) -> None:
        checked_name("Pipeline", self.name)
        check_fields(self)
        try:
            self._check_tables()
            self._check_times()
            _root(self.lake)
        except DeclarationError as error:
            raise DeclarationError(f"Pipeline {self.name!r}: {error}") from None

    @property
    def silvers(self) -> list[Silver]:
        """The Silver tables."""
        return [table for table in self.tables if isinstance(table, Silver)]

    @property
    def kpis(self) -> list[Kpi]:
        """The KPIs."""
        return [table for table in self.tables if isinstance(table, Kpi)]

    def lake_of(self, settings: Settings) -> Lake:
        """Return the lake that a run with these settings writes. Raises DeclarationError for one that cannot be."""
        return Lake(_root(settings.lake or self.lake), self.retention)

    def dataflow(self, *, tail: bool = True) -> Dataflow:
        """Return the dataflow for `python -m bytewax.run`; without `tail` it ends where the topics end now.

        Exits with a message when a source cannot be read or a table cannot be written.
        """
        settings = Settings.from_environment()
        batching = Batching(self.max_rows, self.max_delay)
        try:
            run = Run(self.name, self.lake_of(settings), settings, batching, tail=tail)
            flow = build(self.silvers, self.kpis, run)
            self._check(run)
        except (DeclarationError, StorageError) as error:
            sys.exit(f"goldwax: {self.name}: {error}")
        return flow

    def _check_tables(self) -> None:
        names = [table.name for table in self.tables]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise DeclarationError(f"two tables are named {twice[0]!r}; rename one")
        for kpi in self.kpis:
            if kpi.source not in self.silvers:
                raise DeclarationError(
                    f"Kpi {kpi.name!r} reads Silver {kpi.source.name!r}, which is not among the tables; add it"
                )
        if not self.silvers:
            raise DeclarationError("expected at least one Silver table")

    def _check_times(self) -> None:
        if self.max_rows < 1:
            raise DeclarationError(f"max_rows: received {self.max_rows}, expected at least 1")
        if self.max_delay < timedelta(0):
            raise DeclarationError(f"max_delay: received {self.max_delay}, expected timedelta(0) or more")
        if self.retention < _LEAST_RETENTION:
            raise DeclarationError(
                f"retention is {self.retention}, expected at least {_LEAST_RETENTION}: readers and merges that are "
                "under way use files for so long"
            )

    def _check(self, run: Run) -> None:
        """Find out now, with a clear message, what would stop the workers later."""
        for declared in self.silvers:
            silver = as_learned(declared, run.lake)
            check_table(run.lake.silver(silver.name), silver_table(silver, self.name))  # says most of what differs
            check_table(run.lake.staging(silver.name), staging_table(silver, self.name))
            check_table(run.lake.quarantine(silver.name), quarantine_table(self.name))
            check_table(run.lake.side(silver.name), side_table(silver, self.name))
            check_table(run.lake.ambiguous(silver.name), ambiguous_table(silver, self.name))
        for kpi in self.kpis:
            check_table(run.lake.gold(kpi.name), gold_table(kpi, self.name))


def _root(lake: str) -> str:
    """Return where the layers of a lake are. Raises DeclarationError for the root of a file system or a store."""
    root = lake.rstrip("/")
    if not root or root.endswith(":"):
        raise DeclarationError(
            f"lake: received {lake!r}, expected a directory or URL with a path of its own, as 'lake' or "
            "'s3://bucket/lake'"
        )
    return root
