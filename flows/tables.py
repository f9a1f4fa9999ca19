"""What each table of a pipeline is declared to be, for its owner and for the check before a run."""

import polars as pl
import pyarrow as pa

from flows.event_batch import QUARANTINE, staging_schema
from flows.kpi import Kpi
from flows.silver import Silver
from flows.snapshots import Snapshots
from operators.line import EVENT
from storage.table_declaration import Declaration


def staging_table(silver: Silver, pipeline: str) -> Declaration:
    """Return the staging table of a Silver table."""
    return Declaration(_arrow(staging_schema(silver.schema)), pipeline, _definition(silver))


def quarantine_table(pipeline: str) -> Declaration:
    """Return a quarantine table."""
    return Declaration(_arrow(QUARANTINE), pipeline, "records that could not become rows")


def silver_table(silver: Silver, pipeline: str) -> Declaration:
    """Return a Silver table."""
    schema, definition = _arrow(silver.row_schema), _definition(silver) + _history(silver)
    return Declaration(schema, pipeline, definition, change_feed=True, vectors=_vectors(silver))


def side_table(silver: Silver, pipeline: str) -> Declaration:
    """Return the table beside a history, of the events that no row shows."""
    staged = staging_schema(silver.schema)
    schema = pl.Schema({name: staged[name] for name in [*EVENT, *silver.schema]})
    return Declaration(_arrow(schema), pipeline, _definition(silver) + _history(silver))


def gold_table(kpi: Kpi, pipeline: str, silver_id: str = "") -> Declaration:
    """Return the Gold table of a KPI over the Silver table that was made with this id."""
    definition = f"group_by {list(kpi.group_by)}, {kpi.window}, {dict(kpi.measures)}, {kpi.source.name} {silver_id}"
    return Declaration(_arrow(kpi.rollup().schema), pipeline, definition, derived=True, vectors=_vectors(kpi))


def _vectors(table: Silver | Kpi) -> bool:
    return table.strategy == "deletion_vectors"


def _definition(silver: Silver) -> str:
    """Return what the rows depend on; snapshots beside a stream are events like its own, and may be declared later."""
    source = silver.source
    kind = f"snapshots by {source.version_type}" if isinstance(source, Snapshots) else f"{source.format}"
    return f"topic {source.topic}, {kind}, keys {list(silver.keys)}, sequence_by {silver.sequence_by}"


def _history(silver: Silver) -> str:
    return f", history {silver.history}, track {silver.track}" if silver.history != "scd1" else ""


def _arrow(schema: pl.Schema) -> pa.Schema:
    """Return the Arrow schema that a Delta table is made with; every column may be NULL."""
    return pl.DataFrame(schema=schema).to_arrow(compat_level=pl.CompatLevel.oldest()).schema
