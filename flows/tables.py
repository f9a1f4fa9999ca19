"""What each table of a pipeline is declared to be, for its owner and for the check before a run."""

import polars as pl
import pyarrow as pa

from flows.event_batch import QUARANTINE, staging_schema
from flows.kpi import Kpi
from flows.silver import Silver
from operators.line import EVENT
from operators.outcomes import pair_schema
from operators.technical import TECHNICAL
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
    """Return the table beside a Silver table, of the events that no row shows."""
    staged = staging_schema(silver.schema)
    schema = pl.Schema({name: staged[name] for name in [*EVENT, *silver.schema]})
    return Declaration(_arrow(schema), pipeline, _definition(silver) + _history(silver), vectors=True)


def ambiguous_table(silver: Silver, pipeline: str) -> Declaration:
    """Return the table of the ambiguous pairs of a Silver table."""
    event = pl.Schema({**TECHNICAL, **silver.schema})
    schema = pair_schema(event, [*silver.schema], silver.keys)
    return Declaration(_arrow(schema), pipeline, "pairs of events that have no order")


def gold_table(kpi: Kpi, pipeline: str, silver_id: str = "") -> Declaration:
    """Return the Gold table of a KPI over the Silver table that was made with this id."""
    definition = f"group_by {list(kpi.group_by)}, {kpi.window}, {dict(kpi.measures)}, {kpi.source.name} {silver_id}"
    return Declaration(_arrow(kpi.rollup().schema), pipeline, definition, derived=True, vectors=_vectors(kpi))


def _vectors(table: Silver | Kpi) -> bool:
    return table.strategy == "deletion_vectors"


def _definition(silver: Silver) -> str:
    source = silver.source
    return f"topic {source.topic}, {source.format}, keys {list(silver.keys)}, sequence_by {silver.sequence_by}"


def _history(silver: Silver) -> str:
    history = f", history {silver.history}, track {silver.track}" if silver.history != "scd1" else ""
    return history + (f", ties {silver.ties}" if silver.ties == "quarantine" else "")


def _arrow(schema: pl.Schema) -> pa.Schema:
    """Return the Arrow schema that a Delta table is made with; every column may be NULL."""
    return pl.DataFrame(schema=schema).to_arrow(compat_level=pl.CompatLevel.oldest()).schema
